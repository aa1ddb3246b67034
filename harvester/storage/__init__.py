"""The disk: immutable segments, coverage by their names, one writer a pair."""
