"""What other programs take as it is: freqtrade's files, LEAN's zips, and any type as text."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import zipfile
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

import candle_oracle
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_runner import BUSY, THROUGH, archive, run
from command_line import HARVESTER

import harvester
from harvester.cli.output import columns as table
from harvester.cli.query_output import FORMATS, write_result
from harvester.errors import BadInterval, UsageError
from harvester.exporters.export import write_candle_layout
from harvester.exporters.freqtrade_and_lean import (
    ccxt_symbol,
    freqtrade_candles,
    freqtrade_timeframe,
    lean_resolution,
    write_lean_candles,
)
from harvester.kraken.pairs import Pair
from harvester.query.result import Result, source_of_sql
from harvester.storage.trade_store import TradeStore
from harvester.times import parse_interval

__all__ = ["archive"]
"""A fixture."""

SECOND = candle_oracle.SECOND_NS
MINUTE = 60 * SECOND


def whole(interval_ns: int) -> list[candle_oracle.Candle]:
    """The candles that the coverage holds whole."""
    made = candle_oracle.candles(BUSY, interval_ns)
    return [candle for candle in made if candle["time"] + interval_ns - 1 <= THROUGH]


# --- freqtrade -----------------------------------------------------------------------------------


def test_freqtrade_reads_the_candles_as_its_own(archive: TradeStore, tmp_path: Path) -> None:
    truth = whole(MINUTE)
    assert len(truth) == len(candle_oracle.candles(BUSY, MINUTE)) - 1
    folder = tmp_path / "user_data" / "kraken"
    arguments = ["ohlc", "btc/usd", "-i", "60s", "-f", "freqtrade", "-o", str(folder)]
    file = folder / "BTC_USD-1m.feather"
    assert run(archive, *arguments) == (
        0,
        "",
        f"{len(truth)} rows in {file}\n1 candles are incomplete and were left out\n",
    )
    frame = pd.read_feather(file)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "date": "datetime64[ms, UTC]",
        "open": "float64",
        "high": "float64",
        "low": "float64",
        "close": "float64",
        "volume": "float64",
    }
    figures = ("open", "high", "low", "close", "volume")
    assert frame.to_dict("records") == [
        {"date": pd.Timestamp(candle["time"], tz="UTC")}
        | {name: float(candle[name]) for name in figures}
        for candle in truth
    ]


def test_freqtrade_reads_the_trades_as_its_own(archive: TradeStore, tmp_path: Path) -> None:
    status, out, err = run(archive, "trades", "XBTUSD", "-f", "freqtrade", "-o", str(tmp_path))
    file = tmp_path / "BTC_USD-trades.feather"
    assert (status, out, err) == (0, "", f"{len(BUSY):,} rows in {file}\n")
    frame = pd.read_feather(file)
    names = ["timestamp", "id", "type", "side", "price", "amount", "cost"]
    assert list(frame) == names
    assert [str(frame[name].dtype) for name in ("timestamp", "price", "amount", "cost")] == [
        "int64",
        *["float64"] * 3,
    ]
    exact = candle_oracle.EXACT.multiply
    assert [tuple(row) for row in frame.drop(columns="id").itertuples(index=False)] == [
        (stamp // 10**6, kind, side, float(price), float(volume), float(exact(price, volume)))
        for _, stamp, _, price, volume, side, kind, _ in BUSY
    ]


def test_freqtrade_takes_no_trade_without_an_id_for_a_repeat(
    archive: TradeStore, tmp_path: Path
) -> None:
    """It drops what has the milliseconds and the id of another."""
    run(archive, "trades", "XBTUSD", "-f", "freqtrade", "-o", str(tmp_path))
    frame = pd.read_feather(tmp_path / "BTC_USD-trades.feather")
    without = [row[0] is None for row in BUSY]
    assert sum(without) > 100
    assert not frame.duplicated(["timestamp", "id"]).any()
    assert [name for name, is_none in zip(frame["id"], without, strict=True) if not is_none] == [
        str(row[0]) for row in BUSY if row[0] is not None
    ]
    assert all(len(name) < 19 for name in frame["id"])


@pytest.mark.parametrize(
    ("interval", "name"),
    [
        ("1m", "1m"),
        ("60", "1h"),
        ("3600s", "1h"),
        ("24h", "1d"),
        ("3d", "3d"),
        ("1w", "1w"),
        ("1mo", "1Mo"),
    ],
)
def test_freqtrade_is_given_its_own_names_of_intervals(interval: str, name: str) -> None:
    assert freqtrade_timeframe(parse_interval(interval)) == name


@pytest.mark.parametrize("interval", ["7m", "1s", "7d", "10080", "2mo", "1y", "3w"])
def test_an_interval_that_freqtrade_does_not_know_is_refused(interval: str) -> None:
    with pytest.raises(BadInterval) as caught:
        freqtrade_timeframe(parse_interval(interval))
    assert str(caught.value) == (
        f"freqtrade has no interval {interval!r}: give one of 1m, 3m, 5m, 15m, 30m, 1h, 2h, 4h, "
        "6h, 8h, 12h, 1d, 3d, 1w, 2w, 1mo"
    )


@pytest.mark.parametrize(
    ("wsname", "symbol"),
    [
        ("XBT/USD", "BTC/USD"),
        ("XDG/XBT", "DOGE/BTC"),
        ("WBTC/EUR", "WBTC/EUR"),
        ("LUNA2/USD", "LUNA/USD"),
        ("LUNA/USD", "LUNC/USD"),
    ],
)
def test_currencies_are_called_as_trading_libraries_call_them(wsname: str, symbol: str) -> None:
    assert ccxt_symbol(Pair(altname="A", wsname=wsname)) == symbol


def test_a_pair_of_an_unknown_quote_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        ccxt_symbol(Pair(altname="XBTUSD"))
    assert str(caught.value) == (
        "the base and quote currency of XBTUSD are not known here: `harvester pairs XBTUSD "
        "--update` asks the exchange"
    )


def test_an_export_wants_a_folder(archive: TradeStore) -> None:
    assert run(archive, "trades", "XBTUSD", "-f", "freqtrade") == (
        2,
        "",
        "harvester: --format freqtrade writes into a folder of its own: give -o, such as "
        "user_data/data/kraken\n",
    )


@pytest.mark.parametrize("digits", ["0.3", "41450.1", "1012345678.12345678", "0.0000000001"])
def test_a_float_is_the_one_nearest_to_the_decimal(digits: str) -> None:
    candle = dict.fromkeys(("open", "high", "low", "close"), Decimal("0.1234567891"))
    kinds = dict.fromkeys(candle, pa.decimal128(18, 10)) | {"volume": pa.decimal128(38, 8)}
    schema = pa.schema({"time": pa.timestamp("ns"), **kinds})
    volume = Decimal(digits).quantize(Decimal("1e-8"))
    batch = pa.RecordBatch.from_pylist([{"time": 0, **candle, "volume": volume}], schema=schema)
    [row] = freqtrade_candles(batch).to_pylist()
    assert (row["open"], row["volume"]) == (0.1234567891, float(volume))


# --- LEAN ----------------------------------------------------------------------------------------


def line(candle: candle_oracle.Candle, when: str) -> str:
    names = ("open", "high", "low", "close", "volume")
    figures = [format(candle[name].normalize(), "f") for name in names]
    return ",".join([when, *figures]) + "\n"


def test_lean_reads_minutes_day_by_day(archive: TradeStore, tmp_path: Path) -> None:
    truth = whole(MINUTE)
    status, out, err = run(archive, "ohlc", "XBTUSD", "-i", "1m", "-f", "lean", "-o", str(tmp_path))
    assert (status, out) == (0, "")
    assert err == (f"{len(truth)} rows in {tmp_path}\n1 candles are incomplete and were left out\n")
    home = tmp_path / "crypto" / "kraken" / "minute" / "btcusd"
    day_ns = 86_400 * SECOND
    days = {}
    for day, made in groupby(truth, lambda candle: candle["time"] // day_ns * day_ns):
        name = f"{datetime.fromtimestamp(day // SECOND, UTC):%Y%m%d}"
        lines = [line(candle, str((candle["time"] - day) // 10**6)) for candle in made]
        days[f"{name}_trade.zip"] = {f"{name}_btcusd_minute_trade.csv": "".join(lines)}
    assert len(days) > 1
    assert {file.name: unpacked(file) for file in home.iterdir()} == days


def unpacked(file: Path) -> dict[str, str]:
    with zipfile.ZipFile(file) as packed:
        return {name: packed.read(name).decode() for name in packed.namelist()}


@pytest.mark.parametrize(("interval", "kind"), [("1h", "hour"), ("1d", "daily")])
def test_lean_reads_hours_and_days_from_one_file(interval: str, kind: str, tmp_path: Path) -> None:
    hour = 1_705_795_200 * SECOND
    figures = {"open": Decimal(2), "high": Decimal(3), "low": Decimal(1), "close": Decimal("2.5")}
    schema = pa.schema(
        {"time": pa.timestamp("ns")}
        | dict.fromkeys(figures, pa.decimal128(18, 10))
        | {"volume": pa.decimal128(38, 8)}
    )
    row = {"time": hour, **figures, "volume": Decimal("0.10000000")}
    batch = pa.RecordBatch.from_pylist([row], schema=schema)
    pair = Pair(altname="XBTUSD", wsname="XBT/USD")
    write_lean_candles([batch], pair, parse_interval(interval), str(tmp_path))
    file = tmp_path / "crypto" / "kraken" / kind / "btcusd_trade.zip"
    assert unpacked(file) == {"btcusd.csv": "20240121 00:00,2,3,1,2.5,0.1\n"}
    # As if nothing were stored of the range.
    write_lean_candles([], pair, parse_interval(interval), str(tmp_path))
    assert unpacked(file) == {"btcusd.csv": "20240121 00:00,2,3,1,2.5,0.1\n"}


@pytest.mark.parametrize("interval", ["1m", "1h"])
def test_no_file_of_lean_loses_candles(interval: str, archive: TradeStore, tmp_path: Path) -> None:
    """From half past eleven: a day's file grows, but is not cut at either end."""

    def export(since: int | str = "start", until: int | None = None) -> None:
        opened.export(
            "XBT/USD",
            folder=tmp_path,
            intervals=[interval],
            layout="lean",
            since=since,
            until=until,
        )

    def files() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in tmp_path.rglob("*.zip")}

    day_ns = BUSY[0][1] // (86_400 * SECOND) * 86_400 * SECOND
    inside = day_ns + 23 * 3600 * SECOND + 30 * MINUTE
    with harvester.open(archive.path) as opened:
        for until in (inside - 5 * MINUTE, inside):
            export(until=until)
        export()
        whole_files = files()
        bounds: list[tuple[int | str, int | None]] = [(inside, None), ("start", inside)]
        for since, end in bounds:
            with pytest.raises(UsageError) as caught:
                export(since, end)
            assert "_trade.zip has candles from 20" in str(caught.value)
            assert "give a range that contains them, or remove the file" in str(caught.value)
            assert files() == whole_files
        export(since=day_ns)
    assert files() == whole_files


