"""Candles on Apache Spark: `candles` as a DataFrame, `write_candles` as Parquet files.

`python -m harvester.spark ROOT -i 1h -o FOLDER` calls `write_candles`, also under `spark-submit`.
Spark reads the segments and computes in its own processes, which need no harvester. pyspark is the
extra `spark`; docs/other-engines.md explains the use.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

from harvester.argument_types import (
    IntervalLength,
    Moment,
    candle_interval,
    check_types,
    parse_range,
)
from harvester.errors import HarvesterError, NothingStored, ValueDoesNotFit
from harvester.pair_selection import resolve_stored
from harvester.query.calendar import Grid, make_grid
from harvester.query.source_choice import EXTRA_AGGREGATES, LAST_TIME
from harvester.storage.output_files import check_outside
from harvester.storage.trade_store import Piece, TradeStore, with_snapshot_retry
from harvester.times import DAY, END_OF_TIME, Interval, Range, union, year_end

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

T = TypeVar("T")
Listing = Mapping[str, Sequence[Piece]]
"""What is to be read, by altname: one moment's listing of the archive."""


@check_types
def candles(  # noqa: PLR0913 - the parameters of `Archive.ohlc`
    spark: SparkSession,
    root: str | os.PathLike[str],
    interval: IntervalLength,
    pairs: str | Sequence[str] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    *,
    all_columns: bool = False,
) -> DataFrame:
    """Return candles as a Spark DataFrame, with the values of `Archive.ohlc`, in no order.

    The DataFrame is lazy: Spark reads the files that are listed now. If compaction removes one of
    them before Spark has read it, Spark reports a missing file: call this function again. No
    setting of the session is changed, and none changes the result.

    Args:
        spark: a session, also of Spark Connect.
        root: the folder of the archive, which Spark's processes see under the same path.
        interval: the length of a candle, such as `"1h"`.
        pairs: names in any spelling. Default: all stored pairs.
        since: start time, inclusive. Default: the first trade.
        until: end time, exclusive. Default: the end of the stored trades.
        all_columns: also return the columns after `count`.

    Returns:
        The column `pair` (altname) and the columns of docs/candles.md. `time` is a TIMESTAMP_NTZ,
        UTC; `first_time` and `last_time` are BIGINT, nanoseconds, as Spark's times have
        microseconds. If a sum of price x volume reaches 10^20, reading it is an error.

    Raises:
        BadInterval: `interval` is no interval.
        BadTime: `since` or `until` is not a time, or `since` is not before `until`.
        NothingStored: the archive has no trades of one of the pairs, or none at all.
        ArchiveDamaged: compaction removes files again and again while they are listed.
    """
    length, time_range = candle_interval(interval), parse_range(since or "start", until)
    return _on_listing(
        TradeStore(root),
        pairs,
        time_range,
        lambda archive, listing: _frame(
            spark, archive, listing, length, time_range, all_columns=all_columns
        ),
    )


@check_types
def write_candles(  # noqa: PLR0913, PLR0917 - as `candles`
    spark: SparkSession,
    root: str | os.PathLike[str],
    interval: IntervalLength,
    out: str | os.PathLike[str],
    pairs: str | Sequence[str] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    *,
    all_columns: bool = False,
) -> str:
    """Write candles as Parquet: `out/interval=1h/pair=XBTUSD/part-....parquet`.

    One file per pair, in order of time. The files of the same interval and pairs are replaced when
    the job has succeeded; others are not touched. If compaction removes files meanwhile, the job
    lists the archive and runs again. The other parameters are those of `candles`.

    Args:
        spark: a session, also of Spark Connect.
        root: the folder of the archive.
        interval: the length of a candle.
        out: the folder of candles, as Spark writes it: a path or a URL such as `s3a://bucket/x`.
        pairs: names in any spelling. Default: all stored pairs.
        since: start time, inclusive.
        until: end time, exclusive.
        all_columns: also write the columns after `count`.

    Returns:
        The path of the folder of the interval.

    Raises:
        UsageError: `out` lies in an archive; or as for `candles`.
        ValueDoesNotFit: a sum of price x volume reaches 10^20.
        ArchiveDamaged: compaction removes files again and again.
    """
    length, time_range = candle_interval(interval), parse_range(since or "start", until)
    archive, place = TradeStore(root), os.fspath(out).rstrip("/")
    url = urlsplit(place)
    if url.scheme in ("", "file"):
        check_outside(Path(url.path))
    folder = f"{place}/interval={length.name}"

    def write(archive: TradeStore, listing: Listing) -> None:
        frame = _frame(spark, archive, listing, length, time_range, all_columns=all_columns)
        (
            frame.repartition("pair")
            .sortWithinPartitions("pair", "time")
            .write.mode("overwrite")
            .option("partitionOverwriteMode", "dynamic")
            .partitionBy("pair")
            .parquet(folder)
        )

    _on_listing(archive, pairs, time_range, write)
    return folder


