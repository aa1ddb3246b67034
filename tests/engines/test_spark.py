"""Spark on two workers: its candles are the archive's in every column, whatever its settings."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from candle_cases import MADE_HISTORIES, START, cut, hold, overlapping
from candle_oracle import Row
from engines import REASON
from spark_candles import (
    MARKS,
    PAIRS,
    archive_of_three_pairs,
    assert_equal,
    expected,
    small_archive,
)

import harvester
import harvester.spark as on_spark
from harvester.storage.trade_store import TradeStore

pyspark = pytest.importorskip("pyspark", reason=REASON.format("pyspark"))
pytestmark = MARKS

SETTINGS = (
    "spark.sql.ansi.enabled",
    "spark.sql.decimalOperations.allowPrecisionLoss",
    "spark.sql.legacy.parquet.nanosAsLong",
    "spark.sql.parquet.enableVectorizedReader",
    "spark.sql.session.timeZone",
    "spark.sql.files.ignoreMissingFiles",
    "spark.sql.files.ignoreCorruptFiles",
    "spark.sql.autoBroadcastJoinThreshold",
    "spark.sql.caseSensitive",
    "spark.sql.ansi.enforceReservedKeywords",
    "spark.sql.sources.useV1SourceList",
)
HOSTILE = (
    [
        "false",
        "true",
        "false",
        "false",
        "America/New_York",
        "true",
        "true",
        "-1",
        "true",
        "false",
        "parquet",
    ],
    [
        "true",
        "true",
        "false",
        "true",
        "Asia/Kathmandu",
        "true",
        "true",
        "-1",
        "false",
        "true",
        "orc",
    ],
    [
        "true",
        "false",
        "true",
        "true",
        "UTC",
        "false",
        "false",
        "10485760",
        "false",
        "false",
        "parquet",
    ],
)


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    place = tmp_path_factory.mktemp("spark")
    os.environ["SPARK_LOCAL_DIRS"] = str(place)
    # Two workers, each with an executor: processes of their own.
    session = (
        SparkSession.builder.master("local-cluster[2,1,1024]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.executor.memory", "1g")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.warehouse.dir", str(place))
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> harvester.Archive:
    return archive_of_three_pairs(tmp_path_factory.mktemp("archives") / "a [b] {c}*%20")


def rows_of(frame: Any) -> list[tuple[Any, ...]]:
    """The rows of a DataFrame, in order of pair and time; `time` in nanoseconds."""
    times = "(unix_micros(CAST(`time` AS TIMESTAMP)) * 1000) AS `time`"
    with_utc(frame.sparkSession)
    rows = frame.selectExpr(
        "pair", times, *(f"`{name}`" for name in frame.columns if name not in {"pair", "time"})
    )
    return sorted(map(tuple, rows.collect()))


def with_utc(session: Any) -> None:
    session.conf.set("spark.sql.session.timeZone", "UTC")


@pytest.mark.parametrize("interval", ["500ms", "1m", "7m", "1h", "1d", "1w", "5mo"])
def test_every_column_is_the_archives(
    spark: Any, archive: harvester.Archive, interval: str
) -> None:
    frame = on_spark.candles(spark, archive.path, interval, all_columns=True)
    assert_equal(rows_of(frame), expected(archive, interval))


def test_columns_and_types_are_those_of_the_documentation(
    spark: Any, archive: harvester.Archive
) -> None:
    frame = on_spark.candles(spark, archive.path, "1h", all_columns=True)
    names = archive.ohlc(PAIRS, "1h", all_columns=True).columns
    types = dict(frame.dtypes)
    assert frame.columns == names
    assert on_spark.candles(spark, archive.path, "1h").columns == names[:9]
    assert {name: types[name] for name in ("time", "open", "vwap", "volume", "count", "value")} == {
        "time": "timestamp_ntz",
        "open": "decimal(18,10)",
        "vwap": "double",
        "volume": "decimal(38,8)",
        "count": "bigint",
        "value": "decimal(38,18)",
    }
    assert (types["first_time"], types["is_complete"]) == ("bigint", "boolean")


def test_a_range_that_cuts_candles_counts_its_trades_only(
    spark: Any, archive: harvester.Archive
) -> None:
    rows = MADE_HISTORIES["zero ids"]
    bounds = {"since": rows[40][1], "until": rows[777][1] + 1}
    frame = on_spark.candles(
        spark, archive.path, "7m", pairs=["xbt/usd"], all_columns=True, **bounds
    )
    truth = expected(archive, "7m", ["XBTUSD"], **bounds)
    assert_equal(rows_of(frame), truth)
    assert [row[-1] for row in truth].count(False) == 2


@pytest.mark.parametrize("interval", ["1h", "100y"])
def test_many_trades_of_one_time_are_in_order(spark: Any, tmp_path: Path, interval: str) -> None:
    """In a century only the first trade of a time has a sort key of 64 bits."""
    prices = [Decimal(100 + (number * 7) % 50) for number in range(400)]
    rows: list[Row] = [
        (None if number < 300 else number, START, number, price, Decimal(1), "buy", "market", "")
        for number, price in enumerate(prices)
    ]
    archive = small_archive(tmp_path / "data", rows)
    frame = on_spark.candles(spark, archive.path, interval, all_columns=True)
    assert_equal(rows_of(frame), expected(archive, interval, ["XBTUSD"]))
    [row] = frame.select("open", "close", "first_trade_id", "last_trade_id").collect()
    assert tuple(row) == (prices[0], prices[-1], 300, 399)


def test_a_range_without_trades_has_no_candles(spark: Any, archive: harvester.Archive) -> None:
    frame = on_spark.candles(spark, archive.path, "1mo", since="2000", until="2001")
    assert (frame.columns[:3], frame.collect()) == (["pair", "time", "open"], [])


# --- settings -------------------------------------------------------------------------------------


@pytest.fixture
def restored(spark: Any) -> Iterator[Any]:
    before = {name: spark.conf.get(name, None) for name in SETTINGS}
    yield spark
    for name, value in before.items():
        spark.conf.unset(name) if value is None else spark.conf.set(name, value)


@pytest.mark.parametrize("values", HOSTILE)
def test_no_setting_changes_the_result(
    restored: Any, archive: harvester.Archive, values: Sequence[str]
) -> None:
    """Neither those of the call nor those of the moment in which Spark runs."""
    early = on_spark.candles(restored, archive.path, "1h", all_columns=True)
    for name, value in zip(SETTINGS, values, strict=True):
        restored.conf.set(name, value)
    late = on_spark.candles(restored, archive.path, "1h", all_columns=True)
    truth = expected(archive, "1h")
    for frame in (early, late):
        assert [
            str(row.time) for row in frame.orderBy("pair", "time").select("time").collect()
        ] == [str(row[0]) for row in archive.ohlc(PAIRS, "1h").select("time::TIMESTAMP").fetchall()]
        assert_equal(rows_of(frame), truth)


def test_no_setting_is_changed_even_by_an_error(
    spark: Any, archive: harvester.Archive, tmp_path: Path
) -> None:
    def settings() -> set[tuple[str, ...]]:
        return {tuple(row) for row in spark.sql("SET").collect()}

    before = settings()
    on_spark.candles(spark, archive.path, "1h", all_columns=True)
    on_spark.write_candles(spark, archive.path, "1d", tmp_path / "out")
    with pytest.raises(harvester.NothingStored, match="holds no trades of 'DOGEUSD'"):
        on_spark.candles(spark, archive.path, "1h", pairs="DOGEUSD")
    assert settings() == before


@pytest.mark.parametrize("ansi", ["true", "false"])
@pytest.mark.parametrize(
    ("price", "volume", "count"),
    [
        ("99999999", "99999999999999", 2),
        ("9999999", "9999999999999", 2),
        ("90000000", "99999999999", 12),
    ],
    ids=["a product of 40 digits", "a product of 10^20", "a sum"],
)
def test_what_does_not_fit_is_an_error(
    restored: Any, tmp_path: Path, ansi: str, price: str, volume: str, count: int
) -> None:
    rows: list[Row] = [
        (number + 1, START + number, 0, Decimal(price), Decimal(volume), "buy", "market", "")
        for number in range(count)
    ]
    archive = small_archive(tmp_path / "data", rows)
    restored.conf.set("spark.sql.ansi.enabled", ansi)
    frame = on_spark.candles(restored, archive.path, "1h")
    with pytest.raises(Exception, match=r"a sum of price x volume reaches 10\^20"):
        frame.collect()
    with pytest.raises(
        harvester.ValueDoesNotFit, match=r"^XBTUSD: a sum .* reaches 10\^20, .*: choose"
    ):
        on_spark.write_candles(restored, archive.path, "1h", tmp_path / "out")
    with pytest.raises(harvester.ValueDoesNotFit):
        archive.ohlc("XBTUSD", "1h").fetchall()


def test_what_just_fits_is_exact(spark: Any, tmp_path: Path) -> None:
    rows: list[Row] = [
        (number + 1, START + number, 0, Decimal(price), Decimal(volume), side, "market", "")
        for number, (price, volume, side) in enumerate(
            [
                ("0.0000012345", "80000000000000.12345678", "buy"),
                ("99999999.9999999999", "99999999999.99999999", "sell"),
                ("0.0000000001", "0.00000001", "buy"),
            ]
        )
    ]
    archive = small_archive(tmp_path / "data", rows)
    frame = on_spark.candles(spark, archive.path, "1h", all_columns=True)
    assert_equal(rows_of(frame), expected(archive, "1h", ["XBTUSD"]))


# --- while compaction runs ------------------------------------------------------------------------


@pytest.fixture
def in_small_files(tmp_path: Path) -> harvester.Archive:
    rows = MADE_HISTORIES["busy"]
    bounds = [0, *(rows[number][1] for number in range(20, 880, 20)), rows[-1][1]]
    hold(TradeStore(tmp_path / "data"), cut(rows, bounds))
    return harvester.open(tmp_path / "data")


def compacting_once(
    monkeypatch: pytest.MonkeyPatch, archive: harvester.Archive, owner: Any, name: str
) -> list[str]:
    """Merge all files right after the first call of a function; returns what was called."""
    calls: list[str] = []
    function = getattr(owner, name)

    def called(*args: Any) -> Any:
        found = function(*args)
        calls.append(name)
        if len(calls) == 1:
            [result] = archive.compact()
            assert result.files_before > result.files_after
        return found

    monkeypatch.setattr(owner, name, called)
    return calls


def test_files_that_vanish_before_spark_looks_are_listed_again(
    spark: Any, in_small_files: harvester.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = expected(in_small_files, "1m", ["XBTUSD"])
    calls = compacting_once(monkeypatch, in_small_files, on_spark, "make_grid")
    frame = on_spark.candles(spark, in_small_files.path, "1m", all_columns=True)
    assert len(calls) == 2
    assert_equal(rows_of(frame), truth)


def test_files_that_vanish_while_spark_lists_them_are_listed_again(
    spark: Any, in_small_files: harvester.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spark leaves out such files without a word, unless it looks for them a second time."""
    truth = expected(in_small_files, "1m", ["XBTUSD"])
    calls = compacting_once(monkeypatch, in_small_files, type(spark.read), "parquet")
    frame = on_spark.candles(spark, in_small_files.path, "1m", all_columns=True)
    assert len(calls) == 3
    assert_equal(rows_of(frame), truth)


