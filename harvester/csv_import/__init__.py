"""Kraken's downloadable CSV archives become segments, losslessly."""
