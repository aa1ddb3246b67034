"""The candles of a chart as arrays: where each is drawn, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.charts.coarser import length_ns
from harvester.charts.wording import digits
from harvester.kraken.pairs import Pair
from harvester.times import Interval, Range, show_short

Floats = NDArray[np.float64]
VOLUMES = ("buy_volume", "sell_volume", "unknown_volume")
_READ = (
    *("open", "high", "low", "close", "vwap", "volume", "count"),
    *("buy_volume", "sell_volume", "is_complete"),
)
NOT_WHOLE = "not held whole"


class Candles(NamedTuple):
    """Candles in order of time, each array of shape (candles,).

    Attributes:
        opens_ns: when each opens.
        width_ns: how long each is, or about so.
        columns: floats by name: open, high, low, close, vwap (nan where there is none), and
            volume by the taker's side, `unknown_volume` where none is known.
        told: what is said of each, one tuple of texts a candle.
    """

    opens_ns: NDArray[np.int64]
    width_ns: int
    columns: dict[str, Floats]
    told: list[tuple[str, ...]]

    @property
    def range(self) -> Range:
        """From when the first one opens to when the last one ends."""
        return Range(int(self.opens_ns[0]) - 1, int(self.opens_ns[-1]) + self.width_ns - 1)

    def place(self, stamps_ns: NDArray[np.int64]) -> NDArray[np.datetime64]:
        """Where candles that open at some moments are drawn: amid their time, to the µs."""
        return (stamps_ns + self.width_ns // 2).astype("datetime64[ns]").astype("datetime64[us]")


def arranged(table: pa.Table, interval: Interval, pair: Pair) -> Candles:
    """Candles with all columns, at least one, as a chart has them."""
    rows: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in _READ}
    known = zip(rows["volume"], rows["buy_volume"], rows["sell_volume"], strict=True)
    rows["unknown_volume"] = [volume - buy - sell for volume, buy, sell in known]
    opens_ns = table.column("time").cast(pa.int64()).to_numpy()
    names = ("open", "high", "low", "close", "vwap", *VOLUMES)
    return Candles(
        opens_ns,
        length_ns(interval),
        {name: np.array(rows[name], dtype=np.float64) for name in names},
        _told(opens_ns, rows, pair.pair_decimals),
    )


def _told(
    opens_ns: NDArray[np.int64], rows: dict[str, list[Any]], decimals: int
) -> list[tuple[str, ...]]:
    def prices(name: str) -> list[str]:
        return [digits(one, decimals) for one in rows[name]]

    def volumes(name: str) -> list[str]:
        return [digits(one) for one in rows[name]]

    return list(
        zip(
            [show_short(one) for one in opens_ns.tolist()],
            prices("open"),
            prices("high"),
            prices("low"),
            prices("close"),
            [_vwap(one, decimals) for one in rows["vwap"]],
            volumes("volume"),
            volumes("buy_volume"),
            volumes("sell_volume"),
            [f"{one:,}" for one in rows["count"]],
            ["" if whole else f"<br><i>{NOT_WHOLE}</i>" for whole in rows["is_complete"]],
            strict=True,
        )
    )


def _vwap(given: float | None, decimals: int) -> str:
    """A vwap with two decimals more than the pair's prices have; it is a quotient, not a price."""
    if given is None:
        return "none"
    return f"{Decimal(given):,.{decimals + 2}f}"


def broken(candles: Candles, holes: Sequence[Range]) -> list[int]:
    """The places before which a line over candles breaks: a hole took candles away there."""
    ends_ns = candles.opens_ns + candles.width_ns
    behind = np.searchsorted(ends_ns, [hole.through + 1 for hole in holes], side="right")
    apart = np.diff(candles.opens_ns, prepend=candles.opens_ns[0]) > candles.width_ns * 3 // 2
    inside = behind < len(candles.opens_ns)
    return sorted({int(one) for one in behind[inside] if apart[one]})
