"""Trade ids of imported files: what is missing between them is downloaded, contradictions refused.

The expected trades are those of the test exchange's market, never what an import stored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import csv_files
import pytest
import sample_trades
from backfills import rows_on_disk, serve
from cli_output import Answer, answer_of
from command_line import own_environment, run_harvester
from csv_imports import imported
from kraken_market import Clock, Trade, expected, time_literal
from kraken_server import Exchange

from harvester.csv_import import chain_importer
from harvester.csv_import.file_chains import UncoveredIds
from harvester.storage.trade_store import TradeStore
from harvester.times import SECOND

SECONDS = 3
TRADES = [
    Trade(
        sample_trades.utc_ns(2024, 1, 20) + at * SECONDS * SECOND + 123_456_700,
        f"{40_000 + at % 7}.10000",
        f"{at + 1}.00000000",
        "b",
        "l",
        "",
        at + 1,
    )
    for at in range(3_000)
]
MIDDLE = TRADES[300:2_400]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Answer]]:
    """Run `harvester` with a test exchange that has `TRADES`."""
    with Commands(tmp_path, TRADES) as call:
        yield call


class Commands:
    """Runs commands in a folder, with an exchange that has some trades."""

    def __init__(self, folder: Path, trades: Sequence[Trade], clock: Clock | None = None) -> None:
        self._folder = folder
        self._exchange: Exchange = serve(sample_trades.market(trades), clock=clock)

    def __enter__(self) -> Callable[..., Answer]:
        self._exchange.start()
        return self._call

    def __exit__(self, *_raised: object) -> None:
        self._exchange.stop()

    def _call(self, *arguments: str) -> Answer:
        own = {
            "HARVESTER_API_URL": self._exchange.url,
            "HARVESTER_DATA": str(self._folder / "data"),
            "HARVESTER_EXCHANGE_RATE": "0",
            "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.005",
        }
        done = run_harvester(arguments, own_environment() | own, self._folder)
        return answer_of(done)


def line(trade: Trade, decimals: int | None = None) -> str:
    """A row of seven columns, its time with so many decimals."""
    time = time_literal(trade.true_ns, decimals)
    return f"{trade.price},{trade.volume},{time},{trade.side},{trade.order_type},,{trade.trade_id}"


def write(folder: Path, lines: Sequence[str], name: str = "XBTUSD.csv") -> None:
    (folder / name).write_text("".join(f"{each}\n" for each in lines))


def ids(folder: Path) -> list[int]:
    return [row[0] for row in rows_on_disk(folder / "data", "XBTUSD")]


def statuses(command: Callable[..., Answer], *commands: str) -> list[int]:
    return [command(*each.split()).status for each in commands]


# --- missing ids ----------------------------------------------------------------------------------


def test_rows_that_the_ids_of_a_file_show_to_be_missing_are_downloaded(
    command: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.seven_columns([*MIDDLE[:900], *MIDDLE[950:]]))
    done = command("import", "XBTUSD.csv")
    assert done.status == 0
    assert (
        "XBTUSD: 50 trade ids are missing at 1 place, the first between ids 1200 and 1251; "
        "`harvester backfill XBTUSD` downloads that time; not downloaded: "
        "2024-01-20 00:59:56 to 2024-01-20 01:02:32"
    ) in done.err
    assert statuses(command, "status", "backfill XBTUSD", "verify") == [4, 0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in TRADES]
    # The same file again finds its place filled.
    assert statuses(command, "import XBTUSD.csv", "status", "verify") == [0, 0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in TRADES]


@pytest.mark.parametrize("missing", [1, 50])
def test_missing_rows_where_two_quarters_meet_are_downloaded(tmp_path: Path, missing: int) -> None:
    april_ns = sample_trades.utc_ns(2024, 4, 1)
    shift_ns = april_ns - TRADES[1_500].true_ns + 100_000_000
    trades = [replace(trade, true_ns=trade.true_ns + shift_ns) for trade in TRADES]
    for quarter, rows in (("Q1", trades[:1_500]), ("Q2", trades[1_500 + missing : 2_000])):
        file = f"Kraken_Trading_History_{quarter}_2024.zip"
        csv_files.packed(tmp_path / file, {"XBTUSD.csv": csv_files.seven_columns(rows)})
    with Commands(tmp_path, trades) as command:
        done = command("import", *(f"Kraken_Trading_History_Q{at}_2024.zip" for at in (1, 2)))
        assert f"{missing} trade ids are missing at 1 place" in done.err
        assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in trades]


@pytest.mark.parametrize(
    ("lacking", "bounds"),
    [
        ("at its end", []),
        ("at its end", ["--whole-since", "2024", "--whole-until", "2024-04"]),
        ("at its start", []),
    ],
)
def test_missing_rows_where_a_file_meets_stored_trades_are_downloaded(
    tmp_path: Path, lacking: str, bounds: list[str]
) -> None:
    april_ns = sample_trades.utc_ns(2024, 4, 1)
    at = 1_500
    shift_ns = april_ns - TRADES[at].true_ns + 100_000_000
    trades = [replace(trade, true_ns=trade.true_ns + shift_ns) for trade in TRADES]
    rows, quarter, side = trades[: at - 10], "Q1", "--since"
    if lacking == "at its start":
        rows, quarter, side = trades[at + 10 : 2_000], "Q2", "--until"
    file = f"Kraken_Trading_History_{quarter}_2024.zip"
    csv_files.packed(tmp_path / file, {"XBTUSD.csv": csv_files.seven_columns(rows)})
    with Commands(tmp_path, trades) as command:
        assert command("backfill", "XBTUSD", side, "2024-04-01").status == 0
        done = command("import", file, *bounds)
        assert (done.status, "10 trade ids are missing at 1 place" in done.err) == (0, True)
        assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in trades]


def test_missing_rows_before_the_first_of_a_whole_history_are_downloaded(
    command: Callable[..., Answer], tmp_path: Path
) -> None:
    packed = tmp_path / "Kraken_Trading_History.zip"
    csv_files.packed(packed, {"XBTUSD.csv": csv_files.seven_columns(TRADES[4:2_000])})
    done = command("import", packed.name)
    assert "4 trade ids are missing at 1 place, the first between ids 0 and 5" in done.err
    assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in TRADES]


@pytest.mark.parametrize("side", ["--since", "--until"])
def test_ids_that_skip_all_the_time_are_no_fault_where_a_file_meets_stored_trades(
    tmp_path: Path, side: str
) -> None:
    april_ns = sample_trades.utc_ns(2024, 4, 1)
    shift_ns = april_ns - TRADES[1_500].true_ns + 100_000_000
    skipping = [
        replace(trade, true_ns=trade.true_ns + shift_ns, trade_id=3 * (trade.trade_id or 0))
        for trade in TRADES
    ]
    rows, quarter = (skipping[:1_500], "Q1") if side == "--since" else (skipping[1_500:], "Q2")
    file = f"Kraken_Trading_History_{quarter}_2024.zip"
    csv_files.packed(tmp_path / file, {"XBTUSD.csv": csv_files.seven_columns(rows)})
    with Commands(tmp_path, skipping) as command:
        assert command("backfill", "XBTUSD", side, "2024-04-01").status == 0
        assert statuses(command, f"import {file}", "backfill XBTUSD", "verify") == [0, 0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in skipping]


@pytest.mark.parametrize("has_empty_coverage", [False, True])
def test_ids_that_skip_all_the_time_from_the_first_trade_on_are_no_fault(
    tmp_path: Path, has_empty_coverage: bool
) -> None:
    skipping = [replace(trade, trade_id=3 * (trade.trade_id or 0)) for trade in TRADES]
    file = "Kraken_Trading_History.zip"
    csv_files.packed(tmp_path / file, {"XBTUSD.csv": csv_files.seven_columns(skipping[:2_000])})
    with Commands(tmp_path, skipping) as command:
        if has_empty_coverage:
            assert command("backfill", "XBTUSD", "--until", "2024-01-01").status == 0
        assert statuses(command, f"import {file}", "backfill XBTUSD", "verify") == [0, 0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in skipping]


def test_an_archive_that_lacks_rows_where_a_file_meets_stored_trades_says_so_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier builds imported such files."""
    monkeypatch.setattr(
        chain_importer, "uncovered_ids", lambda *_: UncoveredIds([], [], frozenset())
    )
    april_ns = sample_trades.utc_ns(2024, 4, 1)
    shift_ns = april_ns - TRADES[1_500].true_ns + 100_000_000
    trades = [replace(trade, true_ns=trade.true_ns + shift_ns) for trade in TRADES]
    file = tmp_path / "Kraken_Trading_History_Q1_2024.zip"
    csv_files.packed(file, {"XBTUSD.csv": csv_files.seven_columns(trades[:1_490])})
    with Commands(tmp_path, trades) as command:
        assert command("backfill", "XBTUSD", "--since", "2024-04-01").status == 0
        imported(tmp_path / "data", file)
        commands = ("backfill XBTUSD", "backfill XBTUSD", "verify", "backfill XBTUSD")
        assert statuses(command, *commands) == [4, 4, 4, 4]
        assert "between ids 1490 and 1501" in command("backfill", "XBTUSD").err
        command("backfill", "XBTUSD", "--replace-imported")
        assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in trades]