def test_files_that_vanish_while_a_job_runs_are_listed_again(
    spark: Any,
    in_small_files: harvester.Archive,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    truth = expected(in_small_files, "1m", ["XBTUSD"])
    calls = compacting_once(monkeypatch, in_small_files, on_spark, "_read_trades")
    folder = on_spark.write_candles(
        spark, in_small_files.path, "1m", tmp_path / "out", all_columns=True
    )
    assert len(calls) == 2
    assert_equal(rows_of(spark.read.parquet(folder).select(*frame_columns(in_small_files))), truth)


def frame_columns(archive: harvester.Archive) -> list[str]:
    return list(archive.ohlc(["XBTUSD"], "1m", all_columns=True).columns)


def test_a_missing_file_is_an_error_and_never_left_out(
    restored: Any, in_small_files: harvester.Archive
) -> None:
    restored.conf.set("spark.sql.files.ignoreMissingFiles", "true")
    frame = on_spark.candles(restored, in_small_files.path, "1m")
    in_small_files.compact()
    with pytest.raises(Exception, match=r"FILE_NOT_EXIST|does not exist"):
        frame.collect()


def test_candles_are_equal_while_compaction_runs(
    spark: Any, in_small_files: harvester.Archive, tmp_path: Path
) -> None:
    truth = expected(in_small_files, "1h", ["XBTUSD"])
    writer = threading.Thread(target=in_small_files.compact)
    writer.start()
    folder = on_spark.write_candles(
        spark, in_small_files.path, "1h", tmp_path / "out", all_columns=True
    )
    writer.join()
    made = spark.read.parquet(folder).select(*frame_columns(in_small_files))
    assert_equal(rows_of(made), truth)


@pytest.mark.parametrize("number", [0, 1])
def test_files_that_overlap_count_each_trade_once(spark: Any, tmp_path: Path, number: int) -> None:
    hold(TradeStore(tmp_path / "data"), overlapping(MADE_HISTORIES["busy"])[number])
    archive = harvester.open(tmp_path / "data")
    frame = on_spark.candles(spark, archive.path, "7m", all_columns=True)
    assert_equal(rows_of(frame), expected(archive, "7m", ["XBTUSD"]))


# --- files ----------------------------------------------------------------------------------------


def test_the_files_are_a_folder_per_pair_in_order_of_time(
    spark: Any, archive: harvester.Archive, tmp_path: Path
) -> None:
    folder = on_spark.write_candles(spark, archive.path, 60, tmp_path / "out", all_columns=True)
    assert folder == f"{tmp_path}/out/interval=60m"
    for pair in PAIRS:
        [file] = (Path(folder) / f"pair={pair}").glob("*.parquet")
        made = pq.read_table(file, partitioning=None).to_pylist()
        truth = archive.ohlc(pair, "1h", all_columns=True).to_arrow_table().to_pylist()
        assert [str(row["time"]) for row in made] == [str(row["time"])[:19] for row in truth]
        for name in ("open", "close", "volume", "value", "last_trade_id", "is_complete"):
            assert [row[name] for row in made] == [row[name] for row in truth]
        assert [row["last_time"] for row in made] == [row["last_time"].value for row in truth]
    files = f"{tmp_path}/out/**/*.parquet"
    [(count, intervals)] = archive.sql(
        "SELECT sum(count)::BIGINT, list(DISTINCT interval) "  # noqa: S608
        f"FROM read_parquet('{files}', hive_partitioning = true)"
    ).fetchall()
    assert (count, intervals) == (sum(len(archive.trades(pair)) for pair in PAIRS), ["60m"])


def test_writing_replaces_the_files_of_its_pairs_only(
    spark: Any, archive: harvester.Archive, tmp_path: Path
) -> None:
    folder = Path(on_spark.write_candles(spark, archive.path, "1h", tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    on_spark.write_candles(spark, archive.path, "1h", tmp_path / "out", pairs="ETHUSD")
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert {path.parent.name for path, _ in before.items() ^ after.items()} == {"pair=ETHUSD"}
    assert len(after) == len(PAIRS)


def test_a_folder_in_the_archive_is_refused(spark: Any, archive: harvester.Archive) -> None:
    for place in (f"{archive.path}/candles", f"file://{archive.path}/candles"):
        with pytest.raises(harvester.UsageError, match="lies in the archive"):
            on_spark.write_candles(spark, archive.path, "1h", place)


def test_an_empty_archive_is_named(spark: Any, tmp_path: Path) -> None:
    with pytest.raises(harvester.NothingStored, match="is empty"):
        on_spark.candles(spark, tmp_path, "1h")


def test_no_pairs_are_not_all_pairs(spark: Any, archive: harvester.Archive) -> None:
    with pytest.raises(harvester.NothingStored, match="pairs is empty"):
        on_spark.candles(spark, archive.path, "1h", pairs=[])


def test_spark_alone_refuses_nanoseconds(spark: Any, in_small_files: harvester.Archive) -> None:
    with pytest.raises(
        Exception, match=r"Illegal Parquet type: INT64 \(TIMESTAMP\(NANOS,false\)\)"
    ):
        spark.read.parquet(f"file://{in_small_files.path}/trades")