@pytest.mark.parametrize(
    ("wsname", "symbol"),
    [
        ("XBT/USD", "btcusd"),
        ("LTC/XBT", "ltcbtc"),
        ("XBT/EUR", "btceur"),
        ("LUNA2/USD", "luna2usd"),
        ("LUNA/USD", "lunausd"),
        ("REPV2/USD", "repv2usd"),
        ("REP/USD", "repusd"),
        ("XDG/USD", "xdgusd"),
        ("XDG/XBT", "xdgbtc"),
        ("UST/USD", "ustusd"),
        ("USDT/USD", "usdtusd"),
    ],
)
def test_lean_is_given_krakens_names_but_for_bitcoin(
    wsname: str, symbol: str, tmp_path: Path
) -> None:
    row = {"time": 0, "is_complete": True, "volume": Decimal(1)}
    row |= dict.fromkeys(("open", "high", "low", "close"), Decimal(2))
    pair = Pair(altname=wsname.replace("/", ""), wsname=wsname)
    for interval in ("1m", "1h"):
        batch = pa.RecordBatch.from_pylist([row])
        exported = write_candle_layout(
            [batch], pair, parse_interval(interval), "lean", str(tmp_path)
        )
        assert exported.rows == 1
    home = tmp_path / "crypto" / "kraken"
    [minutes] = (home / "minute").iterdir()
    [hours] = (home / "hour").iterdir()
    assert (minutes.name, hours.name) == (symbol, f"{symbol}_trade.zip")
    assert list(unpacked(hours)) == [f"{symbol}.csv"]
    assert list(unpacked(minutes / "19700101_trade.zip")) == [f"19700101_{symbol}_minute_trade.csv"]