# --- listing --------------------------------------------------------------------------------------


def _on_listing(
    archive: TradeStore,
    pairs: str | Sequence[str] | None,
    time_range: Range,
    fn: Callable[[TradeStore, Listing], T],
) -> T:
    """Run `fn` on a listing of some pairs; if a file vanished meanwhile, list again and retry."""
    requested = [pairs] if isinstance(pairs, str) else pairs
    if requested is None:
        names = archive.stored_pairs()
    else:
        names = [resolve_stored(archive, name).altname for name in requested]
    if not names:
        advice = (
            f"the archive at {archive.path} is empty" if requested is None else "pairs is empty"
        )
        raise NothingStored(advice)

    def run() -> T:
        listing = {name: archive.pieces(name, time_range) for name in dict.fromkeys(names)}
        try:
            return fn(archive, listing)
        except Exception as error:
            before, too_large, _ = str(error).partition(f": {TOO_LARGE}")
            if too_large:
                pair = before.split()[-1]
                raise ValueDoesNotFit(f"{pair}{too_large}") from error
            existing = {segment for name in listing for segment in archive.segments(name)}
            if any(piece.segment not in existing for part in listing.values() for piece in part):
                # Spark's errors differ between versions and modes, but the file is gone in all.
                raise FileNotFoundError(str(error)) from error
            raise

    return with_snapshot_retry(run, archive.path)


def _frame(
    spark: SparkSession,
    archive: TradeStore,
    listing: Listing,
    interval: Interval,
    time_range: Range,
    *,
    all_columns: bool,
) -> DataFrame:
    """Return the candles of a listing."""
    grid = make_grid(interval, 0, None, _covering(listing, time_range))
    trades = _read_trades(spark, archive, listing, time_range)
    covered = {pair: union(piece.within for piece in part) for pair, part in listing.items()}
    sql = _candles_sql("{trades}", grid, covered if all_columns else None)
    return spark.sql(sql, trades=trades)


def _covering(listing: Listing, time_range: Range) -> Range:
    """The range that contains all trades of a listing, as narrow as file names can show."""
    starts = [
        max(part[0].within.after, year_end(part[0].segment.year - 1))
        for part in listing.values()
        if part
    ]
    ends = [part[-1].within.through for part in listing.values() if part]
    after = max(time_range.after, min(starts, default=0))
    return Range(after, max(after, min(time_range.through, max(ends, default=0))))


SPARK_COLUMNS = (
    "trade_id BIGINT, `time` BIGINT, tie INT, price DECIMAL(18, 10), volume DECIMAL(22, 8), "
    "side STRING, pair STRING"
)


