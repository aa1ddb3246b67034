"""When a candle's values are those that the exchange prints."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction

from harvester.kraken.ohlc import VALUES, Candle
from harvester.schema import VOLUME

PRICES = ("open", "high", "low", "close")

_HALF_A_VOLUME_UNIT = Fraction(1, 2 * 10**VOLUME.scale)
_UNIT_ROUNDOFF = Fraction(1, 2**53)
# Wide enough for any number of a candle file.
_EXACT = Context(prec=80)


def wrong_values(
    ours: Candle | None,
    theirs: Candle | None,
    decimals: int,
    names: Sequence[str] = VALUES,
) -> list[str]:
    """The names of the values that differ; of a candle that one side lacks, what was traded.

    Args:
        ours: by the trades held; None where there are none.
        theirs: the exchange's; None where it shows no such candle.
        decimals: the pair's, which prices may be shortened to.
        names: of the values that the exchange tells.
    """
    if ours is None or theirs is None:
        one = theirs if ours is None else ours
        return [name for name in ("volume", "count") if getattr(one, name)]
    return [
        name
        for name in names
        if getattr(ours, name) != getattr(theirs, name)
        and not _is_shortened(ours, theirs, name, decimals)
        and not (name == "volume" and is_float_rounded(ours.volume, theirs.volume, ours.count))
    ]


def shortened_prices(ours: Candle, theirs: Candle, decimals: int) -> int:
    """How many prices the exchange prints with fewer decimals than they were traded at."""
    return sum(
        getattr(ours, name) != getattr(theirs, name) and _is_shortened(ours, theirs, name, decimals)
        for name in PRICES
    )


def is_float_rounded(ours: Decimal, theirs: Decimal, trades: int) -> bool:
    """Whether a printed volume differs from the exact one only by the rounding of a float sum.

    Kraken's candle files of 2021 print volumes that were summed as float64. A sum of n floats that
    are not negative, each the nearest to an exact number, is off by at most n * u / (1 - n * u) of
    the exact sum, in any order, where u = 2**-53 (N. Higham, "Accuracy and Stability of Numerical
    Algorithms", chapter 4). Printing adds half a unit of the last decimal.

    Volumes of trades have eight decimals, so a volume printed with no more is exact. One that is
    off by half a unit of the eighth decimal or more is another volume, however large the sum.

    Args:
        ours: the exact sum.
        theirs: as printed; another number than `ours`.
        trades: how many volumes were summed.
    """
    decimals = decimals_of(_EXACT.normalize(theirs))
    if decimals <= VOLUME.scale:
        return False
    off = abs(Fraction(theirs) - Fraction(ours))
    roundoff = trades * _UNIT_ROUNDOFF
    most = roundoff / (1 - roundoff) * Fraction(ours) + Fraction(1, 2 * 10**decimals)
    return off < _HALF_A_VOLUME_UNIT and off <= most


def decimals_of(number: Decimal) -> int:
    """How many decimals a number is printed with."""
    exponent = number.as_tuple().exponent
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0


def shown(candle: Candle | None, name: str) -> str | None:
    """A value as text, without zeros at its end; None where there is no candle."""
    if candle is None:
        return None
    value = getattr(candle, name)
    if isinstance(value, int):
        return str(value)
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _is_shortened(ours: Candle, theirs: Candle, name: str, decimals: int) -> bool:
    """Whether the exchange prints a price with the pair's decimals, and it was traded at more.

    A pair may have had more decimals once than it has today (XBTUSD: five in 2015, one now).
    Whether the exchange cuts such prices off in its candles, or rounds them, nobody tells.
    """
    our, their = getattr(ours, name), getattr(theirs, name)
    if name not in PRICES or not decimals_of(their) == decimals < decimals_of(our):
        return False
    unit = Decimal(1).scaleb(-decimals)
    return their in (our.quantize(unit, ROUND_DOWN), our.quantize(unit, ROUND_HALF_UP))