QUARTER = [
    replace(TRADES[0], true_ns=true_ns, volume=f"{number}.00000000", trade_id=number)
    for begin_ns, numbers in (
        (sample_trades.utc_ns(2024, 3, 20), range(1, 51)),
        (sample_trades.utc_ns(2024, 4, 2), range(51, 9_151)),
        (sample_trades.utc_ns(2024, 8, 1), range(9_151, 9_201)),
    )
    for at, number in enumerate(numbers)
    for true_ns in [begin_ns + at * SECONDS * SECOND + 123_456_700]
]
"""The trades with the ids 51 to 9150 are of one quarter: more than an id gap is requested for."""


@pytest.mark.parametrize(
    ("rows", "sides"),
    [(QUARTER[9_100:9_150], "ids 50 and 9101"), (QUARTER[50:100], "ids 100 and 9151")],
    ids=["its first", "its last"],
)
def test_rows_that_a_quarter_lacks_are_a_fault_though_they_are_too_many_to_be_requested(
    tmp_path: Path, rows: Sequence[Trade], sides: str
) -> None:
    file = "Kraken_Trading_History_Q2_2024.zip"
    csv_files.packed(tmp_path / file, {"XBTUSD.csv": csv_files.seven_columns(rows)})
    with Commands(tmp_path, QUARTER) as command:
        assert statuses(command, f"import {file}") == [0]
        for _ in range(2):
            done = command("backfill", "XBTUSD")
            assert (done.status, sides in done.err) == (4, True)
            assert "`harvester backfill XBTUSD --replace-imported`" in done.err
        assert statuses(command, "verify") == [4]
        assert sides in command("refresh").err
        command("backfill", "XBTUSD", "--replace-imported")
        assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in QUARTER]


