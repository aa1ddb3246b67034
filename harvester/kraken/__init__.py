"""Kraken's public API: client, rate limits, and decoding of trades, candles and pairs."""
