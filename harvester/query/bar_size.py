"""How large a bar is, as typed, and in whole units."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from harvester.errors import BadSetting

By = Literal["trades", "volume", "value"]
BYS: tuple[By, ...] = get_args(By)

DECIMALS = {"trades": 0, "volume": 8, "value": 18}
"""A volume has eight decimals; a price has ten, so that price x volume has eighteen."""

_DIGITS = 38
_NUMBER = re.compile(r"(\d*)(?:\.(\d*))?", re.ASCII)


class BarSize(NamedTuple):
    """What ends a bar: so many trades, so much volume or so much value.

    Attributes:
        by: what is counted.
        text: how much, as typed.
        units: the same in trades, in 1e-8 of volume or in 1e-18 of value.
    """

    by: By
    text: str
    units: int


def parse_size(by: By, text: str) -> BarSize:
    """Read a bar's size: plain digits, for volume and value with a point.

    Raises:
        BadSetting: it counts none of the three, is no number above 0, or has more digits than
            a sum keeps.
    """
    if by not in BYS:
        raise BadSetting(f"bars of {by!r}: give one of {', '.join(BYS)}")
    given, decimals = text.strip(), DECIMALS[by]
    match = _NUMBER.fullmatch(given)
    if match is None or not (match[1] or match[2]):
        example = "such as 1000" if by == "trades" else "such as 10 or 0.5"
        raise BadSetting(f"{by} {text!r} is no number: give plain digits, {example}")
    whole, fraction = match[1].lstrip("0"), (match[2] or "").rstrip("0")
    if len(fraction) > decimals:
        raise BadSetting(f"{by} {text!r}: {_allowed(by)}")
    if len(whole) + decimals > _DIGITS or (by == "trades" and len(whole) > 18):
        raise BadSetting(
            f"{by} {text!r} is more than any bar can reach: give less than "
            f"10^{18 if by == 'trades' else _DIGITS - decimals}"
        )
    units = int((whole + fraction.ljust(decimals, "0")) or "0")
    if units == 0:
        raise BadSetting(f"{by} {text!r} would never end a bar: give more than 0")
    return BarSize(by, given, units)


def _allowed(by: By) -> str:
    if by == "trades":
        return "no trade is ever split: give a whole number"
    return f"a {by} has {DECIMALS[by]} decimals at most"