def test_an_interval_that_lean_does_not_know_is_refused() -> None:
    with pytest.raises(BadInterval) as caught:
        lean_resolution(parse_interval("7m"))
    assert str(caught.value) == "LEAN has no interval '7m': give one of 1s, 1m, 1h, 1d"


# --- any type as text ----------------------------------------------------------------------------

# What is asked, its text, and what JSON makes of it.
TYPES: list[tuple[str, str, Any]] = [
    ("170141183460469231731687303715884105727::HUGEINT", "1701411834604692317316873037158841057"
     "27", "170141183460469231731687303715884105727"),
    ("340282366920938463463374607431768211455::UHUGEINT", "3402823669209384634633746074317682114"
     "55", "340282366920938463463374607431768211455"),
    ("12345678901234567890123456789012345678901234::BIGNUM", "123456789012345678901234567890123"
     "45678901234", "12345678901234567890123456789012345678901234"),
    ("-1.50::DECIMAL(9, 3)", "-1.5", "-1.5"),
    ("0.01::DECIMAL(38, 20)", "0.01", "0.01"),
    ("0.00::DECIMAL(18, 2)", "0", "0"),
    ("NULL", "", None),
    ("NULL::DECIMAL(18, 2)", "", None),
    ("true", "true", True),
    ("18446744073709551615::UBIGINT", "18446744073709551615", 18446744073709551615),
    ("TIMESTAMP_NS '2024-01-02 03:04:05.000000007'", "2024-01-02T03:04:05.000000007Z",
     "2024-01-02T03:04:05.000000007Z"),
    ("TIMESTAMPTZ '2024-01-02 03:04:05+02'", "2024-01-02T01:04:05Z", "2024-01-02T01:04:05Z"),
    ("TIMESTAMP '1066-10-14 09:00:00.5'", "1066-10-14T09:00:00.5Z", "1066-10-14T09:00:00.5Z"),
    ("'infinity'::TIMESTAMP", "infinity", "infinity"),
    ("'-infinity'::TIMESTAMPTZ", "-infinity", "-infinity"),
    ("'infinity'::TIMESTAMP_NS", "infinity", "infinity"),
    ("'-infinity'::DATE", "-infinity", "-infinity"),
    ("TIMESTAMP '32768-01-01'", "<value out of range: 971890963200000000>",
     "<value out of range: 971890963200000000>"),
    ("DATE '0044-03-15 (BC)'", "-0043-03-15", "-0043-03-15"),
    ("TIME '12:34:56.5'", "12:34:56.5", "12:34:56.5"),
    ("TIMETZ '12:34:56+02'", "12:34:56+02", "12:34:56+02"),
    ("INTERVAL '1 month 2 days'", "1 month 2 days", "1 month 2 days"),
    ("'\\xAA\\x00'::BLOB", "aa00", "aa00"),
    ("'0101'::BIT", "0101", "0101"),
    ("'x'::ENUM('x', 'y')", "x", "x"),
    ("[1.10::DECIMAL(18, 10), NULL]", '["1.1",null]', ["1.1", None]),
    ("[1, 2]::INTEGER[2]", "[1,2]", [1, 2]),
    ("{'t': TIMESTAMP_NS '2024-01-02', 'l': [true]}", '{"t":"2024-01-02T00:00:00Z","l":[true]}',
     {"t": "2024-01-02T00:00:00Z", "l": [True]}),
    ("MAP {'k': 1}", '[{"key":"k","value":1}]', [{"key": "k", "value": 1}]),
    ("[INTERVAL 1 DAY]", "[1 day]", "[1 day]"),
    ("union_value(n := 1)", "1", "1"),
]  # fmt: skip


