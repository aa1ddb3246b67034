"""`harvester import --delisted`: nothing of a pair that is listed no more can be downloaded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import csv_files
import msgspec
import pyarrow.parquet as pq
import pytest
import sample_trades
from backfills import rows_on_disk, serve
from cli_output import Answer, answer_of
from command_line import own_environment, run_harvester
from kraken_faults import Faults
from kraken_market import Clock, Market, Trade
from kraken_server import Exchange

from harvester.kraken.pairs import kraken_altname
from harvester.schema import NO_ROWS
from harvester.storage import locks_and_requests
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import SECOND, Range, missing

NOW_NS = sample_trades.utc_ns(2024, 9, 1)
OLD = sample_trades.xbtusd_like(300, 91, start_ns=sample_trades.utc_ns(2024, 1, 20), gap_s=60.0)
NEW = sample_trades.xbtusd_like(200, 92, start_ns=sample_trades.utc_ns(2024, 8, 1), first_id=1)
LISTED = Market("FOOUSD", "FOO2ZUSD", "FOO/USD", "FOO2", "ZUSD", trades=NEW)
WHOLE = ("--whole-since", "2024-01", "--whole-until", "2024-04")
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with serve(sample_trades.market(NEW), clock=Clock(NOW_NS)) as server:
        yield server


@pytest.fixture
def command(exchange: Exchange, tmp_path: Path) -> Any:
    """Run `harvester` in a folder with the file of a pair that the exchange does not list."""
    (tmp_path / "FOOUSD.csv").write_bytes(csv_files.three_columns(OLD))

    def run(*arguments: str, url: str = exchange.url) -> Answer:
        own = {
            "HARVESTER_API_URL": url,
            "HARVESTER_DATA": str(tmp_path / "data"),
            "HARVESTER_EXCHANGE_RATE": "0",
            "HARVESTER_EXCHANGE_GIVE_UP_S": "0.2",
            "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.01",
        }
        done = run_harvester(arguments, own_environment() | own, tmp_path)
        return answer_of(done)

    return run


def volumes(folder: Path, pair: str = "FOOUSD") -> list[Decimal]:
    """The volume of each stored trade, in order."""
    return [row[4] for row in rows_on_disk(folder / "data", pair)]


def rows_of(file: Path) -> list[tuple[Any, ...]]:
    """The rows of a segment, as `rows_on_disk` gives them."""
    table = pq.ParquetFile(file).read()
    table = table.set_column(1, "time", table.column("time").cast("int64"))
    return list(zip(*table.to_pydict().values(), strict=True))


OLD_VOLUMES = [Decimal(trade.volume) for trade in OLD]

# --- the name is given to another market ----------------------------------------------------------

CHANGED = (
    "FOOUSD: the exchange now uses this name for another market, FOO2ZUSD, than the archive does, "
    "delisted:FOOUSD: nothing was added. Keep the old trades where they are, and download the new "
    "market into another folder (--data FOLDER)"
)


@pytest.mark.parametrize(
    ("download", "named"),
    [
        (("refresh",), ()),
        (("backfill", "FOO/USD"), ()),
        (("backfill", "*USD"), ()),
        (("backfill", "*USD"), ("--pair", "FOOUSD")),
    ],
    ids=" ".join,
)
def test_nothing_of_another_market_is_added_to_a_delisted_pair(
    download: tuple[str, ...],
    named: tuple[str, ...],
    command: Any,
    exchange: Exchange,
    tmp_path: Path,
) -> None:
    assert command("import", "FOOUSD.csv", "--delisted", *named, *WHOLE).status == 0
    assert command("refresh").status == 0
    exchange.add(LISTED)
    done = command(*download)
    assert (done.status, CHANGED in done.err) == (4, True)
    assert volumes(tmp_path) == OLD_VOLUMES


@pytest.mark.parametrize("named", [(), ("--pair", "foo/usd")])
def test_a_pair_that_the_exchange_lists_is_not_delisted(
    named: tuple[str, ...], command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    exchange.add(LISTED)
    assert command("import", "FOOUSD.csv", "--delisted", *named, *WHOLE).status == 0
    footer = TradeStore(tmp_path / "data").market_footer("FOOUSD")
    assert footer is not None
    assert footer.key == "FOO2ZUSD"
    assert command("refresh").status == 0
    assert volumes(tmp_path)[len(OLD) :] == [Decimal(trade.volume) for trade in NEW]


def test_a_pair_that_the_exchange_was_not_asked_about_is_not_delisted(
    command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    named = ("--pair", "FOOUSD", "--delisted")
    assert command("import", "FOOUSD.csv", *named, *WHOLE, url=NOBODY).status == 0
    exchange.add(LISTED)
    assert command("refresh").status == 0
    assert volumes(tmp_path)[len(OLD) :] == [Decimal(trade.volume) for trade in NEW]


def test_more_files_of_a_delisted_pair_are_added_to_it(command: Any, tmp_path: Path) -> None:
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "FOOUSD.csv").write_bytes(csv_files.three_columns(OLD[:100]))
    assert command("import", "early", "--delisted").status == 0
    assert command("import", "FOOUSD.csv", "--delisted", *WHOLE).status == 0
    assert volumes(tmp_path) == OLD_VOLUMES


# --- nothing can be downloaded --------------------------------------------------------------------

UNLISTED = (
    "FOOUSD: the exchange does not list this pair any more (Unknown asset pair): nothing of it can "
    "be downloaded, and what is stored stays"
)


def is_complete(command: Any) -> bool:
    """Whether nothing is missing, by all commands that say so."""
    return [command(name, "FOOUSD").status for name in ("status", "verify")] == [0, 0]


def test_a_delisted_pair_stays_complete_whatever_is_tried(command: Any, tmp_path: Path) -> None:
    imported = command("import", "FOOUSD.csv", "--delisted", *WHOLE)
    assert imported.err.splitlines()[-1] == "`harvester rollup` speeds up long queries"
    before = (tmp_path / "data/wanted/FOOUSD.json").read_bytes()
    for arguments in (("backfill", "FOOUSD"), ("backfill", "FOOUSD", "--replace-imported")):
        done = command(*arguments)
        assert (done.status, UNLISTED in done.err) == (3, True)
        assert (tmp_path / "data/wanted/FOOUSD.json").read_bytes() == before
        assert is_complete(command)
    assert command("verify", "FOOUSD", "--repair").status == 0
    assert command("refresh").status == 0
    assert volumes(tmp_path) == OLD_VOLUMES


def test_a_new_market_of_the_name_leaves_no_gap(command: Any, exchange: Exchange) -> None:
    command("import", "FOOUSD.csv", "--delisted", *WHOLE)
    exchange.add(LISTED)
    assert command("backfill", "FOO/USD").status == 4
    assert is_complete(command)


@pytest.mark.parametrize(
    ("key", "cure", "status"),
    [
        ("", ("refresh",), 0),
        ("FOOZUSD", ("refresh",), 0),
        ("delisted:FOOUSD", ("refresh",), 0),
        ("", ("backfill", "FOOUSD"), 3),
        ("FOOZUSD", ("verify", "FOOUSD", "--repair"), 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_gap_that_nothing_can_fill_goes_until_the_pair_is_listed_again(
    key: str,
    cure: tuple[str, ...],
    status: int,
    command: Any,
    exchange: Exchange,
    tmp_path: Path,
) -> None:
    store = TradeStore(tmp_path / "data")
    span = Range(0, sample_trades.utc_ns(2024, 4, 1))
    named = msgspec.json.encode({"altname": "FOOUSD", "key": key}).decode()
    with open_writer(store, "FOOUSD") as pair_writer:
        pair_writer.commit(span, NO_ROWS, Footer(span, named))
        pair_writer.record_requested(span._replace(through=sample_trades.utc_ns(2024, 8, 20)))
    assert not is_complete(command)
    assert command(*cure).status == status
    assert is_complete(command)
    assert [command("backfill", "FOOUSD").status, is_complete(command)] == [3, True]
    requests = locks_and_requests.read_requests(store.store, "FOOUSD")
    assert list(requests.ranges) == [Range(0, sample_trades.utc_ns(2024, 8, 20))]
    if key == "FOOZUSD":
        market = Market("FOOUSD", key, "FOO/USD", "FOO2", "ZUSD", trades=NEW)
        exchange.add(market)
        assert command("refresh").status == 0
        assert volumes(tmp_path) == [Decimal(trade.volume) for trade in NEW]
        assert not locks_and_requests.read_requests(store.store, "FOOUSD").is_unlisted


@pytest.mark.parametrize("url", [None, NOBODY])
def test_a_list_that_lacks_a_pair_hides_no_gap_of_it(
    url: str | None, command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    """The exchange can't be asked, or it answers for the pair all the same."""
    exchange.add(LISTED)
    assert command("backfill", "FOOUSD", "--until", "2024-08-02").status == 0
    with open_writer(TradeStore(tmp_path / "data"), "FOOUSD") as pair_writer:
        pair_writer.record_requested(Range(0, sample_trades.utc_ns(2024, 8, 20)))
    exchange.unlisted.add("FOOUSD")
    if url is None:
        assert command("refresh").status == 0
        assert volumes(tmp_path) == [Decimal(trade.volume) for trade in NEW]
    else:
        assert command("backfill", "FOOUSD", url=url).status == 3
        assert not is_complete(command)


