"""Which file answers which part of a query (trades, roll-up or shared scan), and SQL to read them.

In this module SQL names `place` a trade's position in the trade history: a BIGINT that grows in
the exchange's order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from harvester.errors import BadInterval
from harvester.query.calendar import Grid
from harvester.storage.segment import RollUp, Segment
from harvester.storage.trade_store import Piece, TradeStore
from harvester.times import Range, overlap, parse_interval

# --- trades ---------------------------------------------------------------------------------------


def text_literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def quoted_name(name: str) -> str:
    """Return a name, such as a column's, as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def path_literal(path: str) -> str:
    """Return a path as an SQL literal in which DuckDB sees no wildcards."""
    return text_literal("".join(f"[{char}]" if char in "*?[" else char for char in path))


_TRADES = {
    "trade_id": "BIGINT",
    "time": "TIMESTAMP_NS",
    "price": "DECIMAL(18, 10)",
    "volume": "DECIMAL(22, 8)",
    "side": "VARCHAR",
    "place": "BIGINT",
}


def no_rows_sql(columns: Mapping[str, str]) -> str:
    """Return a query without rows; `columns` are the DuckDB types by column name."""
    nulls = ", ".join(f"NULL::{kind} AS {name}" for name, kind in columns.items())
    return f"SELECT {nulls} WHERE false"


def position_sql(files_before: int) -> str:
    """Return SQL for a row's position in the trade history, a BIGINT.

    `files_before` files come before those that are read. A file has far fewer than 2^40 rows, and
    there are fewer than 2^23 files. DuckDB counts files unsigned and rows signed: without the
    cast, the result would have 128 bits.
    """
    return f"((file_index::BIGINT + {files_before}) << 40 | file_row_number)"


def trades_sql(archive: TradeStore, pieces: Sequence[Piece], files_before: int = 0) -> str:
    """Return a query for the trades of some pieces.

    Its columns are trade_id, time, price, volume, side and `place`. `file_index` counts along the
    list of files, whatever their names are, so the position is right even where ids are missing
    and several rows have one time.

    Args:
        archive: where the files are.
        pieces: in order.
        files_before: how many files come before these in the trade history.
    """
    if not pieces:
        return no_rows_sql(_TRADES)
    files = ", ".join(path_literal(archive.location(piece.segment)) for piece in pieces)
    where = " AND ".join(range_conditions(pieces)) or "true"
    return (
        f"SELECT trade_id, time, price, volume, side, {position_sql(files_before)} AS place\n"
        f"FROM read_parquet([{files}], hive_partitioning = false)\nWHERE {where}"
    )


def range_conditions(pieces: Sequence[Piece]) -> list[str]:
    """Return the SQL conditions that select the pieces' rows; none for complete files.

    The pieces are in order and adjacent, except for gaps in the coverage. The conditions compare
    `time` with literals, so DuckDB does not read row groups outside.
    """
    conditions = []
    first, last = pieces[0], pieces[-1]
    if first.within.after > first.segment.range.after:
        conditions.append(f"time > make_timestamp_ns({first.within.after})")
    if last.within.through < last.segment.range.through:
        conditions.append(f"time <= make_timestamp_ns({last.within.through})")
    # After an interrupted compaction files overlap: each moment is read from one file only.
    conditions += [
        f"(file_index <> {index} OR time > make_timestamp_ns({piece.within.after}))"
        for index, piece in enumerate(pieces)
        if index and piece.within.after > piece.segment.range.after
    ]
    return conditions


# --- aggregates -----------------------------------------------------------------------------------

# SQL formulas over trades.
CANDLE_AGGREGATES = {
    "open": "arg_min(price, place)",
    "high": "max(price)",
    "low": "min(price)",
    "close": "arg_max(price, place)",
    "value": "sum(price * volume)",
    "volume": "sum(volume)",
    "count": "count(*)",
}
EXTRA_AGGREGATES = {
    "buy_volume": "coalesce(sum(volume) FILTER (side = 'buy'), 0)",
    "sell_volume": "coalesce(sum(volume) FILTER (side = 'sell'), 0)",
    "buy_value": "coalesce(sum(price * volume) FILTER (side = 'buy'), 0)",
    "sell_value": "coalesce(sum(price * volume) FILTER (side = 'sell'), 0)",
    "buy_count": "count(*) FILTER (side = 'buy')",
    "sell_count": "count(*) FILTER (side = 'sell')",
    "first_trade_id": "arg_min(trade_id, place)",
    "last_trade_id": "arg_max(trade_id, place)",
    "first_time": "min(time)",
}
ALL_AGGREGATES = CANDLE_AGGREGATES | EXTRA_AGGREGATES
LAST_TIME = {"last_time": "max(time)"}