def test_rows_without_ids_that_are_fewer_than_the_newest_id_says_are_a_fault(
    command: Callable[..., Answer], tmp_path: Path
) -> None:
    """No trade follows the file, so none is downloaded whose id would show it."""
    packed = tmp_path / "Kraken_Trading_History_Q1_2024.zip"
    rows = [*TRADES[:1_000], *TRADES[1_007:]]
    csv_files.packed(packed, {"XBTUSD.csv": csv_files.three_columns(rows)})
    assert command("import", packed.name).status == 0
    done = command("backfill", "XBTUSD")
    assert (done.status, len(ids(tmp_path))) == (4, 2_993)
    assert "between ids 0 and 3001 there are 2,993 imported trades, but 3,000 unused" in done.err
    command("backfill", "XBTUSD", "--replace-imported")
    assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in TRADES]


@pytest.mark.parametrize("clock", [None, Clock(sample_trades.utc_ns(2024, 5, 1))])
def test_last_trades_that_a_file_with_ids_lacks_are_a_fault(
    clock: Clock | None, tmp_path: Path
) -> None:
    """They were made within a second of its last row, so no time shows that they are missing."""
    last = TRADES[-1]
    lacking = [
        replace(last, true_ns=last.true_ns + at * 150_000_000, trade_id=3_000 + at)
        for at in (1, 2, 3)
    ]
    packed = tmp_path / "Kraken_Trading_History_Q1_2024.zip"
    csv_files.packed(packed, {"XBTUSD.csv": csv_files.seven_columns(TRADES)})
    with Commands(tmp_path, [*TRADES, *lacking], clock) as command:
        assert statuses(command, f"import {packed.name}", "backfill XBTUSD") == [0, 4]
        for _ in range(2):
            assert "between ids 3000 and 3004" in command("backfill", "XBTUSD").err
        command("backfill", "XBTUSD", "--replace-imported")
        assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert ids(tmp_path) == list(range(1, 3_004))


