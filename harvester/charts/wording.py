"""Text for a chart: figures to the digit, and names of others that are only ever text."""

from __future__ import annotations

from decimal import Decimal

_ENTITIES = {ord(one): f"&#{ord(one)};" for one in "&<>\"'{}$"}
"""Plotly reads tags, `%{...}` and, where MathJax is, `$...$` in what it shows."""


def plain(text: str) -> str:
    """A text that plotly shows as it stands, whatever is in it."""
    shown = (one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return "".join(shown).translate(_ENTITIES)


def digits(number: Decimal, least: int = 0) -> str:
    """A number to its last digit that is not 0, with as many decimals as `least` at least."""
    text = f"{number:,f}"
    whole, point, fraction = text.partition(".")
    fraction = fraction.rstrip("0").ljust(least, "0")
    return f"{whole}.{fraction}" if point and fraction else whole