# The columns that are 0 in an empty candle, and their types.
ZERO_WHEN_EMPTY = {
    "value": "DECIMAL(38, 18)",
    "volume": "DECIMAL(38, 8)",
    "count": "BIGINT",
    "buy_volume": "DECIMAL(38, 8)",
    "sell_volume": "DECIMAL(38, 8)",
    "buy_value": "DECIMAL(38, 18)",
    "sell_value": "DECIMAL(38, 18)",
    "buy_count": "BIGINT",
    "sell_count": "BIGINT",
}

# SQL formulas over partial candles, which have the columns of the formulas over trades. `place`
# grows along the trade history in both.
MERGE_AGGREGATES = {
    "open": "arg_min(open, place)",
    "high": "max(high)",
    "low": "min(low)",
    "close": "arg_max(close, place)",
    **{
        name: f"sum({name})::BIGINT" if kind == "BIGINT" else f"sum({name})"
        for name, kind in ZERO_WHEN_EMPTY.items()
    },
    "first_trade_id": "arg_min(first_trade_id, place)",
    "last_trade_id": "arg_max(last_trade_id, place)",
    "first_time": "min(first_time)",
    "last_time": "max(last_time)",
}


# --- sources --------------------------------------------------------------------------------------

TRADES_LEVEL = "trades"

MAX_SHARED = 100
"""If files share more intervals than this, all are grouped: DuckDB compares each row with each."""


class Source(NamedTuple):
    """A piece of the trade history, and the file it is read from.

    Attributes:
        piece: part of a segment.
        rollup: the roll-up that is read instead of the segment.
        scan_file: the file of a shared scan that is read instead.
    """

    piece: Piece
    rollup: RollUp | None
    scan_file: str | None = None

    @property
    def level(self) -> str:
        """`trades`, the interval of the roll-up, or an empty text for a shared scan."""
        if self.scan_file is not None:
            return ""
        return TRADES_LEVEL if self.rollup is None else self.rollup.interval

    @property
    def width_ns(self) -> int | None:
        """The width of the roll-up's intervals; None for trades and for a shared scan."""
        return None if self.rollup is None else parse_interval(self.rollup.interval).width_ns

    def location(self, archive: TradeStore) -> str:
        """Return the path or URL by which any Parquet reader opens the file."""
        return self.scan_file or archive.location(self.rollup or self.piece.segment)


def choose_sources(
    archive: TradeStore, rollups: Iterable[RollUp], pieces: Sequence[Piece], grid: Grid
) -> list[Source]:
    """Choose for each piece the coarsest roll-up that the grid allows, otherwise the trades.

    Where a piece begins or ends inside a bucket of the roll-up, its edge is read from trades.

    Args:
        archive: where the files are.
        rollups: of the pair.
        pieces: in order.
        grid: the intervals of the query.

    Raises:
        FileNotFoundError: compaction removed a file: plan again.
    """
    # The roll-ups that divide the grid, with their widths, by the segment's path.
    usable: dict[str, list[tuple[int, RollUp]]] = {}
    for rollup in rollups:
        with suppress(BadInterval):
            width_ns = parse_interval(rollup.interval).width_ns
            if width_ns is not None and grid.is_divisible_by(width_ns):
                usable.setdefault(rollup.segment_path, []).append((width_ns, rollup))
    return [
        source
        for piece in pieces
        for source in _sources_of(
            archive, piece, sorted(usable.get(piece.segment.path, []), reverse=True)
        )
    ]


def _sources_of(
    archive: TradeStore, piece: Piece, rollups: Sequence[tuple[int, RollUp]]
) -> list[Source]:
    """Return what is read of a piece: of the first roll-up that can be used, and of trades."""
    segment, within = piece
    for width_ns, rollup in rollups:
        middle = whole_buckets(piece, width_ns)
        if middle is not None and archive.is_rollup_valid(rollup, segment):
            before = Range(within.after, middle.after)
            after = Range(middle.through, within.through)
            parts = ((before, None), (middle, rollup), (after, None))
            return [
                Source(Piece(segment, part), file)
                for part, file in parts
                if part.after < part.through
            ]
    return [Source(piece, None)]