def test_the_newest_id_is_that_of_the_newest_trade_where_ids_began_again(tmp_path: Path) -> None:
    listed_again = [
        replace(trade, true_ns=trade.true_ns + 30 * 86_400 * SECOND, volume=f"7{trade.volume}")
        for trade in TRADES[:20]
    ]
    rows = listed_again[10:]
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(rows))
    begin, end = (rows[at].true_ns // SECOND for at in (0, -1))
    with Commands(tmp_path, [*TRADES[:300], *listed_again]) as command:
        assert command("backfill", "XBTUSD", "--until", str(begin - 1)).status == 0
        bounds = ("--whole-since", str(begin), "--whole-until", str(end + 5))
        assert command("import", "XBTUSD.csv", *bounds).status == 0
        assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]


def test_missing_rows_of_a_file_nearly_in_order_are_downloaded(
    command: Callable[..., Answer], tmp_path: Path
) -> None:
    rows = [*MIDDLE[:900], *MIDDLE[950:]]
    # A trade every three seconds: times step back by 57 s.
    parts = [rows[start : start + 20] for start in range(0, len(rows), 20)]
    write(tmp_path, [line(trade) for part in parts for trade in reversed(part)])
    assert "50 trade ids are missing at 1 place" in command("import", "XBTUSD.csv").err
    assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in TRADES]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (MIDDLE, ""),
        ([*MIDDLE[:900], *MIDDLE[950:]], "trades between ids 301 and 2400 are not in "),
        ([*MIDDLE[:520], *MIDDLE[500:]], "the imported file has 20 too many there"),
    ],
    ids=["complete", "50 missing", "20 twice"],
)
def test_a_file_in_which_some_rows_have_no_id_counts_as_one_without_ids(
    command: Callable[..., Answer], tmp_path: Path, rows: Sequence[Trade], fault: str
) -> None:
    """The ids of the downloaded trades around it show whether it has all trades."""
    without_id = range(800, 830)
    given = [replace(row, trade_id=0) if row.trade_id in without_id else row for row in rows]
    write(tmp_path, [line(row) for row in given])
    done = command("import", "XBTUSD.csv")
    assert done.status == 0
    count = sum(row.trade_id == 0 for row in given)
    assert f"XBTUSD.csv: {count} rows have no trade id, so the ids of the others can't" in done.err
    assert set(ids(tmp_path)) == {None}
    done = command("backfill", "XBTUSD")
    status = 4 if fault else 0
    assert (done.status, fault in done.err) == (status, True)
    assert statuses(command, "verify") == [status]
    command("backfill", "XBTUSD", "--replace-imported")
    assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in TRADES]


