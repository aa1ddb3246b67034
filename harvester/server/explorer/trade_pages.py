"""Pages of trades around a place in the trade history, without reading the rest of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from harvester.errors import UsageError, brief
from harvester.exporters.formats import as_text
from harvester.query.result import Result
from harvester.schema import times
from harvester.times import SECOND, Range, parse_moment, show

MAX_TRADES = 500
FIRST_WINDOW_NS = 60 * SECOND
WINDOW_FACTOR = 8
"""To find trades before a moment, ever longer windows are read until one has enough."""

LATEST_NS = 7_258_118_400 * SECOND
"""2200-01-01: later times are cut to this, so that no bound leaves the range of times."""

TradeRow = dict[str, Any]
"""A trade as texts, by column, and `time_ns`: its UNIX nanoseconds, which no float can have."""


class TradeArchive(Protocol):
    """What is read of an archive."""

    def coverage(self, pair: str) -> list[Range]:
        """The covered ranges of a pair."""
        ...

    def trades(self, pair: str, *, since: str, until: str | None = None) -> Result:
        """The trades of a range."""
        ...


class TradePlace(NamedTuple):
    """The place of a trade in the history: its published time and its tie."""

    time_ns: int
    tie: int


def trade_page(
    archive: TradeArchive, pair: str, place: str, count: int, now_ns: int
) -> list[TradeRow]:
    """Return some trades in the exchange's order.

    Args:
        archive: where the trades are.
        pair: its name in any spelling.
        place: `newest`, `oldest`, `at:TIME` for those around a time, or `after:TIME.TIE` and
            `before:TIME.TIE` for the trades next to one, by its UNIX nanoseconds and its tie.
        count: how many, 500 at most.
        now_ns: the present time.

    Raises:
        NothingStored: the archive has no trades of the pair.
        UsageError: the place or the count can't be read.
        ArchiveDamaged: a file can't be read.
    """
    if not 1 <= count <= MAX_TRADES:
        raise UsageError(f"count is {count}: give 1 to {MAX_TRADES}")
    kind, _, rest = place.partition(":")
    if kind == "oldest":
        return _from(archive, pair, TradePlace(0, 0), count)
    if kind == "newest":
        return _before(archive, pair, TradePlace(LATEST_NS, 0), count)
    if kind == "at":
        at = TradePlace(min(parse_moment(rest, now_ns), LATEST_NS), 0)
        before = _before(archive, pair, at, count // 2)
        return [*before, *_from(archive, pair, at, count - len(before))]
    if kind == "after":
        time_ns, tie = _parse_place(rest)
        return _from(archive, pair, TradePlace(time_ns, tie + 1), count)
    if kind == "before":
        return _before(archive, pair, _parse_place(rest), count)
    raise UsageError(
        f"{brief(place)!r} is not a place: give newest, oldest, at:TIME, after:TIME.TIE or "
        "before:TIME.TIE"
    )


def _parse_place(text: str) -> TradePlace:
    time_text, _, tie_text = text.partition(".")
    if not all(
        part.isascii() and part.isdigit() and len(part) <= most
        for part, most in ((time_text, 19), (tie_text, 9))
    ):
        raise UsageError(f"{brief(text)!r} is not a place: give UNIX nanoseconds, a dot and a tie")
    return TradePlace(min(int(time_text), LATEST_NS), int(tie_text))


def _from(archive: TradeArchive, pair: str, place: TradePlace, count: int) -> list[TradeRow]:
    """The first trades at or after a place."""
    found: list[TradeRow] = []
    for batch in _batches(archive, pair, place.time_ns, None):
        # Rows of the place's own time may come before it, at most as many as its tie.
        rows = _rows(batch.slice(0, count + place.tie))
        found += [row for row in rows if _place_of(row) >= place]
        if len(found) >= count:
            break
    return found[:count]


def _before(archive: TradeArchive, pair: str, place: TradePlace, count: int) -> list[TradeRow]:
    """The last trades before a place, in order."""
    covered = archive.coverage(pair)
    if not covered or not count:
        return []
    end_ns = min(place.time_ns, covered[-1].through) + 1
    window_ns = FIRST_WINDOW_NS
    while True:
        since_ns = max(end_ns - window_ns, 0)
        tail: deque[pa.RecordBatch] = deque()
        kept = 0
        for batch in _batches(archive, pair, since_ns, end_ns):
            before = _part_before(batch, place)
            tail.append(before.slice(max(before.num_rows - count, 0)))
            kept += tail[-1].num_rows
            while kept - tail[0].num_rows >= count:
                kept -= tail.popleft().num_rows
        if kept >= count or since_ns <= max(covered[0].after, 0):
            return [row for batch in tail for row in _rows(batch)][-count:]
        window_ns *= WINDOW_FACTOR


def _part_before(batch: pa.RecordBatch, place: TradePlace) -> pa.RecordBatch:
    """The rows of a batch before a place: a batch is in order."""
    stamps, ties = times(batch), batch.column("tie").to_numpy()
    is_before = (stamps < place.time_ns) | ((stamps == place.time_ns) & (ties < place.tie))
    return batch.slice(0, int(is_before.sum()))


def _batches(
    archive: TradeArchive, pair: str, since_ns: int, until_ns: int | None
) -> Iterator[pa.RecordBatch]:
    until = None if until_ns is None else show(until_ns)
    yield from archive.trades(pair, since=show(since_ns), until=until).to_arrow_reader()


def _rows(batch: pa.RecordBatch) -> list[TradeRow]:
    rows: list[TradeRow] = as_text(batch).to_pylist()
    for row, time_ns in zip(rows, times(batch).tolist(), strict=True):
        row["time_ns"] = str(time_ns)
    return rows


def _place_of(row: TradeRow) -> TradePlace:
    return TradePlace(int(row["time_ns"]), row["tie"])
