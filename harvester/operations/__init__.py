"""What keeps an archive in order night after night, and the record of it."""