def _read_trades(
    spark: SparkSession, archive: TradeStore, listing: Listing, time_range: Range
) -> DataFrame:
    """The trades of a listing, each moment from one file only."""
    pieces = [piece for part in listing.values() for piece in part]
    if not pieces:
        return spark.createDataFrame([], SPARK_COLUMNS).withColumnRenamed("time", "time_ns")
    base = _spark_path(archive.store.location("trades"))
    paths = [_escaped(_spark_path(archive.location(piece.segment))) for piece in pieces]

    def read() -> DataFrame:
        # Spark has no nanoseconds by default: as BIGINT they are read without any setting. Others
        # of the session may leave out files in silence.
        reader = spark.read.schema(SPARK_COLUMNS).option("basePath", base)
        reader = reader.option("ignoreMissingFiles", "false").option("ignoreCorruptFiles", "false")
        return reader.parquet(*paths)

    trades = read()
    if time_range.after > 0:
        trades = trades.where(f"`time` > {time_range.after}")
    if time_range.through < END_OF_TIME:
        trades = trades.where(f"`time` <= {time_range.through}")
    for segment, within in pieces:
        # After an interrupted compaction files overlap.
        if within.after > max(segment.range.after, time_range.after):
            name = segment.path.rpartition("/")[2]
            trades = trades.where(
                f"`time` > {within.after} OR pair <> {_text_as_hex(segment.pair)} "
                f"OR _metadata.file_name <> '{name}'"
            )
    # Spark checks that all files exist, then lists them, and leaves out in silence what has gone in
    # between. The check of a second reading comes after the first listing.
    trades = trades.union(read().where("false"))
    # A session may reserve the word `time`.
    return trades.withColumnRenamed("time", "time_ns")


def _spark_path(location: str) -> str:
    """A file's path as Spark needs it, whatever its default file system is."""
    if "://" not in location:
        return f"file://{location}"
    return location.replace("s3://", "s3a://", 1)


def _escaped(path: str) -> str:
    """A path in which Hadoop sees no wildcards."""
    return "".join(f"\\{char}" if char in "\\*?[]{}" else char for char in path)


# --- the SQL of a candle --------------------------------------------------------------------------

# It has the aggregates and columns of `query.candle_sql`, as exact.

# Settings of the session (ANSI, `decimalOperations.allowPrecisionLoss`, the time zone) must not
# change the result: they may be set when a lazy DataFrame runs, and Spark Connect analyzes it then
# only. So every operation has a type that is exact under all of them, and what may overflow is a
# `try_` function, whose NULL becomes an error.

TOO_LARGE = (
    "a sum of price x volume reaches 10^20, or of volumes 10^24, more than fits 38 exact digits: "
    "choose a shorter interval or range"
)

# A product of DECIMAL(18, 10) and DECIMAL(22, 8) has 41 digits, so Spark would round it. Of a lot
# below 10^11 units it has 38 digits. Greater ones are multiplied as integers.
VALUE = """CASE
    WHEN volume < 100000000000 THEN price * CAST(volume AS DECIMAL(19, 8))
    ELSE TRY_CAST(concat(CAST(try_multiply(
        CAST(price * 10000000000BD AS DECIMAL(18, 0)),
        CAST(volume * 100000000BD AS DECIMAL(22, 0))
    ) AS STRING), 'E-18') AS DECIMAL(38, 18))
END"""

# The double nearest to `value / volume`, by its decimal digits: those down to 1e-10 are exact, and
# fifteen more follow. A quotient of two doubles would be wrong by up to three units in the last
# place, and so would be the vwap of trades of one price.
VWAP_STEPS = (
    "nullif(TRY_CAST(volume AS DECIMAL(27, 8)) * 0.0000000001BD, 0) AS unit",
    "value div unit AS units, CAST(value % unit AS DOUBLE) / CAST(unit AS DOUBLE) AS rest",
    "least(CAST(rest * 1e15 AS BIGINT), 999999999999999) AS digits",
    """coalesce(
    CAST(concat(units, '.', lpad(CAST(digits AS STRING), 15, '0'), 'E-10') AS DOUBLE),
    CAST(value AS DOUBLE) / nullif(CAST(volume AS DOUBLE), 0)
) AS vwap""",
)

MOST_TIE_BITS = 31


