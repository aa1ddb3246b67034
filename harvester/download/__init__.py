"""The main job: missing ranges become pages, pages a joined tape, the tape segments."""
