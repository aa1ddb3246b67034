"""Roll-ups: aggregate trades into exact candles with pyarrow, and store those of each segment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import ArchiveDamaged, BadInterval, ValueDoesNotFit
from harvester.schema import (
    PRICE,
    SUM_OF_VALUES,
    SUM_OF_VOLUMES,
    VOLUME,
    Int64s,
    RowsChecksum,
    decimal_array,
    decimal_words,
    times,
)
from harvester.storage.parquet_files import PARTIALS, PRICES, read_batches
from harvester.storage.segment import RollUp, Segment, rollup_path
from harvester.storage.writer import Progress, Writer
from harvester.times import parse_interval, show

# --- roll-ups -------------------------------------------------------------------------------------


class RollupResult(NamedTuple):
    """The result of building the roll-ups of a pair.

    Attributes:
        pair: altname.
        built: number of roll-up files that were written.
        up_to_date: number of roll-up files that were there already and agree with their segment.
        notes: sentences that the user should read, such as why a segment has no roll-up.
    """

    pair: str
    built: int
    up_to_date: int
    notes: list[str]


def parse_levels(texts: Iterable[str]) -> dict[str, int]:
    """Return the levels of roll-ups and the lengths of their candles (ns), the finest first.

    Raises:
        BadInterval: a text is no interval of fixed length.
    """
    levels = dict[int, str]()
    for level in map(parse_interval, texts):
        if level.width_ns is None:
            raise BadInterval(
                f"rollups contains {level.text!r}, which follows the calendar: "
                "give fixed lengths such as 1m or 1h"
            )
        # The same length may be given twice, such as 1h and 60m.
        levels.setdefault(level.width_ns, level.text)
    return {text: width_ns for width_ns, text in sorted(levels.items())}


def roll_up(
    writer: Writer,
    levels: Mapping[str, int],
    progress: Progress = lambda _pair, _done, _all: None,
) -> RollupResult:
    """Build the roll-ups that a pair's segments lack, or that were built from other rows.

    Args:
        writer: the pair's writer, which holds its lock.
        levels: the roll-ups' levels; see `parse_levels`.
        progress: called after each segment.

    Raises:
        ArchiveDamaged: a segment's rows are not those of its footer; no roll-up is built of them.
        ArchiveUnwritable: the system refused to write.
    """
    result = RollupResult(writer.pair, 0, 0, [])
    segments = writer.archive.segments(writer.pair)
    for done, segment in enumerate(segments, 1):
        if writer.archive.footer(segment).rows:
            built, up_to_date = _roll_up_segment(writer, segment, levels, result.notes)
            result = result._replace(
                built=result.built + built, up_to_date=result.up_to_date + up_to_date
            )
        progress(writer.pair, done, len(segments))
    return result


def _roll_up_segment(
    writer: Writer, segment: Segment, levels: Mapping[str, int], notes: list[str]
) -> tuple[int, int]:
    """Return how many roll-ups were written, and how many were there already."""
    archive = writer.archive
    missing = dict(levels)
    for level in levels:
        rollup = RollUp(level, segment.path, rollup_path(segment, level), 0)
        with suppress(FileNotFoundError):
            if archive.is_rollup_valid(rollup, segment):
                del missing[level]
    up_to_date = len(levels) - len(missing)
    if not missing:
        return 0, up_to_date
    checksum = RowsChecksum()
    partials = PartialCandles(list(missing.values()), f"roll-ups of {segment.path}")
    try:
        for batch in read_batches(archive.store, segment.path):
            checksum.update(batch)
            partials.add(batch)
        batches_by_level = partials.finish()
    except ValueDoesNotFit as reason:
        notes.append(str(reason))
        return 0, up_to_date
    if checksum.hexdigest() != archive.footer(segment).checksum:
        raise ArchiveDamaged(
            f"the rows of {archive.location(segment)} differ from its footer: it was not rolled "
            f"up. `harvester verify {writer.pair}` shows the details"
        )
    for level, batches in zip(missing, batches_by_level, strict=True):
        writer.store_rollup(segment, level, batches)
    return len(missing), up_to_date


class PartialCandles:
    """Builds the partial candles of roll-ups, at several levels, from trades in order."""

    def __init__(self, widths_ns: Sequence[int], what: str) -> None:
        """Start with no trades.

        Args:
            widths_ns: the widths of the candles, the finest first.
            what: names the work in messages.
        """
        self._what = what
        self._levels = [CandleBuilder(width_ns) for width_ns in widths_ns]
        self._batches: list[list[pa.RecordBatch]] = [[] for _ in widths_ns]
        # A level is computed from the coarsest finer one that divides it, or from trades (-1).
        self._sources = [
            max((j for j in range(i) if width_ns % widths_ns[j] == 0), default=-1)
            for i, width_ns in enumerate(widths_ns)
        ]

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the next trades, a batch of `schema.SEGMENT_SCHEMA`.

        Raises:
            ArchiveDamaged: a price or a volume is below 0.
            ValueDoesNotFit: a sum has too many digits.
        """
        self._advance([partials_of_trades(batch, self._what, all_columns=True)])

    def finish(self) -> list[list[pa.RecordBatch]]:
        """Return the candles of all trades: batches of `PARTIALS` for each width."""
        self._advance([], is_end=True)
        return self._batches

    def _advance(self, bars: list[pa.RecordBatch], *, is_end: bool = False) -> None:
        """Add trades as bars; each level passes its complete candles on to coarser ones."""
        complete = {-1: bars}
        for level, candles in enumerate(self._levels):
            done = [candles.add(part) for part in complete[self._sources[level]] if part.num_rows]
            complete[level] = done + candles.finish() if is_end else done
            for part in filter(len, complete[level]):
                opens = begins_ns(part) // candles.width_ns * candles.width_ns
                columns = stored_columns(part, self._what) | {"time": pa.array(opens).cast(TIME)}
                self._batches[level].append(pa.RecordBatch.from_pydict(columns, schema=PARTIALS))