def _candles_sql(
    trades: str, grid: Grid, covered: Mapping[str, Sequence[Range]] | None = None
) -> str:
    """Return a query for candles, in no order; its columns are those of docs/candles.md and `pair`.

    Args:
        trades: a table with the columns pair, time_ns, tie, trade_id, price, volume and side.
        grid: the intervals.
        covered: the covered ranges by altname, for the columns after `count`; None for the first
            columns only.
    """
    aggregates = _aggregates(grid) | ({} if covered is None else _more_aggregates(grid))
    formulas = ",\n    ".join(f"{sql} AS {name}" for name, sql in aggregates.items())
    start_ns = grid.start_of_sql("time_ns")
    source = (
        f"SELECT pair, start_ns,\n    {formulas}\n"  # noqa: S608
        f"FROM (\nSELECT *, {start_ns} AS start_ns, {VALUE} AS value FROM {trades}\n)\n"
        "GROUP BY pair, start_ns"
    )
    for step in VWAP_STEPS:
        source = f"SELECT *, {step}\nFROM (\n{source}\n)"
    columns = ",\n    ".join(_columns(all_columns=covered is not None))
    is_complete = "" if covered is None else _is_complete_sql(grid, covered)
    # Without the hint, a session may forbid the broadcast and sort all candles.
    head = f"SELECT /*+ BROADCAST(complete) */\n    {columns}"
    return f"{head}\nFROM (\n{source}\n) AS candles{is_complete}"


def _text_as_hex(text: str) -> str:
    """A text as SQL, whatever it contains and however the session reads quotes."""
    return f"CAST(X'{text.encode().hex()}' AS STRING)"


def _aggregates(grid: Grid) -> dict[str, str]:
    """The formulas over trades, by column."""
    error = f"raise_error(concat(pair, ': {TOO_LARGE}'))"
    return {
        "open": "min_by(price, time_ns) FILTER (WHERE tie = 0)",
        "high": "max(price)",
        "low": "min(price)",
        "close": _last_sql("price", "true", grid),
        "volume": f"CAST(coalesce(try_sum(volume), {error}) AS DECIMAL(38, 8))",
        "count": "count(*)",
        # A product that does not fit is NULL, which a sum would leave out.
        "value": f"coalesce(CASE WHEN count(value) = count(*) THEN try_sum(value) END, {error})",
    }


def _more_aggregates(grid: Grid) -> dict[str, str]:
    """The formulas of the columns after `count`. No part of a sum is above the sum."""
    sides = {side: f"FILTER (WHERE side = '{side}')" for side in ("buy", "sell")}
    return {
        **{
            f"{side}_{name}": f"CAST(coalesce(try_sum({name}) {where}, 0) AS DECIMAL(38, {scale}))"
            for name, scale in (("volume", 8), ("value", 18))
            for side, where in sides.items()
        },
        **{f"{side}_count": f"count(*) {where}" for side, where in sides.items()},
        "first_trade_id": _first_sql("trade_id", "trade_id IS NOT NULL", grid),
        "last_trade_id": _last_sql("trade_id", "trade_id IS NOT NULL", grid),
        "first_time": "min(time_ns)",
        "last_time": "max(time_ns)",
    }


# The order of the trade history is that of `time, tie`. `max_by` over a struct of both makes Spark
# sort all trades, which takes three times as long. So both become one integer where they fit 64
# bits: the time since the start of the candle, then `tie`. Rows of a greater `tie`, which hardly
# occur, are ordered by a decimal.


class _Key(NamedTuple):
    """A sort key of trades, and the condition of the trades that it sorts, as SQL."""

    sql: str
    condition: str


def _keys(grid: Grid) -> tuple[_Key, _Key]:
    """The sort key of trades whose `tie` fits into 64 bits, and that of the others."""
    widest_ns = max(section.width_ns for section in grid.sections)
    # One bit is left, so that adding a greater `tie` does not overflow.
    limit = 1 << min(62 - widest_ns.bit_length(), MOST_TIE_BITS)
    return (
        _Key(f"(time_ns - start_ns) * {limit} + tie", f"tie < {limit}"),
        _Key("CAST(time_ns AS DECIMAL(20, 0)) * 4294967296BD + tie", f"tie >= {limit}"),
    )


def _last_sql(column: str, where: str, grid: Grid) -> str:
    """The value of the last trade that meets a condition."""
    near, far = _keys(grid)
    return _edge_sql("max", column, where, (far, near))


