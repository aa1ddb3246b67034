"""`harvester import` as a user meets it, alone, with the exchange, and killed."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import candle_oracle
import csv_files
import pytest
import sample_trades
from backfills import foreign_files, rows_on_disk, serve
from cli_output import Answer, answer_of
from command_line import own_environment, run_harvester
from crash_points import Plan
from kraken_market import Market, expected
from kraken_server import Exchange

from harvester.csv_import.chain_importer import ChainImporter, ImportOptions
from harvester.csv_import.csv_files import CompletePeriod, find
from harvester.csv_import.file_scan import read_rows, scan_file
from harvester.csv_import.import_pairs import import_pairs
from harvester.csv_import.pair_matching import PairFiles
from harvester.errors import DamagedFile
from harvester.events import CancelToken
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer

CAPTURED = Path(__file__).parents[2] / "shared" / "kraken"
TRADES = sample_trades.xbtusd_like(6_000, 81)
FAST = {
    "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.01",
    "HARVESTER_EXCHANGE_RATE": "0",
    "HARVESTER_EXCHANGE_GIVE_UP_S": "1",
}


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with serve(sample_trades.market(TRADES)) as server:
        yield server


@pytest.fixture
def harvester(exchange: Exchange, tmp_path: Path) -> Any:
    def run(*arguments: str, plan: Plan | None = None, **environment: str) -> Answer:
        given = {"HARVESTER_API_URL": exchange.url, "HARVESTER_DATA": str(tmp_path / "data")}
        variables = own_environment() | FAST | given | environment
        return answer_of(run_harvester(arguments, variables, tmp_path, plan=plan))

    return run


def amounts(folder: Path) -> list[tuple[Decimal, Decimal]]:
    """Prices and volumes of the stored trades, in order."""
    return [(row[3], row[4]) for row in rows_on_disk(folder, "XBTUSD")]


ALL = [(Decimal(trade.price), Decimal(trade.volume)) for trade in TRADES]


@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_an_import_and_a_backfill_together_are_the_exchanges_history(
    harvester: Any, tmp_path: Path, rounding: str
) -> None:
    """The boundary lies inside a second that holds many trades, however the file rounds."""
    early = csv_files.three_columns(TRADES[:4_000], rounding)
    csv_files.packed(tmp_path / "K.zip", {"TimeAndSales_Combined/XBTUSD.csv": early})
    done = harvester("import", "K.zip", "--json")
    assert done.status == 0
    [report] = json.loads(done.out)["files"]
    through = report["ranges"][-1][1]
    assert harvester("backfill", "XBTUSD").status == 0
    assert amounts(tmp_path / "data") == ALL
    assert [row for row in rows_on_disk(tmp_path / "data", "XBTUSD") if row[1] > through] == [
        row for row in expected(sample_trades.market(TRADES)) if row[1] > through
    ]
    verified = harvester("verify")
    assert (verified.status, verified.err) == (0, "")
    assert foreign_files(tmp_path / "data") == []


def test_an_import_is_in_the_run_log_and_reports_its_progress(
    harvester: Any, tmp_path: Path
) -> None:
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(TRADES))
    done = harvester("import", "XBTUSD.csv", "--log-json")
    log_events = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    assert [event["event"] for event in log_events if event["event"] != "step"] == [
        "begun",
        "imported",
    ]
    size = (tmp_path / "XBTUSD.csv").stat().st_size
    [begun, *_] = [event for event in log_events if event["event"] == "step"]
    assert (begun["pair"], begun["done"], begun["of"]) == ("XBTUSD", 0, size)
    [record] = json.loads(harvester("status", "--runs", "--json").out)
    assert (record["command"], record["state"], record["exit_status"]) == ("import", "ended", 0)
    assert (record["asked"]["files"], record["calls"]) == (["XBTUSD.csv"], 2)
    [pair] = record["pairs"]
    kept = log_events[-1]["imported"]["rows"]
    assert (pair["pair"], pair["trades"], record["trades"]) == ("XBTUSD", kept, kept)
    assert pair["covered_through_ns"] == log_events[-1]["ranges"][-1][1]


def test_an_import_that_failed_is_on_record_with_why(harvester: Any, tmp_path: Path) -> None:
    (tmp_path / "XBTUSD.csv").write_bytes(b"1705792331,nine,1\n")
    done = harvester("import", "XBTUSD.csv")
    [record] = json.loads(harvester("status", "--runs", "--json").out)
    [pair] = record["pairs"]
    assert (record["exit_status"], pair["exit_status"]) == (done.status, done.status)
    assert done.status == 2
    assert f"harvester: XBTUSD: {pair['error']}" in done.err.splitlines()


def test_the_file_fills_what_lies_around_held_trades(harvester: Any, tmp_path: Path) -> None:
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(TRADES))
    spans = [(1_000, 1_200), (3_000, 3_500)]
    for first, last in spans:
        since, until = TRADES[first].true_ns, TRADES[last].true_ns
        assert (
            harvester("backfill", "XBTUSD", "--since", str(since), "--until", str(until)).status
            == 0
        )
    before = rows_on_disk(tmp_path / "data", "XBTUSD")
    assert harvester("import", "XBTUSD.csv").status == 0
    after = rows_on_disk(tmp_path / "data", "XBTUSD")
    assert [row for row in after if row[5]] == before
    assert len(after) > 5_500
    assert harvester("backfill", "XBTUSD").status == 0
    assert amounts(tmp_path / "data") == ALL
    assert harvester("verify").status == 0


def test_a_pair_that_trades_no_more_ends_well(tmp_path: Path, harvester: Any) -> None:
    """The newest trade of the exchange lies in what the file covers, on another nanosecond."""
    for rounding in csv_files.ROUNDINGS:
        folder = str(tmp_path / rounding)
        (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(TRADES, rounding))
        until = str(csv_files.second(TRADES[-1], "up") + 60)
        done = harvester("import", "XBTUSD.csv", "--whole-until", until, "-d", folder)
        assert done.status == 0
        done = harvester("backfill", "XBTUSD", "-d", folder)
        assert (done.status, amounts(Path(folder))) == (0, ALL)
        assert harvester("verify", "-d", folder).status == 0


def test_candles_across_the_boundary_are_the_oracles(harvester: Any, tmp_path: Path) -> None:
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(TRADES[:4_000]))
    assert harvester("import", "XBTUSD.csv").status == 0
    assert harvester("backfill", "XBTUSD").status == 0
    done = harvester("ohlc", "XBTUSD", "-i", "1m", "-f", "csv")
    made = [
        (row["open"], row["high"], row["low"], row["close"], row["volume"], row["count"])
        for row in csv.DictReader(done.out.splitlines())
    ]
    truth = candle_oracle.candles(expected(sample_trades.market(TRADES)), 60 * 10**9)
    names = ("open", "high", "low", "close", "volume", "count")
    assert [tuple(Decimal(value) for value in row) for row in made] == [
        tuple(Decimal(candle[name]) for name in names) for candle in truth
    ]


def busiest_second() -> int:
    """The second in which most of the trades lie."""
    return Counter(csv_files.second(trade) for trade in TRADES).most_common(1)[0][0]


@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_the_api_from_inside_a_busy_second_on_and_the_file_up_to_it(
    harvester: Any, tmp_path: Path, rounding: str
) -> None:
    """The file holds that second whole, the API begins in the midst of its trades."""
    busy = busiest_second()
    inside = [trade for trade in TRADES if csv_files.second(trade) == busy]
    assert len(inside) > 5
    middle = inside[len(inside) // 2].true_ns
    assert harvester("backfill", "XBTUSD", "--since", str(middle)).status == 0
    before = [trade for trade in TRADES if csv_files.second(trade) <= busy]
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(before, rounding))
    done = harvester("import", "XBTUSD.csv", "--json")
    [report] = json.loads(done.out)["files"]
    through = report["ranges"][-1][1]
    assert through < middle
    assert harvester("backfill", "XBTUSD").status == 0
    truth = expected(sample_trades.market(TRADES))
    rows = rows_on_disk(tmp_path / "data", "XBTUSD")
    assert [row for row in rows if row[1] > through] == [row for row in truth if row[1] > through]
    assert amounts(tmp_path / "data") == ALL
    assert harvester("verify").status == 0
    since, until = busy // 60 * 60, busy // 60 * 60 + 60
    done = harvester(
        *("ohlc", "XBTUSD", "-i", "1m", "-f", "csv"), "--since", str(since), "--until", str(until)
    )
    [made] = csv.DictReader(done.out.splitlines())
    [true] = [
        candle
        for candle in candle_oracle.candles(truth, 60 * 10**9)
        if candle["time"] == since * 10**9
    ]
    names = ("open", "high", "low", "close", "volume", "count")
    assert [Decimal(made[name]) for name in names] == [Decimal(true[name]) for name in names]


@pytest.mark.skipif(
    not CAPTURED.is_dir(), reason=f"Kraken's captured answers are not at {CAPTURED}"
)
def test_the_hours_of_2018_from_three_columns_are_krakens(harvester: Any, tmp_path: Path) -> None:
    with (CAPTURED / "trades_XBTUSD_2018-05-08.csv").open(newline="") as file:
        rows = [
            [trade["price"], trade["volume"], trade["time"], trade["buy_or_sell"], "l", ""]
            for trade in csv.DictReader(file)
        ]
    market = Market.from_rows(rows)
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(market.trades))
    assert harvester("import", "XBTUSD.csv").status == 0
    done = harvester("ohlc", "XBTUSD", "-i", "1h", "-f", "csv")
    made = {
        row["time"]: [Decimal(row[name]) for name in ("open", "high", "low", "close", "volume")]
        + [Decimal(row["count"])]
        for row in csv.DictReader(done.out.splitlines())
    }
    with (CAPTURED / "ohlcvt_XBTUSD_60_2018-05-08.csv").open(newline="") as file:
        kraken_rows = [[Decimal(field) for field in row] for row in csv.reader(file)]
    by_hour = [value for _, value in sorted(made.items())][1:-1]
    first = next(at for at, row in enumerate(kraken_rows) if row[1:] == by_hour[0])
    assert by_hour == [row[1:] for row in kraken_rows[first : first + len(by_hour)]]
    assert len(by_hour) > 80


# --- whatever ends it ----------------------------------------------------------------------------


KILLS = [
    *(Plan(step="stage", when=when, nth=2) for when in ("before", "after")),
    *(Plan(step="write", when=when) for when in ("before", "after")),
    *(Plan(step="sync", when=when, nth=3) for when in ("before", "after")),
    *(Plan(step="rename", when=when, nth=nth) for when in ("before", "after") for nth in (1, 2)),
]


def test_killed_ten_times_an_import_is_exact(harvester: Any, tmp_path: Path) -> None:
    """Each kill falls on another step of a commit; the next run goes on from there."""
    years = [
        sample_trades.xbtusd_like(60, year, start_ns=sample_trades.utc_ns(year, 6, 1), first_id=1)
        for year in range(2012, 2026)
    ]
    trades = [trade for some in years for trade in some]
    amounts_of_trades = [(Decimal(trade.price), Decimal(trade.volume)) for trade in trades]
    members = {"T/XBTUSD.csv": csv_files.three_columns(trades)}
    csv_files.packed(tmp_path / "Kraken_Trading_History.zip", members)
    until = str(csv_files.second(trades[-1]) + 60)
    command = ("import", "Kraken_Trading_History.zip", "--whole-until", until)
    assert len(KILLS) == 10
    lengths = [0]
    for plan in KILLS:
        assert harvester(*command, plan=plan).status == -9
        held = amounts(tmp_path / "data")
        assert held == amounts_of_trades[: len(held)]
        lengths.append(len(held))
    assert lengths == sorted(lengths)
    assert harvester(*command).status == 0
    assert amounts(tmp_path / "data") == amounts_of_trades
    assert foreign_files(tmp_path / "data") == []
    assert harvester("verify").status == 0


def test_a_bad_row_names_its_line_and_keeps_its_range_out(harvester: Any, tmp_path: Path) -> None:
    lines = csv_files.three_columns(TRADES).splitlines(keepends=True)
    lines[3_000] = b"1705792500,nine,1.5\n"
    (tmp_path / "XBTUSD.csv").write_bytes(b"".join(lines))
    done = harvester("import", "XBTUSD.csv", "-q")
    assert (done.status, done.err) == (
        2,
        "harvester: XBTUSD: XBTUSD.csv, line 3001: '1705792500,nine,1.5' can't be read: price "
        "'nine' is no number; its range was not imported. --skip-bad-rows leaves such rows out "
        "and lists them\n",
    )
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == []
    done = harvester("import", "XBTUSD.csv", "--skip-bad-rows", "--json")
    [report] = json.loads(done.out)["files"]
    assert (done.status, report["bad"], report["read"]["rows"]) == (4, 1, 5_999)
    assert report["bad_rows"] == [
        {
            "line": 3001,
            "text": "1705792500,nine,1.5",
            "reason": "price 'nine' is no number",
            "file": "XBTUSD.csv",
        }
    ]


def damaged_zip(folder: Path) -> None:
    """Three years in a ZIP whose directory has another checksum."""
    years = [
        sample_trades.xbtusd_like(
            15_000, year, start_ns=sample_trades.utc_ns(2018 + year, 6, 1), first_id=1
        )
        for year in range(3)
    ]
    data = csv_files.three_columns([trade for some in years for trade in some])
    path = csv_files.packed(folder / "K.zip", {"XBTUSD.csv": data})
    raw = bytearray(path.read_bytes())
    place = raw.index(b"PK\x01\x02") + 16
    raw[place] ^= 1
    path.write_bytes(raw)


DAMAGED = "harvester: XBTUSD: K.zip:XBTUSD.csv is damaged: its bytes do not match its checksum\n"


def test_a_damaged_zip_leaves_nothing(harvester: Any, tmp_path: Path) -> None:
    damaged_zip(tmp_path)
    done = harvester("import", "K.zip", "-q")
    assert (done.status, done.err) == (2, DAMAGED)
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == []


def test_a_file_that_changes_while_it_is_imported_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage is found before anything is written; but a file may change after that."""
    years = [
        sample_trades.xbtusd_like(
            15_000, year, start_ns=sample_trades.utc_ns(2018 + year, 6, 1), first_id=1
        )
        for year in range(3)
    ]
    path = tmp_path / "XBTUSD.csv"
    path.write_bytes(csv_files.three_columns([trade for some in years for trade in some]))
    part = scan_file(*find([str(path)]))
    path.write_bytes(path.read_bytes()[:-2] + b"9\n")
    monkeypatch.setattr("harvester.csv_import.csv_files.BLOCK_BYTES", 10_000)
    archive, watch = (
        TradeStore(tmp_path / "data"),
        ImportOptions(lambda _pair, _size: None, CancelToken()),
    )
    with open_writer(archive, "XBTUSD") as pair_writer:
        chain = ChainImporter(archive, Pair(altname="XBTUSD"), [part], watch)
        with pytest.raises(DamagedFile, match="its bytes do not match its checksum"):
            chain.run(pair_writer)
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == []
    assert (chain.report.imported.rows, chain.report.ranges) == (0, [])
    # Else the next refresh would download a file's time of which nothing was imported.
    assert archive.requested("XBTUSD") == []
    assert len(list((tmp_path / "data" / "quarantine").rglob("*.parquet"))) >= 1