def written(query: str, form: str, folder: Path) -> bytes:
    store = TradeStore(folder / "none")
    rows = Result(source_of_sql(store, query, None, names={}, memory_limit="2GB"))
    write_result(rows, form, str(folder / "made"))
    return (folder / "made").read_bytes()


# A column for each type: its name is what is asked.
COLUMNS = ", ".join(f'{value} AS "{value}"' for value, _, _ in TYPES)
NAMES = [value for value, _, _ in TYPES]
CELLS = [shown for _, shown, _ in TYPES]
TWO_ROWS = f"SELECT {COLUMNS}, 'y' AS y UNION ALL SELECT {COLUMNS}, 'y'"


def test_any_type_of_duckdbs_is_written_exactly_as_csv(tmp_path: Path) -> None:
    def forms(shown: str) -> str:
        """A pattern for a cell, which may be quoted though it need not be."""
        quoted = '"' + shown.replace('"', '""') + '"'
        must_be_quoted = '"' in shown or "," in shown
        return "|".join(re.escape(text) for text in {quoted, quoted if must_be_quoted else shown})

    lines = written(TWO_ROWS, "csv", tmp_path).decode().splitlines()[1:]
    assert list(csv.reader(lines)) == [[*CELLS, "y"]] * 2
    pattern = ",".join(f"({forms(cell)})" for cell in [*CELLS, "y"])
    assert all(re.fullmatch(pattern, line) for line in lines)


