"""Candles to look at: a figure, a page that needs no network, an image."""
