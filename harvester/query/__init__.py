"""Candles from the archive's ticks, in SQL: exact, and the same on every run."""