def test_rows_kept_since_the_check_become_what_rows_read_again_become(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the files of a pair have too many bytes together, each of them is read again."""
    for year in range(3):
        begin_ns = sample_trades.utc_ns(2018 + year, 6, 1)
        trades = sample_trades.xbtusd_like(1_500, year, start_ns=begin_ns, first_id=1)
        path = tmp_path / f"files/{year}/XBTUSD.csv"
        path.parent.mkdir(parents=True)
        path.write_bytes(csv_files.three_columns(trades))
    read = []

    def counted(*arguments: Any) -> Any:
        read.append(arguments)
        return read_rows(*arguments)

    monkeypatch.setattr("harvester.csv_import.file_scan.read_rows", counted)
    files = PairFiles(Pair(altname="XBTUSD"), find([str(tmp_path / "files")]), CompletePeriod())
    times, stored = [], []
    for most in (files.size - 1, files.size):
        monkeypatch.setattr("harvester.csv_import.import_pairs.MAX_KEPT_BYTES", most)
        folder, options = tmp_path / str(most), ImportOptions(lambda *_: None, CancelToken())
        reports = import_pairs(TradeStore(folder), [files], options)
        assert [report.error for report in reports] == [None] * 3
        times.append(len(read))
        stored.append(rows_on_disk(folder, "XBTUSD"))
    assert times == [6, 6 + 3]
    assert len(stored[0]) > 4_400
    assert stored[0] == stored[1]


# --- names and plans -----------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(harvester: Any, tmp_path: Path) -> None:
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(TRADES))
    done = harvester("import", "XBTUSD.csv", "--dry-run", "--json")
    [plan] = json.loads(done.out)["files"]
    assert (done.status, plan["pair"], plan["layout"]) == (
        0,
        "XBTUSD",
        "time,price,volume without header",
    )
    assert plan["bytes"] == (tmp_path / "XBTUSD.csv").stat().st_size
    assert not (tmp_path / "data" / "trades").exists()


def test_pairs_picks_from_a_zip_by_any_spelling_and_by_pattern(
    harvester: Any, tmp_path: Path
) -> None:
    data = csv_files.three_columns(TRADES[:50])
    csv_files.packed(
        tmp_path / "K.zip", {"XBTUSD.csv": data, "OLDUSD.csv": data, "OLDEUR.csv": data}
    )

    def picked(*options: str) -> list[str]:
        done = harvester("import", "K.zip", "--dry-run", "--json", "--delisted", *options)
        return [load["pair"] for load in json.loads(done.out)["files"]] if done.out else [done.err]

    assert picked("--pairs", "btc/usd") == ["XBTUSD"]
    assert picked("--pairs", "*USD") == ["XBTUSD", "OLDUSD"]
    assert picked("--pairs", "BTC/USD,OLDEUR") == ["XBTUSD", "OLDEUR"]
    assert picked() == ["XBTUSD", "OLDUSD", "OLDEUR"]
    assert picked("--pairs", "ETH/EUR") == [
        "harvester: --pairs ETH/EUR: none of the files is of it; --dry-run lists their pairs\n"
    ]


def test_a_file_of_an_unknown_pair_is_skipped_with_a_message(
    harvester: Any, tmp_path: Path
) -> None:
    data = csv_files.three_columns(TRADES[:50])
    csv_files.packed(tmp_path / "K.zip", {"XBTUSD.csv": data, "OLDUSD.csv": data})
    done = harvester("import", "K.zip", "-q", "--json")
    assert (done.status, json.loads(done.out)["unknown"]) == (2, ["K.zip:OLDUSD.csv"])
    assert done.err == (
        "1 file skipped, because the exchange lists no pair of that name: K.zip:OLDUSD.csv "
        "(--delisted imports pairs that are no longer listed, --pair names the pair of a file)\n"
    )
    assert harvester("import", "K.zip", "-q", "--delisted").status == 0
    assert len(rows_on_disk(tmp_path / "data", "OLDUSD")) > 30


def test_a_pair_that_is_known_needs_no_exchange(harvester: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_bytes(csv_files.three_columns(TRADES))
    assert harvester("pairs", "--update").status == 0
    done = harvester(
        "import", "mine.csv", "--pair", "btc/usd", HARVESTER_API_URL="http://127.0.0.1:9"
    )
    assert done.status == 0
    assert len(rows_on_disk(tmp_path / "data", "XBTUSD")) > 5_900