# --- from trades to partial candles ---------------------------------------------------------------

# DuckDB's SQL (`source_choice.CANDLE_AGGREGATES`) is the definition of a candle; `verify` compares
# both. For a small segment pyarrow needs a third of the time, and a download need not load DuckDB.

# A partial candle is a row with the columns of `PARTIALS`, but its value has 76 digits, which no
# sum of stored trades exceeds: a value of one trade has 40. A sum of volumes needs 10^16 trades to
# exceed 38.

TIME = PARTIALS.field("time").type
EXACT_VALUE = pa.decimal256(76, SUM_OF_VALUES.scale)
_WIDE_PRICE = pa.decimal256(PRICE.precision, PRICE.scale)
_WIDE_VOLUME = pa.decimal256(VOLUME.precision, VOLUME.scale)


def partials_of_trades(batch: pa.RecordBatch, what: str, *, all_columns: bool) -> pa.RecordBatch:
    """Return each trade as a partial candle of its own.

    Args:
        batch: the trades, a batch of `schema.SEGMENT_SCHEMA` that is not empty.
        what: names the work in messages.
        all_columns: also return the columns about sides and trade ids.

    Raises:
        ArchiveDamaged: a price or a volume is below 0.
    """
    price, volume, time = (batch.column(name) for name in ("price", "volume", "time"))
    if pc.min(price).as_py() < 0 or pc.min(volume).as_py() < 0:
        stamps = times(batch)
        raise ArchiveDamaged(
            f"{what}: a price or a volume below 0 was published between "
            f"{show(int(stamps[0]))} and {show(int(stamps[-1]))}: nothing can be counted"
        )
    value = pc.multiply(price.cast(_WIDE_PRICE), volume.cast(_WIDE_VOLUME)).view(EXACT_VALUE)
    volume = volume.cast(SUM_OF_VOLUMES)
    columns = dict.fromkeys(PRICES, price)
    columns |= dict.fromkeys(("first_time", "last_time"), time)
    columns |= {"volume": volume, "value": value, "count": pa.array(np.ones(len(price), np.int64))}
    if all_columns:
        sides = batch.column("side")
        for side in ("buy", "sell"):
            code = pc.index(sides.dictionary, side).cast(sides.indices.type)
            is_side = pc.equal(sides.indices, code).fill_null(False)
            columns[f"{side}_volume"] = pc.if_else(is_side, volume, pa.scalar(0, volume.type))
            columns[f"{side}_value"] = pc.if_else(is_side, value, pa.scalar(0, value.type))
            columns[f"{side}_count"] = is_side.cast(pa.int64())
        columns |= dict.fromkeys(("first_trade_id", "last_trade_id"), batch.column("trade_id"))
    return pa.RecordBatch.from_pydict(columns)


def merge_adjacent(partials: pa.RecordBatch, starts: Int64s) -> pa.RecordBatch:
    """Merge neighbouring partial candles.

    Args:
        partials: the partial candles, in order.
        starts: the index of the first one of each group, which ends where the next one starts.
    """
    if len(starts) == partials.num_rows:
        return partials
    ends = np.append(starts[1:], partials.num_rows)
    merged: dict[str, pa.Array] = {}
    summed = {"group": pa.array(np.repeat(np.arange(len(starts)), ends - starts))}
    how = []
    for name, column in zip(partials.schema.names, partials.columns, strict=True):
        way = _MERGE.get(name, "sum")
        if way in ("first", "last") and not column.null_count:
            merged[name] = column.take(pa.array(starts if way == "first" else ends - 1))
        elif way in ("max", "min"):
            # A price fits the low word of its decimal.
            extreme = np.maximum if way == "max" else np.minimum
            merged[name] = decimal_array(PRICE, extreme.reduceat(decimal_words(column)[0], starts))
        elif column.type == pa.int64() and way == "sum":
            merged[name] = pa.array(np.add.reduceat(column.to_numpy(), starts))
        else:
            # Of ids, the first or the last that is not null.
            summed[name] = column
            how.append((name, way))
    # Without threads, the groups come in order.
    sums = pa.table(summed).group_by("group", use_threads=False).aggregate(how)
    merged |= {name: sums.column(f"{name}_{way}").chunk(0) for name, way in how}
    return pa.RecordBatch.from_pydict({name: merged[name] for name in partials.schema.names})


