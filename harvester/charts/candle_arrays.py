"""Candles as the arrays that a chart draws, with their texts."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.kraken.pairs import Pair
from harvester.times import Interval, Range, show_short

# --- texts ----------------------------------------------------------------------------------------

_ENTITIES = {ord(char): f"&#{ord(char)};" for char in "&<>\"'{}$"}
"""Plotly interprets tags, `%{...}` and, with MathJax, `$...$` in texts."""


def escape_for_plotly(text: str) -> str:
    """Escape a text so that plotly shows it as it is."""
    shown = (char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return "".join(shown).translate(_ENTITIES)


def format_decimal(number: Decimal, min_decimals: int = 0) -> str:
    """Format a number without trailing zeros.

    Args:
        number: the number.
        min_decimals: this many decimals at least.
    """
    text = f"{number:,f}"
    whole, point, fraction = text.partition(".")
    fraction = fraction.rstrip("0").ljust(min_decimals, "0")
    return f"{whole}.{fraction}" if point and fraction else whole


# --- candles --------------------------------------------------------------------------------------

Floats = NDArray[np.float64]
VOLUMES = ("buy_volume", "sell_volume", "unknown_volume")
_READ = (
    *("open", "high", "low", "close", "vwap", "volume", "count"),
    *("buy_volume", "sell_volume", "is_complete"),
)
INCOMPLETE = "incomplete"


class CandleArrays(NamedTuple):
    """Candles in order of time, each array of shape (candles,).

    Attributes:
        opens_ns: when each opens.
        width_ns: how long each is; an average for months, quarters and years.
        columns: floats by name: open, high, low, close, vwap (nan where there is none), and
            volume by the taker's side, `unknown_volume` where the side is not known.
        hover_texts: the values of each candle as a tuple of texts.
    """

    opens_ns: NDArray[np.int64]
    width_ns: int
    columns: dict[str, Floats]
    hover_texts: list[tuple[str, ...]]

    @property
    def range(self) -> Range:
        """From the opening of the first candle to the end of the last."""
        return Range(int(self.opens_ns[0]) - 1, int(self.opens_ns[-1]) + self.width_ns - 1)

    def centers(self, opens_ns: NDArray[np.int64]) -> NDArray[np.datetime64]:
        """Where candles that open at some times are drawn: in the middle, in microseconds."""
        return (opens_ns + self.width_ns // 2).astype("datetime64[ns]").astype("datetime64[us]")


def candle_arrays(table: pa.Table, interval: Interval, pair: Pair) -> CandleArrays:
    """Convert a table of candles to arrays.

    Args:
        table: at least one candle, with all columns.
        interval: of the candles.
        pair: its decimals format the prices.
    """
    rows: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in _READ}
    known = zip(rows["volume"], rows["buy_volume"], rows["sell_volume"], strict=True)
    rows["unknown_volume"] = [volume - buy - sell for volume, buy, sell in known]
    opens_ns = table.column("time").cast(pa.int64()).to_numpy()
    names = ("open", "high", "low", "close", "vwap", *VOLUMES)
    return CandleArrays(
        opens_ns,
        interval.average_width_ns,
        {name: np.array(rows[name], dtype=np.float64) for name in names},
        _hover_texts(opens_ns, rows, pair.pair_decimals),
    )


def _hover_texts(
    opens_ns: NDArray[np.int64], rows: dict[str, list[Any]], decimals: int
) -> list[tuple[str, ...]]:
    def column(name: str, min_decimals: int = 0) -> list[str]:
        return [format_decimal(row, min_decimals) for row in rows[name]]

    # A vwap is a quotient, not a price: it has two decimals more.
    vwaps = ["none" if row is None else f"{Decimal(row):,.{decimals + 2}f}" for row in rows["vwap"]]
    return list(
        zip(
            [show_short(open_ns) for open_ns in opens_ns.tolist()],
            *(column(name, decimals) for name in ("open", "high", "low", "close")),
            vwaps,
            *(column(name) for name in ("volume", "buy_volume", "sell_volume")),
            [f"{row:,}" for row in rows["count"]],
            ["" if whole else f"<br><i>{INCOMPLETE}</i>" for whole in rows["is_complete"]],
            strict=True,
        )
    )


def line_breaks(candles: CandleArrays, gaps: Sequence[Range]) -> list[int]:
    """The indexes of candles before which a line breaks, as candles are missing in a gap there.

    Args:
        candles: of the chart.
        gaps: ranges that are not downloaded.
    """
    ends_ns = candles.opens_ns + candles.width_ns
    after = np.searchsorted(ends_ns, [gap.through + 1 for gap in gaps], side="right")
    apart = np.diff(candles.opens_ns, prepend=candles.opens_ns[0]) > candles.width_ns * 3 // 2
    inside = after < len(candles.opens_ns)
    return sorted({int(index) for index in after[inside] if apart[index]})
