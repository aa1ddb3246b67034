"""Proves or disproves an archive, and mends it."""