_MERGE = {
    "open": "first",
    "high": "max",
    "low": "min",
    "close": "last",
    "first_time": "first",
    "last_time": "last",
    "first_trade_id": "first",
    "last_trade_id": "last",
}


def continue_partial(
    open_partial: Sequence[pa.RecordBatch], partials: pa.RecordBatch, *, is_continued: bool
) -> pa.RecordBatch:
    """Return an open partial candle, if there is one, and those after it.

    Args:
        open_partial: a batch of one partial candle, or nothing.
        partials: those after it, in order.
        is_continued: whether the first of them is a part of the open one.
    """
    if open_partial and is_continued:
        first = pa.concat_batches([*open_partial, partials.slice(0, 1)])
        open_partial, partials = [merge_adjacent(first, np.array([0]))], partials.slice(1)
    return pa.concat_batches([*open_partial, partials]) if open_partial else partials


def begins_ns(partials: pa.RecordBatch) -> Int64s:
    """Return the published time of each one's first trade in nanoseconds; shape (rows,)."""
    begins: Int64s = partials.column("first_time").cast(pa.int64()).to_numpy()
    return begins


def unscaled_integers(values: pa.Array) -> list[int]:
    """Return decimals or integers, 0 or more and without nulls, in units of their last digit."""
    words = np.frombuffer(values.buffers()[1], dtype=np.uint64)
    words = words.reshape(-1, values.type.bit_width // 64)
    low, *rest = words[values.offset : values.offset + len(values)].T
    numbers: list[int] = low.tolist()
    for i, word in enumerate(rest, 1):
        if word.any():
            pairs = zip(numbers, word.tolist(), strict=True)
            numbers = [number + (high << 64 * i) for number, high in pairs]
    return numbers


def stored_columns(partials: pa.RecordBatch, what: str) -> dict[str, pa.Array]:
    """Return the columns with values of 38 digits, as they are stored and returned.

    Args:
        partials: partial candles.
        what: names the work in messages.

    Raises:
        ValueDoesNotFit: a value has more digits.
    """
    columns = dict(zip(partials.schema.names, partials.columns, strict=True))
    for name, column in columns.items():
        if column.type == EXACT_VALUE:
            index = pc.index(pc.greater_equal(column, _VALUE_END), True).as_py()
            if index >= 0:
                begin_ns = columns["first_time"][index].value
                raise ValueDoesNotFit(
                    f"{what}: the sum of price x volume from {show(begin_ns)} on reaches 10^20, "
                    "more than fits 38 exact digits"
                )
            columns[name] = column.cast(SUM_OF_VALUES)
    return columns


_VALUE_END = pa.scalar(10**20, EXACT_VALUE)


# --- candles --------------------------------------------------------------------------------------


class CandleBuilder:
    """Merges partial candles into candles of one interval. Memory holds the open candle only."""

    def __init__(self, width_ns: int) -> None:
        """Start empty; `width_ns` is the length of a candle."""
        self.width_ns = width_ns
        self._open: list[pa.RecordBatch] = []

    def add(self, partials: pa.RecordBatch) -> pa.RecordBatch:
        """Add the next partial candles, in order; returns the candles that are complete now."""
        numbers = begins_ns(partials) // self.width_ns
        candles = merge_adjacent(partials, np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1)))
        is_continued = (
            bool(self._open) and begins_ns(self._open[0])[0] // self.width_ns == numbers[0]
        )
        candles = continue_partial(self._open, candles, is_continued=is_continued)
        self._open = [candles.slice(candles.num_rows - 1)]
        return candles.slice(0, candles.num_rows - 1)

    def finish(self) -> list[pa.RecordBatch]:
        """Return the open candle, as a batch; nothing if nothing was added."""
        last, self._open = self._open, []
        return last


def candles_of_trades(
    batches: Iterable[pa.RecordBatch], width_ns: int, what: str
) -> Iterator[pa.RecordBatch]:
    """Yield the candles of one interval, in order; their `first_time` is that of a trade.

    Args:
        batches: trades in order, batches of `schema.SEGMENT_SCHEMA` that are not empty.
        width_ns: the length of a candle.
        what: names the work in messages.

    Raises:
        ArchiveDamaged: a price or a volume is below 0.
    """
    candles = CandleBuilder(width_ns)
    for batch in batches:
        yield candles.add(partials_of_trades(batch, what, all_columns=False))
    yield from candles.finish()