def test_any_type_of_duckdbs_is_written_exactly_as_a_table(tmp_path: Path) -> None:
    shown = written(TWO_ROWS, "table", tmp_path).decode()
    assert shown == table([*NAMES, "y"], [[*CELLS, "y"]] * 2) + "\n"


def test_any_type_of_duckdbs_is_written_exactly_as_json(tmp_path: Path) -> None:
    rows = [{value: in_json for value, _, in_json in TYPES} | {"y": "y"}] * 2
    assert json.loads(written(TWO_ROWS, "json", tmp_path)) == rows
    lines = written(TWO_ROWS, "jsonl", tmp_path).splitlines()
    assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_any_type_of_duckdbs_goes_into_files(form: str, tmp_path: Path) -> None:
    made = io.BytesIO(written(f"SELECT {COLUMNS} FROM range(3)", form, tmp_path))  # noqa: S608
    read = pq.read_table(made) if form == "parquet" else pa.ipc.open_file(made).read_all()
    assert (read.column_names, read.num_rows) == (NAMES, 3)
    nulls = {name for name in NAMES if read.column(name).null_count}
    assert nulls == {value for value, _, in_json in TYPES if in_json is None}


def test_columns_of_one_name_are_all_there(tmp_path: Path) -> None:
    assert json.loads(written("SELECT 1 AS a, 2 AS A, 3 AS a", "jsonl", tmp_path)) == {
        "a": 1,
        "A_": 2,
        "a__": 3,
    }


def test_a_header_is_quoted_where_it_must_be(tmp_path: Path) -> None:
    made = written('SELECT 1 AS "a,b", 2 AS "say ""x"""', "csv", tmp_path)
    assert made == b'"a,b","say ""x"""\n1,2\n'


def test_a_query_without_rows_has_its_header_in_every_format(tmp_path: Path) -> None:
    query = "SELECT 1 AS a WHERE false"
    made = {form: written(query, form, tmp_path) for form in FORMATS}
    assert (made["csv"], made["table"], made["json"], made["jsonl"]) == (
        b"a\n",
        b"a\n",
        b"[\n]\n",
        b"",
    )
    assert list(pd.read_parquet(io.BytesIO(made["parquet"]))) == ["a"]
    assert list(pd.read_feather(io.BytesIO(made["arrow"]))) == ["a"]


def test_a_long_table_is_lined_up_by_the_block(tmp_path: Path) -> None:
    made = written("SELECT range AS n, 'x' AS x FROM range(30000)", "table", tmp_path).decode()
    lines = made.splitlines()
    assert (len(lines), lines[0].split(), lines[1].split()) == (30_001, ["n", "x"], ["0", "x"])
    assert [line.split()[0] for line in lines[1:]] == [str(n) for n in range(30_000)]
    assert {len(line) for line in lines[1:]} == {len(lines[-1])}


# --- who reads only the beginning ----------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["trades", "XBTUSD", "-f", "csv"],
        ["trades", "XBTUSD"],
        ["ohlc", "XBTUSD", "-i", "1s", "-f", "csv"],
        ["sql", "FROM trades"],
    ],
)
def test_head_ends_a_command_cleanly(arguments: list[str], archive: TradeStore) -> None:
    command = subprocess.Popen(
        [*HARVESTER, *arguments, "-d", archive.path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"HARVESTER_CANDLES_MEMORY_LIMIT": "1GB"},
    )
    assert command.stdout is not None
    head = subprocess.run(["head", "-1"], stdin=command.stdout, capture_output=True, check=True)  # noqa: S607
    command.stdout.close()
    assert command.stderr is not None
    assert (command.stderr.read(), command.wait(timeout=30)) == (b"", 0)
    command.stderr.close()
    assert head.stdout.decode().startswith(("trade_id", "time"))
