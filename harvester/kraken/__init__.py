"""The exchange: its client, pages, names of pairs, and how fast it may be asked."""
