"""The archive explorer: a page, and tools for assistants, over one read-only service."""