def test_a_damaged_end_of_a_delisted_pair_stays_a_gap(command: Any, tmp_path: Path) -> None:
    command("import", "FOOUSD.csv", "--delisted", *WHOLE)
    [file] = (tmp_path / "data/trades").rglob("*.parquet")
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2])
    for arguments in (("verify", "--repair"), ("backfill", "FOOUSD"), ("refresh",)):
        command(*arguments)
        assert not is_complete(command)


def test_a_lost_end_stays_a_gap_if_the_exchange_fails_until_the_pair_is_delisted(
    command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    around_new_year = sample_trades.xbtusd_like(
        300, 93, start_ns=sample_trades.utc_ns(2023, 12, 31, 20), gap_s=300.0, first_id=1
    )
    exchange.add(replace(LISTED, trades=around_new_year))
    assert command("backfill", "FOOUSD").status == 0
    [_, last] = sorted((tmp_path / "data/trades").rglob("*.parquet"), key=lambda path: path.name)
    last.write_bytes(last.read_bytes()[:-100])
    for arguments in (("verify", "--repair"), ("refresh",)):
        exchange.faults = Faults(script=["http:503"] * 60)
        assert command(*arguments).status in (3, 4)
    exchange.faults = Faults()
    exchange.delist("FOOUSD")
    assert [command(word).status for word in ("refresh", "status", "refresh")] == [4, 4, 4]


# --- a repair -------------------------------------------------------------------------------------

DENSE = [
    Trade(
        sample_trades.utc_ns(2024, 3, 31, 23, 40) + at * 10**9 + 345_678_901,
        "5.5",
        f"{at + 1}.50000000",
        "b",
        "m",
        "",
        at + 1,
    )
    for at in range(2_400)
]
"""A trade each second around the turn of two quarters: there is no quiet moment among them."""
QUARTERS = {2: DENSE[1_205:], 1: DENSE[:1_195]}
"""Ten trades are missing where the quarters meet."""
FOO = Market("FOOUSD", "FOOZUSD", "FOO/USD", "FOO", "ZUSD", trades=OLD)


def import_quarters(command: Any, folder: Path) -> None:
    for quarter, trades in QUARTERS.items():
        name = f"Kraken_Trading_History_Q{quarter}_2024.zip"
        csv_files.packed(folder / name, {"FOOUSD.csv": csv_files.seven_columns(trades)})
        done = command("import", name, "--delisted")
        assert done.status == 0, done.err


def quarantined(folder: Path) -> list[Path]:
    """The files in quarantine, without the notes."""
    return sorted((folder / "data/quarantine").rglob("*.parquet"))


def volumes_of(trades: Sequence[Trade]) -> list[Decimal]:
    return [Decimal(trade.volume) for trade in trades]


GAP_ENDS = ((2024, 3, 31, 23, 59, 55), (2024, 4, 1))


def test_where_ids_of_a_delisted_pair_are_missing_all_rows_are_stored_and_stay(
    command: Any, tmp_path: Path
) -> None:
    import_quarters(command, tmp_path)
    for words in (["status"], ["verify", "--repair"], ["status"]):
        done = command(*words)
        assert done.status == 0
        assert "downloaded" not in done.out
        assert volumes(tmp_path) == volumes_of([*QUARTERS[1], *QUARTERS[2]])
    # From behind the second of the last row to where the other quarter was complete before.
    gap = Range(*(sample_trades.utc_ns(*when) - 1 for when in GAP_ENDS))
    archive = TradeStore(tmp_path / "data")
    ends = QUARTERS[1][0].true_ns, QUARTERS[2][-1].true_ns
    assert missing([Range(*ends)], archive.coverage("FOOUSD")) == [gap]
    assert quarantined(tmp_path) == []


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "a bad row"])
def test_what_the_damaged_file_of_a_quarter_lacks_is_a_gap_until_a_whole_one_is_imported(
    is_cut: bool, command: Any, tmp_path: Path
) -> None:
    """The disk was full when it was unpacked, or lost a block; `refresh` forgets nothing of it."""
    folder = tmp_path / "Kraken_Trading_History_Q1_2024"
    folder.mkdir()
    rows = csv_files.three_columns(OLD[:150])
    (folder / "FOOUSD.csv").write_bytes(rows[:-1] if is_cut else rows + b"x\n")
    assert command("import", folder.name, "--delisted", "--skip-bad-rows").status == 4
    later = "Kraken_Trading_History_Q3_2024.zip"
    csv_files.packed(tmp_path / later, {"FOOUSD.csv": csv_files.three_columns(NEW)})
    for words in (["refresh"], ["import", later, "--delisted"], ["refresh"]):
        command(*words)
        gaps = TradeStore(tmp_path / "data").gaps("FOOUSD")
        end_ns = sample_trades.utc_ns(2024, 4, 1)
        assert any(gap.after < OLD[150].true_ns and end_ns - 1 <= gap.through for gap in gaps)
        assert command("status").status == 4
    whole = f"{folder.name}.zip"
    csv_files.packed(tmp_path / whole, {"FOOUSD.csv": csv_files.three_columns(OLD)})
    assert command("import", whole, "--delisted").status == 0
    assert TradeStore(tmp_path / "data").gaps("FOOUSD") == []
    assert [command(word).status for word in ("status", "refresh", "verify")] == [0, 0, 0]
    assert len(volumes(tmp_path)) == len(OLD) + len(NEW)