IN_QUARTERS = [
    replace(trade, true_ns=trade.true_ns + at // 1_000 * 91 * 86_400 * SECOND)
    for at, trade in enumerate(TRADES)
]
"""A thousand trades in each of three quarters of a year."""


def pack_quarters(folder: Path, *contents: bytes) -> list[str]:
    """Write a ZIP of each quarter; gives their names."""
    names = [f"Kraken_Trading_History_Q{at + 1}_2024.zip" for at in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        csv_files.packed(folder / name, {"XBTUSD.csv": content})
    return names


def test_ids_are_compared_on_both_sides_of_a_file_without_ids(tmp_path: Path) -> None:
    """Of three quarters, the second has three columns; the third lacks a trade in its middle."""
    names = pack_quarters(
        tmp_path,
        csv_files.seven_columns(IN_QUARTERS[:1_000]),
        csv_files.three_columns(IN_QUARTERS[1_000:2_000]),
        csv_files.seven_columns([*IN_QUARTERS[2_000:2_500], *IN_QUARTERS[2_501:]]),
    )
    with Commands(tmp_path, IN_QUARTERS) as command:
        done = command("import", *names)
        assert "1 trade ids are missing at 1 place, the first between ids 2500 and 2502" in done.err
        assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert len(ids(tmp_path)) == len(IN_QUARTERS)


EVERY_SIX_HOURS = [
    replace(
        TRADES[at],
        true_ns=sample_trades.utc_ns(2024, 1, 1) + (at * 6 * 3_600 + 3) * SECOND + 700_000_000,
    )
    for at in range(274 * 4)
]
"""In the first three quarters of 2024."""


def unpack_quarters(folder: Path, contents: Mapping[int, bytes]) -> list[str]:
    """Write the files of quarters as `unzip` does; gives their folders."""
    names = [f"Kraken_Trading_History_Q{quarter}_2024" for quarter in contents]
    for name, content in zip(names, contents.values(), strict=True):
        (folder / name).mkdir()
        (folder / name / "XBTUSD.csv").write_bytes(content)
    return names


def quarter_of(quarter: int, *, has_ids: bool = True) -> bytes:
    """The file of a quarter."""
    begins, ends = (
        sample_trades.utc_ns(2024, month, 1) for month in (3 * quarter - 2, 3 * quarter + 1)
    )
    rows = [trade for trade in EVERY_SIX_HOURS if begins <= trade.true_ns < ends]
    return csv_files.seven_columns(rows) if has_ids else csv_files.three_columns(rows, "up")


def cut(content: bytes, *, in_a_row: bool = True) -> bytes:
    """The first half of a file, as a full disk leaves it."""
    half = content[: content.index(b"\n", len(content) // 2)]
    return half if in_a_row else half + b"\n"


@pytest.mark.parametrize(
    "commands",
    [
        [{1: quarter_of(1), 2: b"", 3: quarter_of(3)}],
        [{1: cut(quarter_of(1, has_ids=False)), 2: quarter_of(2), 3: quarter_of(3)}],
        [{1: cut(quarter_of(1))}, {2: quarter_of(2), 3: quarter_of(3)}],
        [{1: cut(quarter_of(1), in_a_row=False)}, {2: quarter_of(2), 3: quarter_of(3)}],
        [{1: quarter_of(1, has_ids=False), 2: quarter_of(2, has_ids=False)}],
    ],
    ids=["an empty file", "cut before one with ids", "cut", "cut at a line's end", "undamaged"],
)
def test_a_refresh_downloads_what_the_unpacked_files_of_quarters_lack(
    commands: list[dict[int, bytes]], tmp_path: Path
) -> None:
    """What a file lacks is on record as requested, by the quarter of its name."""
    with Commands(tmp_path, EVERY_SIX_HOURS) as command:
        for contents in commands:
            names = unpack_quarters(tmp_path, contents)
            # Where a row is cut, it is left out.
            is_cut = any(content and content[-1:] != b"\n" for content in contents.values())
            status = command("import", "--skip-bad-rows", *names).status
            assert status == (4 if is_cut else 0)
        assert statuses(command, "refresh", "status", "verify") == [0, 0, 0]
    assert len(ids(tmp_path)) == len(EVERY_SIX_HOURS)


@pytest.mark.parametrize("end", [b"", b"\0" * 4_096, b"\nx\n"])
def test_a_refresh_downloads_what_the_cut_file_of_the_whole_history_lacks(
    end: bytes, tmp_path: Path
) -> None:
    """Its end is not known, and the file of a later quarter is imported behind it."""
    folder = tmp_path / "Kraken_Trading_History"
    folder.mkdir()
    history = csv_files.three_columns(EVERY_SIX_HOURS[:500])
    (folder / "XBTUSD.csv").write_bytes(cut(history) + end)
    with Commands(tmp_path, EVERY_SIX_HOURS, Clock(time.time_ns())) as command:
        names = [folder.name, *unpack_quarters(tmp_path, {3: quarter_of(3)})]
        made = [command("import", name, "--skip-bad-rows").status for name in names]
        assert made == [4, 0]
        assert statuses(command, "refresh", "status", "verify") == [0, 0, 0]
    assert len(ids(tmp_path)) == len(EVERY_SIX_HOURS)


@pytest.mark.parametrize("way", csv_files.ROUNDINGS)
def test_a_refresh_downloads_the_first_trade_of_a_file_however_it_rounds(
    way: str, tmp_path: Path
) -> None:
    """The trade may be a second earlier than its row."""
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(EVERY_SIX_HOURS[:200], way))
    with Commands(tmp_path, EVERY_SIX_HOURS) as command:
        assert statuses(command, "import XBTUSD.csv", "refresh", "status", "verify") == [0, 0, 0, 0]
    assert len(ids(tmp_path)) == len(EVERY_SIX_HOURS)


@pytest.mark.parametrize(
    "ways", [*((way, way) for way in csv_files.ROUNDINGS), ("up", "down"), ("nearest", "down")]
)
def test_a_refresh_downloads_the_last_trade_before_a_quarter_however_its_files_round(
    ways: tuple[str, str], tmp_path: Path
) -> None:
    """It is less than half a second before the turn, so its row may be in either file, or none."""
    turn_s = sample_trades.utc_ns(2024, 4, 1) // SECOND
    before = [
        replace(EVERY_SIX_HOURS[0], true_ns=turn_s * SECOND - back_ns, volume="77.5")
        for back_ns in (5_500_000_000, 4_500_000_000, 3_500_000_000, 2_500_000_000, 300_000_000)
    ]
    trades = sorted([*EVERY_SIX_HOURS, *before], key=lambda trade: trade.true_ns)
    trades = [replace(trade, trade_id=at + 1) for at, trade in enumerate(trades)]
    with Commands(tmp_path, trades) as command:
        for quarter, is_later, way in ((1, False, ways[0]), (2, True, ways[1])):
            name = f"Kraken_Trading_History_Q{quarter}_2024.zip"
            rows = [t for t in trades if (csv_files.second(t, way) >= turn_s) == is_later]
            rows = [t for t in rows if t.true_ns < sample_trades.utc_ns(2024, 7, 1)]
            csv_files.packed(tmp_path / name, {"XBTUSD.csv": csv_files.three_columns(rows, way)})
            assert command("import", name).status == 0
        assert statuses(command, "refresh", "status", "verify") == [0, 0, 0]
    assert len(ids(tmp_path)) == len(trades)


SECOND_QUARTER = IN_QUARTERS[1_000:2_000]


@pytest.mark.parametrize(
    ("rows", "is_complete_by_user"),
    [
        ([*SECOND_QUARTER[:300], *SECOND_QUARTER[310:]], True),
        ([*SECOND_QUARTER[:610], *SECOND_QUARTER[600:]], False),
    ],
    ids=["10 missing", "10 twice"],
)
def test_rows_without_ids_between_others_with_ids_are_counted_in_every_run(
    rows: Sequence[Trade], is_complete_by_user: bool, tmp_path: Path
) -> None:
    """They become no segment with the others, inside of which nobody would count them."""
    first, last = IN_QUARTERS[:1_000], IN_QUARTERS[2_000:]
    whole = csv_files.three_columns([*first, *rows, *last])
    csv_files.packed(tmp_path / "Kraken_Trading_History.zip", {"XBTUSD.csv": whole})
    names = pack_quarters(
        tmp_path,
        csv_files.seven_columns(first),
        csv_files.three_columns(rows),
        csv_files.seven_columns(last),
    )
    with Commands(tmp_path, IN_QUARTERS) as command:
        if is_complete_by_user:
            command("import", *names, "--whole-since", "2024", "--whole-until", "2024-10")
        else:
            command("import", names[0])
            command("import", names[2])
            command("import", "Kraken_Trading_History.zip")
        for _ in range(2):
            assert "between ids 1000 and 2001" in command("backfill", "XBTUSD").err
            assert statuses(command, "backfill XBTUSD", "compact", "verify") == [4, 0, 4]
        command("backfill", "XBTUSD", "--replace-imported")
        assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in TRADES]


def test_ids_that_the_exchange_skips_are_confirmed_by_it(tmp_path: Path) -> None:
    skipped = [
        replace(trade, trade_id=(trade.trade_id or 0) + 7 * (at >= 1_000) + 2 * (at >= 2_000))
        for at, trade in enumerate(TRADES)
    ]
    write(tmp_path, [line(trade) for trade in skipped[300:2_400]])
    with Commands(tmp_path, skipped) as command:
        done = command("import", "XBTUSD.csv")
        assert "9 trade ids are missing at 2 places" in done.err
        assert statuses(command, "backfill XBTUSD") == [0]
        verified = command("verify")
    assert (verified.status, "2 confirmed id gaps," in verified.out) == (0, True)
    assert (
        rows_on_disk(tmp_path / "data", "XBTUSD")[300:]
        == expected(sample_trades.market(skipped))[300:]
    )


def test_a_market_whose_ids_skip_all_the_time_is_not_split(tmp_path: Path) -> None:
    """But for a place that lacks far more than the others."""
    skipping = [replace(trade, trade_id=3 * (trade.trade_id or 0)) for trade in TRADES]
    write(tmp_path, [line(trade) for trade in skipping[300:2_400]])
    with Commands(tmp_path, skipping) as command:
        done = command("import", "XBTUSD.csv")
        assert (
            "XBTUSD: 4,198 trade ids are missing at 2,099 places, the first between ids 903 and "
            "906: too many to be requested, so that time counts as covered"
        ) in done.err
        assert len(TradeStore(tmp_path / "data").segments("XBTUSD")) == 1
    write(tmp_path, [line(trade) for trade in [*skipping[300:1_000], *skipping[1_100:2_400]]])
    with Commands(tmp_path / "lacking", skipping) as command:
        (tmp_path / "lacking").mkdir()
        done = command("import", "../XBTUSD.csv")
        assert (
            "302 trade ids are missing at 1 place, the first between ids 3000 and 3303" in done.err
        )
        assert statuses(command, "backfill XBTUSD") == [0]
    assert ids(tmp_path / "lacking") == [trade.trade_id for trade in skipping]


def test_ids_out_of_order_within_a_second_show_no_missing_row(tmp_path: Path) -> None:
    trades = sample_trades.xbtusd_like(40_000, 3)
    swapped = [*trades]
    for at in range(10, len(trades) - 10, 50):
        first, second = trades[at : at + 2]
        if first.trade_id and second.trade_id and second.true_ns - first.true_ns < SECOND // 2:
            swapped[at] = replace(first, trade_id=second.trade_id)
            swapped[at + 1] = replace(second, trade_id=first.trade_id)
    write(tmp_path, [line(trade) for trade in swapped])
    with Commands(tmp_path, swapped[:1]) as command:
        done = command("import", "XBTUSD.csv", "--json")
    [report] = json.loads(done.out)["files"]
    assert (done.status, report["notes"], len(report["ranges"])) == (0, [], 1)


def test_bounds_of_a_file_vouch_for_its_ids(command: Callable[..., Answer], tmp_path: Path) -> None:
    """For a pair that the exchange no longer lists, nothing else can fill the place."""
    write(tmp_path, [line(trade) for trade in [*MIDDLE[:900], *MIDDLE[950:]]])
    bounds = ["--whole-since", "2024-01-01", "--whole-until", "2024-02-01"]
    done = command("import", "XBTUSD.csv", *bounds)
    assert (
        "50 trade ids are missing at 1 place, the first between ids 1200 and 1251: that time "
        "counts as covered, because you gave --whole-since and --whole-until"
    ) in done.err
    assert len(TradeStore(tmp_path / "data").coverage("XBTUSD")) == 1


# --- ids that contradict --------------------------------------------------------------------------


def _renumbered(change: Callable[[int, int], int]) -> list[str]:
    return [
        line(replace(trade, trade_id=change(at, trade.trade_id or 0)))
        for at, trade in enumerate(MIDDLE)
    ]


TWICE = [
    replace(trade, price=TRADES[at % 1_000].price, volume=TRADES[at % 1_000].volume)
    for at, trade in enumerate(TRADES[:2_000])
]
"""The first thousand trades, and again at other times."""

CONTRADICTIONS = {
    "each row twice": (
        [row for trade in MIDDLE for row in (line(trade, 4), line(trade))],
        "id 301 is there twice, at 2024-01-20T00:15:00.1234567Z and at 2024-01-20T00:15:00.1235Z",
    ),
    "all ids equal": (_renumbered(lambda _at, _number: 7), "trade id 7 is there twice"),
    "a low id": (
        _renumbered(lambda at, number: 5 if at == 700 else number),
        "id 5 of 2024-01-20T00:50:00.1234567Z is behind trade id 980 of 2024-01-20T00:48:57.",
    ),
    "high ids": (
        _renumbered(lambda at, number: number + 10**6 * (500 <= at < 600)),
        "trade id 901 of 2024-01-20T00:45:00.1234567Z is behind trade id 1000880 of",
    ),
    "an id that comes back": (
        _renumbered(lambda at, number: 1_000 if at == 1_500 else number),
        "id 1000 is there twice, at 2024-01-20T00:49:57.1234567Z and at 2024-01-20T01:30:00.123",
    ),
    "a single id 1": (
        _renumbered(lambda at, number: 1 if at == 700 else number),
        "id 1 of 2024-01-20T00:50:00.1234567Z is behind trade id 980 of 2024-01-20T00:48:57.",
    ),
    "a last id 1": (
        _renumbered(lambda at, number: 1 if at == len(MIDDLE) - 1 else number),
        "id 1 of 2024-01-20T01:59:57.1234567Z is behind trade id 2379 of 2024-01-20T01:58:54.",
    ),
    "ids that begin again": (
        _renumbered(lambda at, number: number + 5_000 if at < 1_000 else at - 999),
        "id 1 of 2024-01-20T01:05:00.1234567Z is behind trade id 6280 of 2024-01-20T01:03:57.",
    ),
    "the first trades again": (
        [line(replace(trade, trade_id=at % 1_000 + 1)) for at, trade in enumerate(TWICE)],
        "trade id 1 is there twice, at 2024-01-20T00:00:00.1234567Z and at 2024-01-20T00:50:00.123",
    ),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_file_whose_ids_contradict_is_refused(
    command: Callable[..., Answer], tmp_path: Path, what: str
) -> None:
    lines, message = CONTRADICTIONS[what]
    write(tmp_path, lines)
    done = command("import", "XBTUSD.csv")
    assert done.status == 2
    assert message in done.err
    assert "`harvester backfill XBTUSD` downloads the trades" in done.err
    assert TradeStore(tmp_path / "data").segments("XBTUSD") == []
    assert list((tmp_path / "data/staging").rglob("*")) == []


def test_after_a_file_was_refused_all_trades_are_downloaded(
    command: Callable[..., Answer], tmp_path: Path
) -> None:
    lines, _ = CONTRADICTIONS["an id that comes back"]
    write(tmp_path, lines)
    commands = ("import XBTUSD.csv", "backfill XBTUSD", "verify")
    assert statuses(command, *commands) == [2, 0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in TRADES]


LATE_NS = (9 * 3_600 + 300) * SECOND


def test_a_file_from_trade_1_on_that_begins_behind_stored_trades_is_a_fault(
    tmp_path: Path,
) -> None:
    """With all times nine hours late it has the stored trades again."""
    trades = [
        replace(trade, true_ns=trade.true_ns + at * 100 * SECOND + 12 * 3_600 * SECOND * (at > 600))
        for at, trade in enumerate(TRADES[:1_200])
    ]
    late = [replace(trade, true_ns=trade.true_ns + LATE_NS) for trade in trades[:600]]
    write(tmp_path, [line(trade) for trade in late])
    until = time_literal(late[-1].true_ns + 60 * SECOND, 0)
    bounds = ["--whole-since", "2024-01-20T09:00", "--whole-until", until]
    with Commands(tmp_path, trades) as command:
        assert command("backfill", "XBTUSD", "--until", "2024-01-20T09:00").status == 0
        stored = len(ids(tmp_path))
        done = command("import", "XBTUSD.csv", *bounds)
        assert (done.status, "ids increase with time" in done.err) == (4, True)
        assert statuses(command, "verify") == [4]
        assert len(ids(tmp_path)) == stored + 600
        assert statuses(command, "backfill XBTUSD", "backfill XBTUSD") == [4, 4]
        command("backfill", "XBTUSD", "--replace-imported")
        assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
        assert ids(tmp_path) == [trade.trade_id for trade in trades]


@pytest.mark.parametrize("shift", [10**6, -100])
def test_ids_that_do_not_fit_the_stored_ones_around_them_are_a_fault(
    command: Callable[..., Answer], tmp_path: Path, shift: int
) -> None:
    write(tmp_path, _renumbered(lambda _at, number: number + shift))
    assert command("import", "XBTUSD.csv").status == 0
    done = command("backfill", "XBTUSD")
    assert done.status == 4
    advice = "`harvester backfill XBTUSD --replace-imported` downloads imported ranges again"
    assert "ids increase with time" in done.err
    assert advice in done.err
    verified = command("verify")
    assert (verified.status, advice in verified.out + verified.err) == (4, True)
    command("backfill", "XBTUSD", "--replace-imported")
    assert statuses(command, "backfill XBTUSD", "verify") == [0, 0]
    assert ids(tmp_path) == [trade.trade_id for trade in TRADES]


def test_an_import_whose_ids_do_not_fit_the_stored_ones_says_so(
    command: Callable[..., Answer], tmp_path: Path
) -> None:
    assert command("backfill", "XBTUSD", "--until", "2024-01-20T00:10").status == 0
    write(tmp_path, _renumbered(lambda _at, number: number - 200))
    done = command("import", "XBTUSD.csv")
    assert done.status == 4
    assert "\nharvester: XBTUSD: trade id " in done.err
    assert "ids increase with time" in done.err