def _first_sql(column: str, where: str, grid: Grid) -> str:
    """The value of the first trade that meets a condition."""
    return _edge_sql("min", column, where, _keys(grid))


def _edge_sql(edge: str, column: str, where: str, keys: tuple[_Key, _Key]) -> str:
    """The value of the trade with the least or greatest time and tie.

    Args:
        edge: `min` or `max`.
        column: of the value.
        where: the condition that trades meet.
        keys: the sort keys; where both have a trade of that time, the first one has the trade.
    """
    (key, condition), (other_key, other_condition) = keys
    those = f"FILTER (WHERE {where} AND {condition})"
    return (
        f"CASE WHEN {edge}(time_ns) {those} = {edge}(time_ns) FILTER (WHERE {where}) "
        f"THEN {edge}_by({column}, {key}) {those} "
        f"ELSE {edge}_by({column}, {other_key}) FILTER (WHERE {where} AND {other_condition}) END"
    )


def _is_complete_sql(grid: Grid, covered: Mapping[str, Sequence[Range]]) -> str:
    """A join of candles with the covered ranges, whose rows `complete` include the whole candle."""
    rows = [
        f"({_text_as_hex(pair)}, {grid.start_ns(whole.first)}, {grid.start_ns(whole.last)})"
        for pair, ranges in covered.items()
        for time_range in ranges
        if (whole := grid.whole_intervals(time_range)).first <= whole.last
    ]
    values = ", ".join(rows) or "('', 0, 0)"
    return (
        f"\nLEFT JOIN (VALUES {values}) AS complete (of_pair, first, last)\n"
        f"ON of_pair = pair AND start_ns BETWEEN first AND last"
    )


def _columns(*, all_columns: bool) -> list[str]:
    """The columns of the result, in order, as SQL."""
    columns = [
        "pair",
        "TIMESTAMP_NTZ '1970-01-01 00:00:00' + make_dt_interval("
        f"CAST(start_ns div {DAY} AS INT), 0, 0, start_ns % {DAY} div 1000000 * 0.001BD) AS `time`",
        *("open", "high", "low", "close", "vwap", "volume", "count"),
    ]
    if all_columns:
        columns += ["value", *EXTRA_AGGREGATES, *LAST_TIME, "of_pair IS NOT NULL AS is_complete"]
    return columns


# --- program --------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Write candles with the Spark of this environment; returns the exit status of harvester.

    Args:
        arguments: of the command line; None for those of this process.
    """
    from pyspark.sql import SparkSession  # noqa: PLC0415 - the extra `spark`

    from harvester.cli import output  # noqa: PLC0415 - the library needs no click

    parser = argparse.ArgumentParser(
        prog="python -m harvester.spark", description="Write candles of an archive with Spark."
    )
    parser.add_argument("root", metavar="ROOT", help="The folder of the archive.")
    parser.add_argument(
        "-i", "--interval", required=True, help="The length of a candle, such as 7m, 4h or 1d."
    )
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="FOLDER",
        help="Where interval=.../pair=.../*.parquet is written: a folder, or a URL of Spark's.",
    )
    parser.add_argument(
        "-p", "--pair", action="append", help="A pair in any spelling; repeatable. [default: all]"
    )
    parser.add_argument("--since", help="Start time, inclusive. [default: first trade]")
    parser.add_argument("--until", help="End time, exclusive. [default: end of the archive]")
    parser.add_argument(
        "--all-columns", action="store_true", help="Also write the columns after `count`."
    )
    given = parser.parse_args(arguments)
    try:
        # Before Spark starts, which takes seconds.
        candle_interval(given.interval)
        parse_range(given.since or "start", given.until)
        with SparkSession.builder.appName("harvester").getOrCreate() as spark:
            folder = write_candles(
                spark,
                given.root,
                given.interval,
                given.out,
                pairs=given.pair,
                since=given.since,
                until=given.until,
                all_columns=given.all_columns,
            )
    except HarvesterError as error:
        output.error(str(error))
        return error.exit_status
    output.hint(f"written: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