def whole_buckets(piece: Piece, width_ns: int) -> Range | None:
    """Return the part of a piece that partial candles of its segment answer; None for nothing.

    The first and the last bucket of a segment contain only its trades, so the segment's own
    bounds need not be bounds of buckets.

    Args:
        piece: part of a segment.
        width_ns: the width of the partial candles.
    """
    segment, (after, through) = piece.segment.range, piece.within
    if after > segment.after:
        after = -(-(after + 1) // width_ns) * width_ns - 1
    if through < segment.through:
        through = (through + 1) // width_ns * width_ns - 1
    return Range(after, through) if after < through else None


def aggregate_sql(
    archive: TradeStore, sources: Sequence[Source], grid: Grid, aggregates: dict[str, str]
) -> str:
    """Return a query for `number` and the aggregates of each interval with trades, unsorted.

    Where a roll-up has the grid's own intervals, its rows are the candles, except for an interval
    of which the next file has a part, too. Only those are grouped: it takes longer than reading.

    Args:
        archive: where the files are.
        sources: in order.
        grid: the intervals.
        aggregates: column names and their formulas over trades.
    """
    if not sources:
        return _group_trades_sql(no_rows_sql(_TRADES), grid, aggregates)
    starts_ns = _shared_starts(sources, grid)
    shared = ", ".join(f"make_timestamp_ns({start_ns})" for start_ns in starts_ns)
    candles: list[str] = []
    partials: list[str] = []
    files_before = 0
    # One query for each run of one level: the condition that ends a run of minutes would drop an
    # hour that began before.
    for level, run in groupby(sources, key=lambda source: source.level):
        run_sources = list(run)
        if level == TRADES_LEVEL:
            pieces = [source.piece for source in run_sources]
            trades = trades_sql(archive, pieces, files_before)
            partials.append(_group_trades_sql(trades, grid, aggregates))
        else:
            rows = _partials_sql(archive, run_sources, files_before, grid, aggregates)
            if len(starts_ns) > MAX_SHARED or not grid.is_fixed(run_sources[0].width_ns):
                partials.append(rows)
            elif not shared:
                candles.append(rows)
            else:
                candles.append(f"{rows} AND time NOT IN ({shared})")
                partials.append(f"{rows} AND time IN ({shared})")
        files_before += len(run_sources)
    if len(partials) > 1 or (partials and sources[0].level != TRADES_LEVEL):
        merged = "".join(f",\n    {MERGE_AGGREGATES[name]} AS {name}" for name in aggregates)
        union_all = "\nUNION ALL ".join(partials)
        partials = [f"SELECT number{merged}\nFROM (\n{union_all}\n) GROUP BY number"]
    columns = ", ".join(["number", *aggregates])
    queries = [f"SELECT {columns}\nFROM (\n{sql}\n)" for sql in (*candles, *partials)]
    return "\nUNION ALL ".join(queries)


def _shared_starts(sources: Sequence[Source], grid: Grid) -> list[int]:
    """The starts of the intervals that begin in one source and go on in the next, in ns."""
    ranges = [source.piece.within for source in sources]
    return sorted(
        {
            grid.start_ns(grid.number(after.after + 1))
            for before, after in pairwise(ranges)
            if grid.number(before.through) == grid.number(after.after + 1)
        }
    )


def _group_trades_sql(trades: str, grid: Grid, aggregates: dict[str, str]) -> str:
    columns = "".join(f",\n    {formula} AS {name}" for name, formula in aggregates.items())
    return (
        f"SELECT {grid.number_sql('epoch_ns(time)')} AS number{columns},\n    min(place) AS place\n"
        f"FROM (\n{trades}\n) GROUP BY number"
    )


def _partials_sql(
    archive: TradeStore,
    sources: Sequence[Source],
    files_before: int,
    grid: Grid,
    aggregates: dict[str, str],
) -> str:
    files = ", ".join(path_literal(source.location(archive)) for source in sources)
    columns = "".join(f", {name}" for name in aggregates)
    where = " AND ".join(range_conditions([source.piece for source in sources])) or "true"
    return (
        f"SELECT {grid.number_sql('epoch_ns(time)')} AS number{columns}, "
        f"{position_sql(files_before)} AS place\n"
        f"FROM read_parquet([{files}], hive_partitioning = false)\nWHERE {where}"
    )


# --- shared scan ----------------------------------------------------------------------------------

# A shared scan reads the trades of a pair once for several intervals and keeps partial candles in
# temporary files. They are used like roll-ups, but by range instead of by segment: the trades of a
# covered range never change, even if compaction removes the files meanwhile.


@dataclass(frozen=True, slots=True)
class SharedScan:
    """Partial candles of one width, on the grid of the UNIX epoch.

    Attributes:
        width_ns: divides the grid of every query that uses the scan.
        covered: the ranges of which all trades were read.
        files: the files, as segments whose ranges follow one another, and whose bounds lie between
            partial candles.
    """

    width_ns: int
    covered: Sequence[Range]
    files: Sequence[Segment]

    def sources(self, time_range: Range) -> list[Source]:
        """Return the sources of a query for a range that ends between partial candles."""
        parts = ((file, overlap(file.range, time_range)) for file in self.files)
        return [Source(Piece(file, part), None, file.path) for file, part in parts if part]


def read_segments(sources: Sequence[Source]) -> set[Segment]:
    """The segments whose trades are read because they have no usable roll-up.

    The trades at the edges of roll-ups do not count: they are less than a candle of the roll-up.
    """
    rolled_up = {source.piece.segment for source in sources if source.rollup is not None}
    return {source.piece.segment for source in sources} - rolled_up
