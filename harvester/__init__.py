"""harvester: the whole trade history of any Kraken market, kept exactly, as plain Parquet."""

__version__ = "0.1.0"