def test_what_the_cut_file_of_a_whole_history_lacks_is_a_gap_until_a_whole_one_is_imported(
    command: Any, tmp_path: Path
) -> None:
    folder, rows = tmp_path / "Kraken_Trading_History", csv_files.three_columns(OLD)
    folder.mkdir()
    (folder / "FOOUSD.csv").write_bytes(rows[: len(rows) // 2 - 3])
    assert command("import", folder.name, "--delisted").status == 2
    assert command("import", folder.name, "--delisted", "--skip-bad-rows").status == 4
    assert [command(word).status for word in ("refresh", "status", "refresh")] == [4, 4, 4]
    csv_files.packed(tmp_path / f"{folder.name}.zip", {"FOOUSD.csv": rows})
    assert command("import", f"{folder.name}.zip", "--delisted").status == 0
    assert [command(word).status for word in ("status", "refresh", "verify")] == [0, 0, 0]
    assert volumes(tmp_path) == OLD_VOLUMES


@pytest.mark.parametrize("option", [(), ("--delisted",)])
def test_what_a_damaged_file_lacks_of_a_pair_that_was_delisted_since_stays_a_gap(
    option: tuple[str, ...], command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    """Also if the exchange listed the pair once more, for as long as one refresh."""
    market = replace(LISTED, trades=OLD)
    exchange.add(market)
    assert command("backfill", "FOOUSD", "--until", "2024-01-20T00:12").status == 0
    exchange.delist("FOOUSD")
    (tmp_path / "FOOUSD.csv").write_bytes(csv_files.three_columns(OLD[:150]) + b"x\n")
    assert command("import", "FOOUSD.csv", "--skip-bad-rows", *option).status == 4
    assert [command(word).status for word in ("refresh", "status")] == [4, 4]
    if option:
        exchange.add(market)
        command("refresh")
        exchange.delist("FOOUSD")
        assert [command(word).status for word in ("refresh", "status")] == [4, 4]


@pytest.mark.parametrize("said", [(), ("--whole-since", "2013-01")])
def test_a_whole_history_in_a_zip_is_stored_up_to_shortly_after_its_last_row(
    said: tuple[str, ...], command: Any, tmp_path: Path
) -> None:
    name = "Kraken_Trading_History.zip"
    csv_files.packed(tmp_path / name, {"FOOUSD.csv": csv_files.three_columns(OLD)})
    plan = command("import", name, "--delisted", *said, "--dry-run", "--json")
    [file] = json.loads(plan.out)["files"]
    assert command("import", name, "--delisted", *said).status == 0
    [[_, through]] = json.loads(command("status", "--json").out)[0]["coverage"]
    assert file["missing"][-1][1] == through == (OLD[-1].true_ns // SECOND + 3) * SECOND - 1
    assert [command(word).status for word in ("status", "refresh", "verify")] == [0, 0, 0]
    assert volumes(tmp_path) == OLD_VOLUMES


@pytest.mark.parametrize("is_listed_first", [False, True])
def test_rows_that_are_skipped_at_an_end_that_is_not_known_stay_a_gap(
    is_listed_first: bool, command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    """Of an unpacked history only the beginning is known."""
    name = "Kraken_Trading_History"
    (tmp_path / name).mkdir()
    (tmp_path / "FOOUSD.csv").rename(tmp_path / name / "FOOUSD.csv")
    if is_listed_first:
        exchange.add(replace(LISTED, trades=OLD))
        assert command("import", name).status == 0
        exchange.delist("FOOUSD")
    else:
        assert command("import", name, "--delisted").status == 0
    assert [command(word).status for word in ("refresh", "status", "refresh")] == [4, 4, 4]
    assert command("import", name, "--delisted", *WHOLE).status == 0
    assert [command(word).status for word in ("refresh", "status", "verify")] == [0, 0, 0]
    assert volumes(tmp_path) == OLD_VOLUMES


def test_a_last_row_whose_time_is_wrong_leaves_no_gap_that_nothing_can_fill(
    command: Any, tmp_path: Path
) -> None:
    rows = csv_files.three_columns(OLD).splitlines(keepends=True)
    wrong = b"2%b%b" % (rows[-1][1:10], rows[-1][10:])
    (tmp_path / "FOOUSD.csv").write_bytes(b"".join([*rows[:-1], wrong]))
    assert command("import", "FOOUSD.csv", "--delisted").status == 2
    assert command("import", "FOOUSD.csv", "--delisted", "--skip-bad-rows").status == 4
    assert command("refresh").status == 4
    name = "Kraken_Trading_History.zip"
    csv_files.packed(tmp_path / name, {"FOOUSD.csv": b"".join(rows)})
    assert command("import", name, "--delisted").status == 0
    assert [command(word).status for word in ("refresh", "status", "verify")] == [0, 0, 0]
    assert volumes(tmp_path) == OLD_VOLUMES


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_row_in_the_second_in_which_a_download_ended_is_stored_or_stays_a_gap(
    is_whole: bool, command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    """Rounded down, the last trade looks as if its time were covered; the whole history knows."""
    last_s = OLD[-1].true_ns // SECOND + 60
    ends = [
        Trade(last_s * SECOND + ms * 1_000_000, "5.5", "7.5", "b", "m", "", 301 + at)
        for at, ms in enumerate((100, 700))
    ]
    exchange.add(replace(LISTED, trades=[*OLD, *ends]))
    assert command("backfill", "FOOUSD", "--until", str(last_s * SECOND + 300_000_000)).status == 0
    exchange.delist("FOOUSD")
    data, name = csv_files.three_columns([*OLD, *ends]), "FOOUSD.csv"
    if is_whole:
        name = "Kraken_Trading_History.zip"
        csv_files.packed(tmp_path / name, {"FOOUSD.csv": data})
    else:
        (tmp_path / name).write_bytes(data)
    command("import", name, "--delisted")
    assert len(volumes(tmp_path)) == len(OLD) + 1 + is_whole
    status = 0 if is_whole else 4
    assert [command(word).status for word in ("refresh", "status", "refresh")] == [status] * 3


@pytest.mark.parametrize("milliseconds", [(), (550,), (550, 560)])
@pytest.mark.parametrize("through_s", [0.6, 1.6, 3.6])
@pytest.mark.parametrize("first_s", [sample_trades.utc_ns(2024, 1, 1), OLD[-1].true_ns])
def test_rows_beside_a_download_of_less_than_a_second_are_stored(
    first_s: int, through_s: float, milliseconds: Sequence[int], command: Any, exchange: Exchange,
    tmp_path: Path,
) -> None:  # fmt: skip
    """The downloaded range begins and ends in seconds that have other trades as well."""
    begin_ns = first_s // SECOND * SECOND
    stamps = [-600_000, -1_500, 300, *milliseconds, 1_550, 90_000, 900_000]
    trades = [
        Trade(begin_ns + ms * 1_000_000, "5.5", f"{at + 1}.5", "b", "m", "", at + 1)
        for at, ms in enumerate(stamps)
    ]
    exchange.add(replace(LISTED, trades=trades))
    ends = [str(begin_ns + round(s * SECOND)) for s in (0.5, through_s)]
    assert command("backfill", "FOOUSD", "--since", ends[0], "--until", ends[1]).status == 0
    exchange.delist("FOOUSD")
    name = "Kraken_Trading_History.zip"
    csv_files.packed(tmp_path / name, {"FOOUSD.csv": csv_files.three_columns(trades)})
    for _ in range(2):
        assert command("import", name, "--delisted").status == 0
        assert sorted(volumes(tmp_path)) == volumes_of(trades)
        assert [command(word).status for word in ("refresh", "status", "verify")] == [0] * 3


@pytest.mark.parametrize("first_id", [1, 2])
def test_an_id_that_a_delisted_pair_skipped_is_a_note(
    first_id: int, command: Any, tmp_path: Path
) -> None:
    """Its first part is in a file without ids, the rest in one with ids: nothing is wrong."""
    year_ns = sample_trades.utc_ns(2024, 1, 1)
    trades = [
        Trade(year_ns + (at - 50) * 10**13, "5.5", f"{at + 1}.5", "b", "m", "", at + 1)
        for at in range(100)
    ]
    trades = [
        replace(trade, trade_id=at + first_id + (first_id == 1 and at >= 20))
        for at, trade in enumerate(trades)
    ]
    whole, quarter = "Kraken_Trading_History.zip", "Kraken_Trading_History_Q1_2024.zip"
    older, newer = csv_files.three_columns(trades[:50]), csv_files.seven_columns(trades[50:])
    csv_files.packed(tmp_path / whole, {"FOOUSD.csv": older})
    csv_files.packed(tmp_path / quarter, {"FOOUSD.csv": newer})
    assert command("import", whole, quarter, "--delisted").status == 0
    csv_files.packed(tmp_path / whole, {"FOOUSD.csv": csv_files.three_columns(trades)})
    done = command("import", whole, "--delisted")
    text = "there are 50 imported trades, but 51 unused ids: the imported file lacks trades, or"
    assert (done.status, text in done.err) == (0, True), done.err
    assert "--replace-imported" not in done.err
    checked = command("verify")
    assert (checked.status, text in checked.out + checked.err) == (0, True)
    assert volumes(tmp_path) == volumes_of(trades)


@pytest.mark.parametrize("is_unpacked_first", [False, True])
def test_a_whole_history_and_an_unpacked_quarter_leave_no_gap_in_either_order(
    is_unpacked_first: bool, command: Any, tmp_path: Path
) -> None:
    """The silence at the end of the unpacked file may be that of a file which was cut off."""
    content, quarter = csv_files.three_columns(OLD), "Kraken_Trading_History_Q1_2024"
    (tmp_path / quarter).mkdir()
    (tmp_path / quarter / "FOOUSD.csv").write_bytes(content)
    names = [quarter, "Kraken_Trading_History.zip"]
    csv_files.packed(tmp_path / names[1], {"FOOUSD.csv": content})
    for name in names if is_unpacked_first else reversed(names):
        assert command("import", name, "--delisted").status == 0
    assert [command(word).status for word in ("refresh", "status", "verify")] == [0, 0, 0]
    assert volumes(tmp_path) == OLD_VOLUMES


@pytest.mark.parametrize("count", [0, 5])
def test_quarters_in_one_command_leave_no_gap_at_their_turn(
    count: int, command: Any, tmp_path: Path
) -> None:
    later = [replace(trade, true_ns=trade.true_ns + 91 * 86_400 * SECOND) for trade in OLD[:count]]
    names = [f"Kraken_Trading_History_Q{quarter}_2024.zip" for quarter in (1, 2)]
    for name, trades in zip(names, (OLD, later), strict=True):
        csv_files.packed(tmp_path / name, {"FOOUSD.csv": csv_files.three_columns(trades)})
    assert command("import", *names, "--delisted").status == 0
    assert [command(word).status for word in ("refresh", "status", "verify")] == [0, 0, 0]
    assert len(volumes(tmp_path)) == len(OLD) + count


@pytest.mark.parametrize("folder", ["Kraken_Trading_History_Q1_2024", "files"])
def test_no_gap_is_left_before_a_file_whose_first_row_was_bad(
    folder: str, command: Any, tmp_path: Path
) -> None:
    (tmp_path / folder).mkdir()
    rows = csv_files.three_columns(OLD)
    (tmp_path / folder / "FOOUSD.csv").write_bytes(b"x" + rows)
    assert command("import", folder, "--delisted", "--skip-bad-rows").status == 4
    assert command("status").status == 4
    (tmp_path / folder / "FOOUSD.csv").write_bytes(rows)
    assert command("import", folder, "--delisted", *WHOLE).status == 0
    assert [command(word).status for word in ("refresh", "status", "verify")] == [0, 0, 0]
    assert volumes(tmp_path) == OLD_VOLUMES


def test_no_gap_is_left_where_a_bad_row_of_a_whole_history_is_imported_again(
    command: Any, tmp_path: Path
) -> None:
    folder, rows = tmp_path / "Kraken_Trading_History", csv_files.three_columns(OLD)
    folder.mkdir()
    (folder / "FOOUSD.csv").write_bytes(
        rows[:3_000].rpartition(b"\n")[0] + b"\nx\n" + rows[-70:].partition(b"\n")[2]
    )
    assert command("import", folder.name, "--delisted", "--skip-bad-rows").status == 4
    # The gap lies behind the coverage, and stays all the same.
    assert [command(word).status for word in ("refresh", "status", "refresh")] == [4, 4, 4]
    csv_files.packed(tmp_path / f"{folder.name}.zip", {"FOOUSD.csv": rows})
    assert command("import", f"{folder.name}.zip", "--delisted").status == 0
    assert [command(word).status for word in ("refresh", "status", "verify")] == [0, 0, 0]


def test_the_silence_in_which_a_pair_was_delisted_is_covered_by_the_zip_of_the_quarter(
    command: Any, tmp_path: Path
) -> None:
    """Undamaged files, the first unpacked, so that its last second is in doubt."""
    content, name = csv_files.three_columns(OLD), "Kraken_Trading_History_Q1_2024"
    (tmp_path / name).mkdir()
    (tmp_path / name / "FOOUSD.csv").write_bytes(content)
    later = "Kraken_Trading_History_Q2_2024.zip"
    for file, rows in ((later, b""), (f"{name}.zip", content)):
        csv_files.packed(tmp_path / file, {"FOOUSD.csv": rows})
    for file in (name, later):
        assert command("import", file, "--delisted").status == 0
    last_ns = OLD[-1].true_ns
    [gap] = TradeStore(tmp_path / "data").gaps("FOOUSD")
    assert last_ns - 10**9 < gap.after < gap.through < last_ns + 10**9
    assert command("import", f"{name}.zip", "--delisted").status == 0
    [first, *others] = TradeStore(tmp_path / "data").coverage("FOOUSD")
    assert first.after < OLD[0].true_ns
    assert first.through >= sample_trades.utc_ns(2024, 4, 1) - 1
    assert all(
        after.after - before.through <= 10**9 for before, after in pairwise([first, *others])
    )
    assert (command("status").status, len(volumes(tmp_path))) == (0, len(OLD))


def test_ids_of_a_delisted_pair_that_are_missing_within_a_second_are_noted(
    command: Any, tmp_path: Path
) -> None:
    begin_ns = sample_trades.utc_ns(2024, 1, 20)
    trades = [
        Trade(begin_ns + at * 10**8, "5.5", f"{at + 1}.5", "b", "m", "", at + 1)
        for at in range(600)
        if at not in range(303, 306)
    ]
    (tmp_path / "FOOUSD.csv").write_bytes(csv_files.seven_columns(trades))
    done = command("import", "FOOUSD.csv", "--delisted")
    note = (
        "FOOUSD: 3 trade ids are missing at 1 place, the first between ids 303 and 307: nothing "
        "can download them, so that time counts as covered"
    )
    assert (done.status, note in done.err.splitlines()) == (0, True), done.err
    assert volumes(tmp_path) == volumes_of(trades)[10:-10]


def import_between_downloads(command: Any, exchange: Exchange, folder: Path) -> None:
    """The ids on both sides of the import show that it lacks a trade."""
    exchange.add(FOO)
    ends = [OLD[at].true_ns // 10**9 + 5 for at in (50, 250)]
    assert command("backfill", "FOO/USD", "--until", str(ends[0])).status == 0
    assert command("backfill", "FOO/USD", "--since", str(ends[1])).status == 0
    (folder / "FOOUSD.csv").write_bytes(csv_files.three_columns([*OLD[:150], *OLD[151:]]))
    assert command("import", "FOOUSD.csv").status == 4
    assert command("backfill", "FOO/USD").status == 4
    assert volumes(folder) == volumes_of([*OLD[:150], *OLD[151:]])


def test_a_repair_takes_no_trade_away_of_a_pair_that_was_delisted_since(
    command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    import_between_downloads(command, exchange, tmp_path)
    exchange.delist("FOOUSD")
    done = command("verify", "--repair")
    assert done.status == 4
    assert "the exchange does not list this pair any more" in done.err
    assert done.err.endswith("FOOUSD: nothing was moved\n")
    assert volumes(tmp_path) == volumes_of([*OLD[:150], *OLD[151:]])
    assert quarantined(tmp_path) == []


def test_what_needs_no_download_is_repaired_of_a_delisted_pair(
    command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    import_between_downloads(command, exchange, tmp_path)
    exchange.delist("FOOUSD")
    assert command("rollup").status == 0
    broken = next((tmp_path / "data/candles").rglob("*.parquet"))
    broken.write_bytes(broken.read_bytes()[:-100])
    done = command("verify", "--repair")
    assert (done.status, len(quarantined(tmp_path)), broken.exists()) == (4, 1, False)
    assert volumes(tmp_path) == volumes_of([*OLD[:150], *OLD[151:]])


def test_a_pair_that_the_exchange_answers_for_is_repaired_though_it_is_not_listed(
    command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    exchange.add(LISTED)
    assert command("backfill", "FOOUSD").status == 0
    exchange.unlisted.add("FOOUSD")
    [file] = (tmp_path / "data/trades").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    assert command("verify", "--repair").status == 0
    assert volumes(tmp_path) == volumes_of(NEW)


def test_imported_trades_that_a_repair_downloads_again_are_kept(
    command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    import_between_downloads(command, exchange, tmp_path)
    before = rows_on_disk(tmp_path / "data", "FOOUSD")
    done = command("verify", "--repair")
    assert (done.status, volumes(tmp_path)) == (0, OLD_VOLUMES)
    [copy] = quarantined(tmp_path)
    kept = rows_of(copy)
    assert len(kept) > 190
    assert set(kept) <= set(before)
    path = copy.relative_to(tmp_path / "data").as_posix()
    assert (
        f"FOOUSD: imported trades are kept in {path}\nFOOUSD: trades were missing, downloaded "
        "again: "
    ) in done.out


def test_imported_trades_come_back_from_quarantine_if_the_exchange_fails_meanwhile(
    command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    import_between_downloads(command, exchange, tmp_path)
    before = rows_on_disk(tmp_path / "data", "FOOUSD")
    exchange.faults = Faults(script={"FOOUSD": ["unknown_pair"] * 9})
    done = command("verify", "--repair")
    assert (done.status, len(volumes(tmp_path)) < 110) == (3, True)
    assert "downloaded again" not in done.out
    assert "FOOUSD: trades were missing, not downloaded yet: 2024-01-20 " in done.out
    assert done.err.endswith(
        f"FOOUSD: imported trades are kept in {tmp_path}/data/quarantine/FOOUSD; the missing "
        "ranges stay recorded\n"
    )
    [copy] = quarantined(tmp_path)
    note = json.loads((copy.parent / "note.json").read_text())
    assert (note["pair"], [note["range"]]) == ("FOOUSD", note["wanted"])
    assert note["faults"][0].startswith("trades were missing in 2024-01-20 ")
    copy.replace(tmp_path / "data" / note["path"])
    assert rows_on_disk(tmp_path / "data", "FOOUSD") == before
    exchange.faults = Faults()
    assert command("verify", "--repair").status == 0
    assert volumes(tmp_path) == OLD_VOLUMES


# --- the exchange can't be asked ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["BTCUSD", "XXBTZUSD", "OTHERUSD"])
def test_a_name_that_nobody_knows_is_skipped_if_the_exchange_is_not_asked(
    name: str, command: Any, tmp_path: Path
) -> None:
    (tmp_path / f"{name}.csv").write_bytes(csv_files.three_columns(OLD))
    done = command("import", f"{name}.csv", "--delisted", url=NOBODY)
    assert done.status == 2
    assert done.err.splitlines()[-1] == (
        "1 file skipped, because the archive does not know the name, and the exchange could not be "
        f"asked: {name}.csv (try again later, or name the pair of a file with --pair)"
    )
    assert TradeStore(tmp_path / "data").stored_pairs() == []


@pytest.mark.parametrize("name", ["XBTUSD", "BTCUSD", "XXBTZUSD", "xbtusd"])
def test_a_pair_named_without_the_exchange_is_stored_by_its_usual_name(
    name: str, command: Any, tmp_path: Path
) -> None:
    done = command("import", "FOOUSD.csv", "--delisted", "--pair", name, *WHOLE, url=NOBODY)
    assert done.status == 0
    assert TradeStore(tmp_path / "data").stored_pairs() == ["XBTUSD"]


@pytest.mark.parametrize(
    "name", ["WBTCUSD", "ETHWXBT", "AAPLxUSD", "XCNUSD", "XDGUSD", "XABCDZUSD"]
)
def test_a_name_that_only_resembles_another_spelling_stays(name: str) -> None:
    assert kraken_altname(name) == name


# --- all rows are stored --------------------------------------------------------------------------


def test_all_rows_are_stored_without_any_quiet_moment(command: Any, tmp_path: Path) -> None:
    new_year_s = sample_trades.utc_ns(2024, 1, 1) // 10**9
    rows = [
        (second, f"1.{second % 7}", f"{second % 5 + 1}.5")
        for second in range(new_year_s - 60, new_year_s + 60)
    ]
    (tmp_path / "FOOUSD.csv").write_text("".join(f"{a},{b},{c}\n" for a, b, c in rows))
    bounds = ("--whole-since", str(rows[0][0]), "--whole-until", str(rows[-1][0] + 1))
    assert command("import", "FOOUSD.csv", "--delisted", *bounds).status == 0
    assert volumes(tmp_path) == [Decimal(volume) for _, _, volume in rows]
    assert is_complete(command)


def test_bounds_that_contradict_each_other_are_refused(command: Any) -> None:
    done = command("import", "FOOUSD.csv", "--whole-since", "2024", "--whole-until", "2023")
    assert (done.status, done.err) == (
        2,
        "harvester: --whole-since 2024 is not before --whole-until 2023: swap them\n",
    )


# --- nothing is stored twice where files and downloads meet ---------------------------------------

TURN_NS = sample_trades.utc_ns(2024, 4, 1)
BUSY = [
    Trade(TURN_NS + (at - 150) * 700_000_000 + 123_456_789, "5.5", f"{at % 40}.5", "b", "m", "", at)
    for at in range(1, 301)
]
"""A trade each 0.7 s, without a quiet moment; of each price and volume one each 28 s."""
WAYS = [
    pytest.param(ways, bool(at % 2), id="-".join(ways) + (" reversed" if at % 2 else ""))
    for at, ways in enumerate(product(csv_files.ROUNDINGS, repeat=2))
]
"""Each way of rounding beside each; every second time, the later file is imported first."""
SINCE, UNTIL = ("--whole-since", "2024-03-31"), ("--whole-until", "2024-04-02")


@pytest.mark.parametrize(("ways", "is_later_first"), WAYS)
def test_two_files_that_overlap_are_stored_once_however_they_round(
    ways: tuple[str, str], is_later_first: bool, command: Any, tmp_path: Path
) -> None:
    steps = [("early", BUSY[:200], ways[0], SINCE), ("late", BUSY[90:], ways[1], UNTIL)]
    for folder, rows, way, bounds in reversed(steps) if is_later_first else steps:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "FOOUSD.csv").write_bytes(csv_files.three_columns(rows, way))
        done = command("import", folder, "--delisted", *bounds)
        assert (done.status, "backfill" in done.err) == (0, False)
    assert volumes(tmp_path) == volumes_of(BUSY)
    assert is_complete(command)


@pytest.mark.parametrize(("ways", "is_later_first"), WAYS)
def test_a_trade_in_two_quarters_is_stored_once_or_left_out_with_a_message(
    ways: tuple[str, str], is_later_first: bool, command: Any, tmp_path: Path
) -> None:
    """A file with both sides of the turn decides it."""
    turn_s = TURN_NS // 10**9
    first = [trade for trade in BUSY if csv_files.second(trade, ways[0]) < turn_s]
    second = [trade for trade in BUSY if csv_files.second(trade, ways[1]) >= turn_s]
    both = {trade.trade_id for trade in first} & {trade.trade_id for trade in second}
    known = sorted({trade.trade_id: trade for trade in first + second}.items())
    steps = [(1, first, ways[0]), (2, second, ways[1])]
    for quarter, rows, way in reversed(steps) if is_later_first else steps:
        name = tmp_path / f"Kraken_Trading_History_Q{quarter}_2024.zip"
        csv_files.packed(name, {"FOOUSD.csv": csv_files.three_columns(rows, way)})
        done = command("import", name.name, "--delisted")
    assert (done.status, "may be trades that are stored" in done.err) == (
        4 * bool(both),
        bool(both),
    )
    assert is_complete(command) == (not both)
    if both:
        (tmp_path / "FOOUSD.csv").write_bytes(csv_files.three_columns(BUSY, ways[0]))
        assert command("import", "FOOUSD.csv", "--delisted", *SINCE, *UNTIL).status == 0
        assert is_complete(command)
    assert volumes(tmp_path) == volumes_of([trade for _, trade in known])


@pytest.mark.parametrize("way", csv_files.ROUNDINGS)
def test_of_the_second_in_which_a_download_ended_a_file_that_begins_there_covers_nothing(
    way: str, command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    """Nobody knows whether it has all of that second. A file that has the time before decides."""
    slow = [
        replace(trade, true_ns=TURN_NS + 30 * at * 10**9 + 123_000_000, trade_id=at + 1)
        for at, trade in enumerate(BUSY[:80])
    ]
    in_second = replace(slow[40], true_ns=slow[40].true_ns + 400_000_000, volume="77.5")
    trades = [
        replace(trade, trade_id=number)
        for number, trade in enumerate([*slow[:41], in_second, *slow[41:]], 1)
    ]
    exchange.add(Market("FOOUSD", "FOO2ZUSD", "FOO/USD", "FOO2", "ZUSD", trades=trades))
    end_s = slow[40].true_ns // 10**9
    until = str(end_s * 10**9 + 200_000_000)
    assert command("backfill", "FOO/USD", "--since", "2024-03-31", "--until", until).status == 0
    exchange.delist("FOOUSD")
    rows = [trade for trade in trades if csv_files.second(trade, way) >= end_s]
    (tmp_path / "FOOUSD.csv").write_bytes(csv_files.three_columns(rows, way))
    command("import", "FOOUSD.csv", "--delisted")
    stored = Counter(volumes(tmp_path))
    assert stored <= Counter(volumes_of(trades))
    if stored[Decimal("77.5")] == 0:
        assert command("status").status == 4
    (tmp_path / "FOOUSD.csv").write_bytes(csv_files.three_columns(trades, way))
    assert command("import", "FOOUSD.csv", "--delisted", *SINCE, *UNTIL).status == 0
    assert volumes(tmp_path) == volumes_of(trades)
    assert is_complete(command)


def test_trades_that_are_alike_for_longer_than_is_compared_are_left_out(
    command: Any, tmp_path: Path
) -> None:
    rows = csv_files.three_columns(replace(trade, volume="1.5") for trade in BUSY).splitlines(True)
    for folder, part, bounds in (("a", rows[:200], SINCE), ("b", rows[10:], UNTIL)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "FOOUSD.csv").write_bytes(b"".join(part))
        done = command("import", folder, "--delisted", *bounds)
    assert (done.status, "may be trades that are stored" in done.err) == (4, True)
    assert not is_complete(command)
    assert 290 < len(volumes(tmp_path)) <= 300


@pytest.fixture
def downloaded(command: Any, exchange: Exchange) -> None:
    """Download the pair but for its middle and its last minute; then it is delisted."""
    exchange.add(replace(LISTED, trades=BUSY))
    for span in (("--until", "2024-03-31T23:59:00.5"), ("--since", "2024-03-31T23:59:50.3")):
        assert command("backfill", "FOO/USD", "--until", "2024-04-01T00:00:45.9", *span).status == 0
    exchange.delist("FOOUSD")


@pytest.mark.parametrize(
    ("way", "named"),
    [*((way, ()) for way in csv_files.ROUNDINGS), ("nearest", ("--pair", "FOO/USD"))],
)
@pytest.mark.usefixtures("downloaded")
def test_what_was_not_downloaded_of_a_pair_before_it_was_delisted_is_imported(
    way: str, named: tuple[str, ...], command: Any, tmp_path: Path
) -> None:
    (tmp_path / "FOOUSD.csv").write_bytes(csv_files.three_columns(BUSY, way))
    assert len(volumes(tmp_path)) < len(BUSY)
    for _ in range(2):
        done = command("import", "FOOUSD.csv", "--delisted", *named, *SINCE, *UNTIL)
        assert (done.status, "backfill" in done.err) == (0, False)
        assert volumes(tmp_path) == volumes_of(BUSY)
        assert is_complete(command)
    store = TradeStore(tmp_path / "data")
    assert {store.footer(part).key for part in store.segments("FOOUSD")} == {"FOO2ZUSD"}


@pytest.mark.usefixtures("downloaded")
def test_a_name_of_another_market_now_does_not_keep_the_rest_of_a_delisted_pair_out(
    command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    exchange.add(replace(LISTED, key="FOO3ZUSD"))
    (tmp_path / "FOOUSD.csv").write_bytes(csv_files.three_columns(BUSY))
    assert command("import", "FOOUSD.csv", "--delisted", *SINCE, *UNTIL).status == 0
    assert volumes(tmp_path) == volumes_of(BUSY)


@pytest.mark.parametrize("arguments", [("--delisted",), ()])
@pytest.mark.usefixtures("downloaded")
def test_a_pair_is_only_delisted_if_the_exchange_does_not_list_it(
    arguments: tuple[str, ...], command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    if arguments:
        exchange.add(replace(LISTED, altname="FOO9USD", trades=BUSY))
    (tmp_path / "FOOUSD.csv").write_bytes(csv_files.three_columns(BUSY))
    done = command("import", "FOOUSD.csv", *arguments)
    assert "where `harvester backfill FOOUSD` downloads the trades" in done.err


# --- the pair is listed again ---------------------------------------------------------------------


LATER = sample_trades.xbtusd_like(50, 93, start_ns=sample_trades.utc_ns(2024, 8, 1), first_id=301)


@pytest.mark.parametrize("is_imported_again", [False, True])
def test_beside_trades_that_were_imported_while_a_pair_was_delisted_nothing_is_downloaded(
    is_imported_again: bool, command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    """Their rounded times do not show which trades lie beside them."""
    market = replace(LISTED, trades=[*BUSY, *LATER])
    exchange.add(market)
    assert command("backfill", "FOO/USD", "--until", "2024-03-31T23:59:00").status == 0
    exchange.delist("FOOUSD")
    (tmp_path / "FOOUSD.csv").write_bytes(csv_files.three_columns(BUSY, "up"))
    assert command("import", "FOOUSD.csv", "--delisted", *SINCE, *UNTIL).status == 0
    assert command("compact", "FOOUSD").status == 0
    assert command("backfill", "FOO/USD").status == 3
    before = volumes(tmp_path)
    exchange.add(market)
    folder = tmp_path / "data" / "trades" / "pair=FOOUSD"
    advice = f"Move {folder}/year=*/*.csv.parquet out of the archive, import the files again"
    for download in ("backfill FOO/USD", "backfill FOO/USD --replace-imported", "refresh"):
        done = command(*download.split())
        assert (done.status, advice in done.err) == (4, True)
        assert volumes(tmp_path) == before
    assert not is_complete(command)
    for segment in folder.glob("year=*/*.csv.parquet"):
        segment.rename(tmp_path / segment.name)
    if is_imported_again:
        assert command("import", "FOOUSD.csv", *SINCE, *UNTIL).status == 0
    assert command("backfill", "FOO/USD").status == 0
    assert is_complete(command)
    assert volumes(tmp_path) == volumes_of([*BUSY, *LATER])
