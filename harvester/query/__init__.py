"""Queries on the archive with DuckDB: candles, bars, SQL views, roll-ups and results."""
