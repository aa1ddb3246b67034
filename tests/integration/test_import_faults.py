"""Faults of `harvester import` that users met: rows lost without a word, or claimed by mistake."""

from __future__ import annotations

import json
import re
import sys
import time
import zipfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import csv_files
import pyarrow as pa
import pytest
from backfills import rows_on_disk
from command_line import own_environment, run_harvester, run_program

from harvester.csv_import.csv_files import BLOCK_BYTES
from harvester.kraken.pairs import Pair
from harvester.schema import PAGE_SCHEMA
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import SECOND, Range, covers

PAIR = Pair(altname="XBTUSD")
START_S = 1_700_000_000
Q1_2024_S = 1_704_067_200


class Answer(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def reports(self) -> list[Any]:
        return list(json.loads(self.out)["files"])


@pytest.fixture
def command(tmp_path: Path) -> Any:
    """Run `harvester` in a folder of its own, with no exchange to be reached."""
    # Names that are known need no exchange.
    pairs = {name: {"altname": name} for name in ("XBTUSD", "ETHUSD", "OLDUSD")}
    store_pairs(TradeStore(tmp_path / "data").store, json.dumps(pairs).encode())
    own = {
        "HARVESTER_API_URL": "http://127.0.0.1:9",
        "HARVESTER_DATA": str(tmp_path / "data"),
        "HARVESTER_EXCHANGE_GIVE_UP_S": "0.01",
        "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.01",
    }

    def call(*arguments: str, program: str = "") -> Answer:
        variables = own_environment() | own
        if not program:
            done = run_harvester(arguments, variables, tmp_path)
        else:
            command = [sys.executable, "-c", program, *arguments]
            done = run_program(command, variables, tmp_path)
        return Answer(done.returncode, done.stdout, done.stderr)

    def import_(*arguments: str, program: str = "") -> Answer:
        return call("import", "--delisted", *arguments, program=program)

    import_.other = call  # type: ignore[attr-defined]
    return import_


def lines(*rows: tuple[int | str, ...]) -> bytes:
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()


def regular(since_s: int, until_s: int, step_s: int, volume: str = "1.5") -> list[tuple[Any, ...]]:
    """A trade every so many seconds."""
    return [(at, f"{at % 97 + 1}.5", volume) for at in range(since_s, until_s, step_s)]


def stored(folder: Path) -> list[tuple[int, Decimal, Decimal]]:
    """Second, price and volume of each stored trade, in order."""
    return [(row[1] // SECOND, row[3], row[4]) for row in rows_on_disk(folder / "data", "XBTUSD")]


def exact(rows: list[tuple[Any, ...]]) -> list[tuple[int, Decimal, Decimal]]:
    return [(at, Decimal(price), Decimal(volume)) for at, price, volume in rows]


def is_covered(folder: Path, second: int) -> bool:
    moment = second * SECOND
    return covers(TradeStore(folder).coverage("XBTUSD"), Range(moment - 1, moment))


# --- bounds ---------------------------------------------------------------------------------------

NEW_YEAR_S = 1_767_225_600
APRIL_S = 1_775_001_600


@pytest.mark.parametrize("order", [1, -1])
def test_a_bound_counts_for_the_last_file_and_not_for_each(
    command: Any, tmp_path: Path, order: int
) -> None:
    early = regular(NEW_YEAR_S - 86_400, NEW_YEAR_S - 600, 600)
    late = regular(NEW_YEAR_S + 600, NEW_YEAR_S + 86_400, 300)
    csv_files.packed(tmp_path / "Kraken_Trading_History.zip", {"XBTUSD.csv": lines(*early)})
    csv_files.packed(tmp_path / "Kraken_Trading_History_Q1_2026.zip", {"XBTUSD.csv": lines(*late)})
    files = ["Kraken_Trading_History.zip", "Kraken_Trading_History_Q1_2026.zip"][::order]
    done = command(*files, "--pairs", "XBTUSD", "--whole-until", "2026-04-01", "--json")
    assert done.status == 0
    # The first file's end is not known: its last row is left, and the next file's are all there.
    assert stored(tmp_path) == exact(early[:-1] + late)
    assert [report["at_boundaries"]["rows"] for report in done.reports] == [1, 0]
    assert not is_covered(tmp_path / "data", early[-1][0])
    assert is_covered(tmp_path / "data", APRIL_S - 100)


def test_a_bound_in_the_past_of_a_longer_file_does_not_cover_its_rows(
    command: Any, tmp_path: Path
) -> None:
    """The file that begins last is not the one that ends last."""
    for name, rows in (
        ("a", regular(START_S, START_S + 90_000, 600)),
        ("b", regular(START_S + 6_000, START_S + 12_000, 600)),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "XBTUSD.csv").write_bytes(lines(*rows))
    until = str(START_S + 100_000)
    done = command("a/XBTUSD.csv", "b/XBTUSD.csv", "--whole-until", until, "--json")
    assert done.status == 0
    assert stored(tmp_path) == exact(regular(START_S + 600, START_S + 90_000, 600))
    assert is_covered(tmp_path / "data", START_S + 99_000)


@pytest.mark.parametrize("step", [1, 300])
def test_rows_of_covered_time_that_are_not_stored_are_an_error(
    command: Any, tmp_path: Path, step: int
) -> None:
    """Whatever led to it: here an earlier import was given a range that is too wide."""
    early = regular(START_S, START_S + 6_000, 600)
    late = regular(START_S + 10_000, START_S + 16_000, step)
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*early))
    until = str(START_S + 20_000)
    assert command("XBTUSD.csv", "--whole-until", until).status == 0
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*early, *late))
    done = command("XBTUSD.csv", "--json")
    [report] = done.reports
    assert (done.status, report["exit_status"], report["imported"]["rows"]) == (4, 4, 0)
    counts = f"{len(late):,} of {len(early) + len(late) - 1:,}"
    assert f"{counts} rows lie in a range that is already covered, but are not stored" in done.err
    assert "2023-11-15T01:00:00Z" in done.err
    assert stored(tmp_path) == exact(early[1:])


def test_rows_that_a_file_left_out_and_another_one_covered_are_an_error(
    command: Any, tmp_path: Path
) -> None:
    """Quarter two is said to be whole, and has not what the other file has at its end."""
    april = 1_711_929_600
    first = regular(april - 6_000, april + 6_000, 600)
    folder = tmp_path / "Kraken_Trading_History_Q2_2024"
    folder.mkdir()
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*first))
    (folder / "XBTUSD.csv").write_bytes(lines(*regular(april + 40_000, april + 90_000, 600)))
    done = command("XBTUSD.csv", folder.name, "--json")
    assert done.status == 4
    assert "1 of 1 rows lie in a range that is already covered, but are not stored" in done.err


# --- rows of time that is held --------------------------------------------------------------------


def held(folder: Path, rows: list[tuple[Any, ...]], span: Range) -> None:
    """Let the archive have trades from the API, each half a second behind its row."""
    batch = pa.RecordBatch.from_pydict(
        {
            "trade_id": list(range(1, len(rows) + 1)),
            "time": [at * SECOND + SECOND // 2 for at, *_ in rows],
            "price": [Decimal(price) for _, price, _ in rows],
            "volume": [Decimal(volume) for *_, volume in rows],
            "side": ["buy"] * len(rows),
            "order_type": ["limit"] * len(rows),
            "misc": [""] * len(rows),
        },
        schema=PAGE_SCHEMA,
    )
    with open_writer(TradeStore(folder), "XBTUSD") as pair_writer:
        pair_writer.commit(span, batch, Footer(span, '{"altname":"XBTUSD"}'))


@pytest.mark.parametrize("rounded_up", [0, 1])
def test_rows_that_were_downloaded_are_recognised_with_any_rounding(
    command: Any, tmp_path: Path, rounded_up: int
) -> None:
    rows = regular(START_S, START_S + 6_000, 600)
    held(tmp_path / "data", rows, Range((START_S - 60) * SECOND, (START_S + 6_000) * SECOND))
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*((at + rounded_up, *rest) for at, *rest in rows)))
    done = command("XBTUSD.csv", "--json")
    assert (done.status, done.reports[0]["already_covered"]["rows"]) == (0, 10)


@pytest.mark.parametrize("change", ["price", "time", "twice"])
def test_a_row_that_the_download_lacks_is_an_error(
    command: Any, tmp_path: Path, change: str
) -> None:
    rows = regular(START_S, START_S + 6_000, 600)
    held(tmp_path / "data", rows, Range((START_S - 60) * SECOND, (START_S + 6_000) * SECOND))
    at, price, volume = rows[5]
    other = {
        "price": [(at, f"{price}1", volume)],
        "time": [(at + 2, price, volume)],
        "twice": [rows[5], rows[5]],
    }[change]
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*rows[:5], *other, *rows[6:]))
    done = command("XBTUSD.csv")
    assert done.status == 4
    assert (
        f"1 of {9 + len(other)} rows lie in a range that is already covered, but are not stored"
        in done.err
    )


# --- rows that can't be read, and rows out of order -----------------------------------------------


def test_rows_up_to_a_minute_out_of_order_are_sorted(command: Any, tmp_path: Path) -> None:
    rows = [
        (1_700_000_060, "2000.0", "1.0"),
        (1_700_000_020, "1992.0", "1.0"),
        (1_700_000_080, "2001.0", "1.0"),
        (1_700_000_021, "1991.0", "1.0"),
        (1_700_000_020, "1990.0", "1.0"),
    ]
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*rows))
    bounds = ("--whole-since", "1699999000", "--whole-until", "1700008000")
    done = command("XBTUSD.csv", *bounds)
    assert done.status == 0
    assert "times step back 3 times, by at most 60 s: rows were sorted by" in done.err
    assert stored(tmp_path) == exact([rows[1], rows[4], rows[3], rows[0], rows[2]])


def test_a_file_that_is_not_in_order_of_time_is_refused(command: Any, tmp_path: Path) -> None:
    """Whichever of the two times is wrong, the file would cover time that it has not."""
    rows = regular(START_S, START_S + 6_000, 600)
    name = tmp_path / "XBTUSD.csv"
    for columns in (b"", b"time,price,volume\n"):
        name.write_bytes(columns + lines(*rows[5:], *rows[:5]))
        line = 6 + bool(columns)
        for options in ((), ("--skip-bad-rows",), ("--dry-run",)):
            done = command("XBTUSD.csv", *options)
            assert (done.status, stored(tmp_path)) == (2, [])
            assert f"XBTUSD.csv, line {line}: its time 2023-11-14T22:13:20Z is before" in (
                done.err + done.out
            )
    name.write_bytes(lines(*rows[5:]) + b"oops\n" + lines(*rows[:5]))
    assert "XBTUSD.csv, line 7: its time" in command("XBTUSD.csv", "--skip-bad-rows").err
    assert not any(is_covered(tmp_path / "data", at) for at, *_ in rows)


@pytest.mark.parametrize(
    ("index", "shift_s"),
    [
        # Those that stay in order, and one of each place that does not.
        *((0, shift_s) for shift_s in (-50_000, -7_200)),
        *((-1, shift_s) for shift_s in (7_200, 50_000, 80_000_000)),
        *((0, 7_200), (1, -50_000), (700, 80_000_000), (-2, 7_200), (-1, -7_200)),
    ],
)
def test_a_row_whose_time_is_wrong_covers_nothing(
    command: Any, tmp_path: Path, index: int, shift_s: int
) -> None:
    """Neither where it stands by its time, nor where it was traded."""
    rows = regular(START_S, START_S + 1_400 * 60, 60)
    at, *amounts = rows[index]
    rows[index] = (at + shift_s, *amounts)
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*rows))
    done = command("XBTUSD.csv", "--whole-since", str(START_S - 900))
    right = [row for row in rows if row is not rows[index]]
    if rows != sorted(rows):
        assert (done.status, stored(tmp_path)) == (2, [])
        return
    assert done.status in (0, 4)
    assert set(stored(tmp_path)) <= set(exact(right))
    assert len(stored(tmp_path)) >= len(right) - 10
    assert not is_covered(tmp_path / "data", at)
    assert not is_covered(tmp_path / "data", at + shift_s)
    # Beyond the file's ends, not even up to the row.
    if rows[0][0] > at + shift_s or at + shift_s > max(right)[0]:
        end_s = right[0][0] if shift_s < 0 else right[-1][0]
        assert not is_covered(tmp_path / "data", (end_s + at + shift_s) // 2)


def test_a_row_whose_time_is_still_to_come_is_unreadable(command: Any, tmp_path: Path) -> None:
    """Coverage up to there would hide every later gap: a ZIP's silences count as true."""
    now_s = int(time.time())
    rows = regular(now_s - 900_000, now_s - 600_000, 600)
    wrong = [*rows[:-1], (now_s + 2 * 86_400, *rows[-1][1:])]
    with zipfile.ZipFile(tmp_path / "K.zip", "w") as archive:
        archive.writestr("XBTUSD.csv", lines(*wrong))
    done = command("K.zip")
    assert (done.status, stored(tmp_path)) == (2, [])
    assert f"line {len(rows)}: " in done.err
    assert "is still to come, by this machine's clock" in done.err
    done = command("K.zip", "--skip-bad-rows")
    assert (done.status, len(stored(tmp_path))) == (4, len(rows) - 3)
    assert not is_covered(tmp_path / "data", now_s - 500_000)


@pytest.mark.parametrize(
    ("count", "index"), [(2, 0), (2, -1), (50, 0), (50, -1), (99, 40), (99, -1)]
)
def test_a_wrong_time_in_a_file_of_few_rows_covers_nothing(
    command: Any, tmp_path: Path, count: int, index: int
) -> None:
    """A single row in it counts so much that the average time between rows shows no silence."""
    rows = regular(START_S, START_S + count * 60, 60)
    at, *amounts = rows[index]
    wrong_s = at + (1 if index else -1) * 900_000
    rows[index] = (wrong_s, *amounts)
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*rows))
    assert command("XBTUSD.csv").status in ((0, 4) if rows == sorted(rows) else (2,))
    assert not is_covered(tmp_path / "data", at)
    assert not is_covered(tmp_path / "data", (at + wrong_s) // 2)


@pytest.mark.parametrize("name", ["mine.zip", "Kraken_Trading_History_Q1_2024/XBTUSD.csv"])
@pytest.mark.parametrize("bound", ["--whole-since", "--whole-until"])
def test_a_single_bound_does_not_prove_the_silences_of_a_file(
    command: Any, tmp_path: Path, name: str, bound: str
) -> None:
    rows = regular(Q1_2024_S, Q1_2024_S + 500_000, 60)
    rows += regular(Q1_2024_S + 2_500_000, Q1_2024_S + 3_000_000, 60)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    if name.endswith(".zip"):
        csv_files.packed(tmp_path / name, {"XBTUSD.csv": lines(*rows)})
    else:
        (tmp_path / name).write_bytes(lines(*rows))
    said_s = Q1_2024_S - 86_400 if bound == "--whole-since" else Q1_2024_S + 92 * 86_400
    assert command(name, bound, str(said_s)).status == 0
    assert is_covered(tmp_path / "data", Q1_2024_S + 250_000)
    assert not is_covered(tmp_path / "data", Q1_2024_S + 1_500_000)


@pytest.mark.parametrize(("first_day", "last_day", "unproved"), [(40, 130, 20), (-12, 40, 60)])
def test_a_name_that_the_rows_contradict_does_not_count_at_the_other_end(
    command: Any, tmp_path: Path, first_day: int, last_day: int, unproved: int
) -> None:
    begin_s, end_s = (Q1_2024_S + day * 86_400 for day in (first_day, last_day))
    name = "dump_Q1_2024.zip"
    csv_files.packed(tmp_path / name, {"XBTUSD.csv": lines(*regular(begin_s, end_s, 3_000))})
    assert command(name).status == 0
    assert is_covered(tmp_path / "data", (begin_s + end_s) // 2)
    assert not is_covered(tmp_path / "data", Q1_2024_S + unproved * 86_400)


def test_a_quarter_whose_neighbour_has_rows_of_another_one_is_not_complete_up_to_it(
    command: Any, tmp_path: Path
) -> None:
    """Names may be mixed up: the first quarter's last trades may be in a file of another name."""
    quarter_s = 91 * 86_400
    rows = regular(Q1_2024_S + 9, Q1_2024_S + quarter_s - 40_000, 3_000)
    later = regular(Q1_2024_S + 2 * quarter_s + 9, Q1_2024_S + 3 * quarter_s, 3_000)
    for number, part in ((1, rows), (2, later)):
        name = f"dump_Q{number}_2024.zip"
        csv_files.packed(tmp_path / name, {"XBTUSD.csv": lines(*part)})
    assert command("dump_Q1_2024.zip", "dump_Q2_2024.zip").status == 0
    assert is_covered(tmp_path / "data", rows[-3][0])
    assert not is_covered(tmp_path / "data", Q1_2024_S + quarter_s - 20_000)


def test_two_quarters_may_be_rounded_differently_at_their_turn(
    command: Any, tmp_path: Path
) -> None:
    """A trade at the turn may be in both of them, or in neither."""
    turn_s = Q1_2024_S + 91 * 86_400
    for number, begin_s in ((1, turn_s - 60_000), (2, turn_s + 60)):
        name = f"Kraken_Trading_History_Q{number}_2024.zip"
        rows = regular(begin_s, begin_s + 59_940, 60)
        csv_files.packed(tmp_path / name, {"XBTUSD.csv": lines(*rows)})
    names = [f"Kraken_Trading_History_Q{number}_2024.zip" for number in (1, 2)]
    assert command(*names).status == 0
    for second, is_known in ((-3, True), (-1, False), (0, False), (3, True)):
        assert is_covered(tmp_path / "data", turn_s + second) == is_known


def test_a_day_that_is_missing_between_busy_days_is_not_covered(
    command: Any, tmp_path: Path
) -> None:
    day_s = START_S // 86_400 * 86_400
    rows = [
        row
        for day in (0, 1, 3, 4)
        for row in regular(day_s + day * 86_400, day_s + (day + 1) * 86_400, 90)
    ]
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*rows))
    assert command("XBTUSD.csv").status == 0
    assert [is_covered(tmp_path / "data", day_s + day * 43_200) for day in (2, 3, 4, 5, 6, 7)] == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("named", ["Kraken_Trading_History_Q1_2024", "trades"])
def test_a_file_that_ends_within_a_line_is_refused_and_without_it_covers_no_more_than_its_rows(
    command: Any, tmp_path: Path, named: str
) -> None:
    rows = regular(Q1_2024_S + 100_000, Q1_2024_S + 200_000, 60)
    (tmp_path / named).mkdir()
    (tmp_path / named / "XBTUSD.csv").write_bytes(lines(*rows)[:-1])
    done = command(f"{named}/XBTUSD.csv")
    assert (done.status, stored(tmp_path)) == (2, [])
    assert f"XBTUSD.csv, line {len(rows)}: " in done.err
    assert "it has no line end, so the file may have been cut off" in done.err
    assert command(f"{named}/XBTUSD.csv", "--skip-bad-rows").status == 4
    assert set(stored(tmp_path)) < set(exact(rows))
    assert len(stored(tmp_path)) >= len(rows) - 5
    assert not is_covered(tmp_path / "data", rows[-1][0])
    assert not is_covered(tmp_path / "data", rows[-1][0] + 100_000)


def test_a_quarter_that_is_missing_between_joined_files_is_not_covered(
    command: Any, tmp_path: Path
) -> None:
    quarter_s = 91 * 86_400
    rows = [
        row
        for begin_s in (START_S, START_S + 2 * quarter_s)
        for row in regular(begin_s, begin_s + quarter_s, 3_000)
    ]
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*rows))
    assert command("XBTUSD.csv").status == 0
    assert is_covered(tmp_path / "data", START_S + quarter_s // 2)
    assert is_covered(tmp_path / "data", START_S + 5 * quarter_s // 2)
    for share in (1.1, 1.5, 1.9):
        assert not is_covered(tmp_path / "data", START_S + int(share * quarter_s))


def test_an_unpacked_quarter_is_not_covered_where_it_has_no_rows_for_long(
    command: Any, tmp_path: Path
) -> None:
    """Nothing shows that the file is whole: it has no checksum, as a ZIP has."""
    rows = regular(Q1_2024_S, Q1_2024_S + 80 * 86_400, 600)
    month_s = 30 * 86_400
    kept = [row for row in rows if not month_s <= row[0] - Q1_2024_S < 2 * month_s]
    name = "Kraken_Trading_History_Q1_2024"
    (tmp_path / name).mkdir()
    (tmp_path / name / "XBTUSD.csv").write_bytes(lines(*kept))
    assert command(name).status == 0
    assert is_covered(tmp_path / "data", Q1_2024_S + month_s // 2)
    for at in (1.5 * month_s, 88 * 86_400):
        assert not is_covered(tmp_path / "data", Q1_2024_S + int(at))


def test_a_pair_that_trades_rarely_is_imported(command: Any, tmp_path: Path) -> None:
    rows = regular(START_S - 1_200 * 86_400, START_S, 40 * 86_400)
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*rows))
    assert command("XBTUSD.csv").status == 0
    assert len(stored(tmp_path)) >= len(rows) - 2


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_damaged_name_in_a_zip_is_an_error(
    command: Any, tmp_path: Path, *, is_empty: bool
) -> None:
    path, inner = tmp_path / "Kraken_Trading_History.zip", "" if is_empty else "é/XBTUSD.csv"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(inner), lines(*regular(START_S, START_S + 600, 60)))
    if not is_empty:
        data = bytearray(path.read_bytes())
        data[data.rfind(b"XBTUSD")] ^= 0x80
        path.write_bytes(data)
    done = command(path.name)
    assert (done.status, done.out) == (2, "")
    # From Python 3.12 on, an empty name is read.
    reason = "(can't be read: .*|has no CSV: give one of Kraken's ZIPs)"
    assert re.fullmatch(f"harvester: {path.name} {reason}\n", done.err)


def test_in_a_zip_a_last_line_without_its_end_is_whole(command: Any, tmp_path: Path) -> None:
    """The ZIP's checksum is that of the file."""
    rows = regular(Q1_2024_S + 100_000, Q1_2024_S + 150_000, 600)
    members = {"XBTUSD.csv": lines(*rows)[:-1]}
    csv_files.packed(tmp_path / "Kraken_Trading_History_Q1_2024.zip", members)
    assert command("Kraken_Trading_History_Q1_2024.zip").status == 0
    assert stored(tmp_path) == exact(rows)
    assert is_covered(tmp_path / "data", Q1_2024_S + 80 * 86_400)


@pytest.mark.parametrize("over_s", [0, 3_600, 86_400])
def test_quarters_whose_rows_overlap_store_no_row_twice(
    command: Any, tmp_path: Path, over_s: int
) -> None:
    rows = regular(Q1_2024_S, Q1_2024_S + 182 * 86_400, 3_600)
    turn_s = Q1_2024_S + 91 * 86_400
    quarters = {
        "Kraken_Trading_History_Q1_2024": [row for row in rows if row[0] <= turn_s + over_s],
        "Kraken_Trading_History_Q2_2024": [row for row in rows if row[0] >= turn_s],
    }
    for name, part in quarters.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "XBTUSD.csv").write_bytes(lines(*part))
    assert command(*quarters).status == 0
    found = stored(tmp_path)
    assert len(found) == len(set(found)) >= len(rows) - 10
    assert not is_covered(tmp_path / "data", Q1_2024_S - 1)


def test_rows_before_the_quarter_of_their_name_cover_no_quarter(
    command: Any, tmp_path: Path
) -> None:
    rows = regular(Q1_2024_S - 100_000, Q1_2024_S - 50_000, 60)
    (tmp_path / "before_Q1_2024").mkdir()
    (tmp_path / "before_Q1_2024" / "XBTUSD.csv").write_bytes(lines(*rows))
    assert command("before_Q1_2024").status == 0
    assert len(stored(tmp_path)) >= len(rows) - 2
    assert not is_covered(tmp_path / "data", Q1_2024_S + 100_000)


def test_a_file_covers_nothing_that_is_still_to_come(command: Any, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    name = f"Kraken_Trading_History_Q{(now.month + 2) // 3}_{now.year}"
    now_s = int(now.timestamp())
    rows = regular(now_s - 7_200, now_s - 3_600, 60)
    (tmp_path / name).mkdir()
    for file in (f"{name}/XBTUSD.csv", "XBTUSD.csv"):
        (tmp_path / file).write_bytes(lines(*rows))
    assert command(name).status == 0
    assert not is_covered(tmp_path / "data", now_s)
    assert command("XBTUSD.csv", "--whole-until", str(now_s + 86_400)).status == 0
    assert not is_covered(tmp_path / "data", now_s)


@pytest.mark.parametrize("first", ["?,?,?", ",,", "17040676€0,x,y"])
def test_a_damaged_first_row_is_no_header(command: Any, tmp_path: Path, first: str) -> None:
    rows = regular(START_S, START_S + 6_000, 60)
    (tmp_path / "XBTUSD.csv").write_text(f"{first}\n{lines(*rows).decode()}")
    done = command("XBTUSD.csv")
    assert done.status == 2
    assert "line 1: " in done.err
    assert "can't be read" in done.err


@pytest.mark.parametrize("number", ["1e400000000", "1e-400000000", "9" * 90_000])
def test_a_number_beyond_all_bounds_is_a_bad_row(command: Any, tmp_path: Path, number: str) -> None:
    rows = regular(START_S, START_S + 6_000, 60)
    for row in ((number, "1", "1"), (START_S, number, "1"), (START_S, "1", number)):
        (tmp_path / "XBTUSD.csv").write_bytes(lines(*rows, row))
        done = command("XBTUSD.csv", "--dry-run")
        assert done.status == 2
        assert "internal error" not in done.err


def test_a_zip_without_a_csv_is_refused(command: Any, tmp_path: Path) -> None:
    csv_files.packed(tmp_path / "K.zip", {"README.txt": b"nothing"})
    done = command("K.zip")
    assert done.status == 2
    assert "K.zip has no CSV" in done.err


def test_a_large_file_out_of_order_is_refused_with_its_line(command: Any, tmp_path: Path) -> None:
    """It is read in several blocks."""
    rows = regular(START_S, START_S + 80_000 * 60, 60)
    data = lines(*rows[40_000:], *rows[:40_000])
    assert len(data) > BLOCK_BYTES
    (tmp_path / "XBTUSD.csv").write_bytes(data)
    done = command("XBTUSD.csv")
    assert (done.status, stored(tmp_path)) == (2, [])
    assert f"XBTUSD.csv, line {len(rows) - 40_000 + 1}: its time" in done.err


@pytest.mark.parametrize(
    "broken",
    [
        "1700000600,oops,1.0",
        "1700000600",
        "17000006oo,50.5,1.0",
        "1700000300,50.5,-1",
        "1699999700,50.5,-1",
    ],
)
def test_time_about_a_row_that_was_left_out_is_not_covered(
    command: Any, tmp_path: Path, broken: str
) -> None:
    rows = [(START_S + at, "50.0", "1.0") for at in (-600, 0, 1_200, 1_800)]
    data = lines(*rows[:2]) + broken.encode() + b"\n" + lines(*rows[2:])
    (tmp_path / "XBTUSD.csv").write_bytes(data)
    bounds = ("--whole-since", str(START_S - 900), "--whole-until", str(START_S + 4_000))
    assert command("XBTUSD.csv", *bounds).status == 2
    assert stored(tmp_path) == []
    done = command("XBTUSD.csv", "--skip-bad-rows", *bounds, "--json")
    assert done.status == 4
    assert done.reports[0]["bad_rows"][0]["text"] == broken
    assert "1 row can't be read: the time around is not covered" in done.err
    first, last = START_S, START_S + 1_200
    # Rows may be a minute out of order, so this one, too.
    assert not any(is_covered(tmp_path / "data", at) for at in range(first - 59, last + 60))
    assert is_covered(tmp_path / "data", first - 100)
    assert is_covered(tmp_path / "data", last + 100)
    assert stored(tmp_path) == exact([row for row in rows if not first <= row[0] <= last])
    assert command.other("status").status == 4


def test_time_about_a_row_that_one_file_left_out_is_not_covered_by_another(
    command: Any, tmp_path: Path
) -> None:
    rows = regular(START_S, START_S + 6_000, 600)
    for name, row in (("a", b"1700003000,oops,1.0\n"), ("b", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "XBTUSD.csv").write_bytes(lines(*rows[:5]) + row + lines(*rows[6:]))
    files = ["b/XBTUSD.csv", "a/XBTUSD.csv"]
    assert command(*files, "--skip-bad-rows").status == 4
    assert not any(is_covered(tmp_path / "data", START_S + at) for at in (2_500, 3_000, 3_500))
    assert is_covered(tmp_path / "data", START_S + 2_300)
    assert is_covered(tmp_path / "data", START_S + 3_700)


@pytest.mark.parametrize("rest", ["a price", "a time"])
def test_a_block_of_nul_bytes_that_makes_many_rows_a_single_bad_row_covers_none(
    command: Any, tmp_path: Path, rest: str
) -> None:
    """As a bad sector does: what is left of the line may have a time that can be read."""
    rows = regular(START_S, START_S + 60_000, 60)
    data = lines(*rows)
    begin, end = (data.index(str(rows[at][0]).encode()) for at in (300, 412))
    kept = {"a price": len("1700000000,5"), "a time": len("1700")}[rest]
    data = data[: begin + kept] + b"\0" * (end - begin) + data[end + kept :]
    (tmp_path / "XBTUSD.csv").write_bytes(data)
    done = command("XBTUSD.csv", "--skip-bad-rows", "--json")
    assert (done.status, done.reports[0]["bad"]) == (4, 1)
    assert not any(is_covered(tmp_path / "data", at) for at, *_ in rows[300:413])
    assert is_covered(tmp_path / "data", rows[290][0])
    assert is_covered(tmp_path / "data", rows[420][0])


FEW_PLACES = """
import sys
import harvester.csv_import.missing_trades as module
from harvester.cli.main import main
module.MAX_RUNS = 3
main()
"""


def test_broken_rows_in_more_places_than_are_kept_apart_lose_nothing(
    command: Any, tmp_path: Path
) -> None:
    """A file for each of thousands of places would take too long: the last ones are one gap."""
    rows = regular(START_S, START_S + 120_000, 600)
    broken = [f"{row[0] + 60},oops,1.0\n".encode() for row in rows[4:16:2]]
    data = lines(*rows[:5])
    for place, text in enumerate(broken):
        data += text + lines(*rows[5 + 2 * place : 7 + 2 * place])
    (tmp_path / "XBTUSD.csv").write_bytes(data + lines(*rows[17:]))
    done = command("XBTUSD.csv", "--skip-bad-rows", "--json", program=FEW_PLACES)
    assert (done.status, done.reports[0]["bad"]) == (4, 6)
    gaps = TradeStore(tmp_path / "data").gaps("XBTUSD")
    inner = [gap for gap in gaps if rows[0][0] < gap.after // SECOND < rows[20][0]]
    assert len(inner) == 3
    assert inner[2].through > rows[14][0] * SECOND
    for text in broken:
        assert not is_covered(tmp_path / "data", int(text.split(b",")[0]))
    kept = [row for row in rows if is_covered(tmp_path / "data", row[0])]
    assert stored(tmp_path) == exact(kept)


def test_a_broken_row_at_an_end_leaves_the_end_open(command: Any, tmp_path: Path) -> None:
    rows = regular(START_S, START_S + 6_000, 600)
    (tmp_path / "XBTUSD.csv").write_bytes(b"17000o,1.5,2\n" + lines(*rows) + b"17000\n1\n")
    bounds = ("--whole-since", str(START_S - 900), "--whole-until", str(START_S + 9_000))
    assert command("XBTUSD.csv", "--skip-bad-rows", *bounds).status == 4
    assert stored(tmp_path) == exact(rows[1:-1])
    assert not is_covered(tmp_path / "data", START_S - 100)
    assert not is_covered(tmp_path / "data", START_S + 6_000)
    first, last = TradeStore(tmp_path / "data").gaps("XBTUSD")
    assert first.after < rows[0][0] * SECOND <= first.through
    assert last.after < rows[-1][0] * SECOND <= last.through


def test_time_behind_a_broken_last_row_is_not_covered_by_the_next_file(
    command: Any, tmp_path: Path
) -> None:
    third = 1_688_169_600
    early, late = regular(third - 6_000, third - 600, 600), regular(third + 600, third + 6_000, 600)
    for number, text in ((2, lines(*early) + b"oops\n"), (3, lines(*late))):
        csv_files.packed(
            tmp_path / f"Kraken_Trading_History_Q{number}_2023.zip", {"XBTUSD.csv": text}
        )
    names = [f"Kraken_Trading_History_Q{number}_2023.zip" for number in (2, 3)]
    assert command(*names, "--skip-bad-rows").status == 4
    assert not any(is_covered(tmp_path / "data", at) for at in range(third - 1_200, third, 60))
    assert is_covered(tmp_path / "data", third - 1_300)


@pytest.mark.parametrize("broken", [None, 2, 3])
def test_between_two_quarters_that_are_imported_one_by_one_a_gap_is_on_record(
    command: Any, tmp_path: Path, broken: int | None
) -> None:
    """Else `refresh` would not download it, and `status` would not show it."""
    third = 1_688_169_600
    early, late = regular(third - 60_000, third - 60, 600), regular(third + 60, third + 60_000, 600)
    texts = {2: lines(*early), 3: lines(*late)}
    if broken is not None:
        texts[broken] = texts[2] + b"oops\n" if broken == 2 else b"oops\n" + texts[3]
    for number, text in texts.items():
        name = f"Kraken_Trading_History_Q{number}_2023.zip"
        csv_files.packed(tmp_path / name, {"XBTUSD.csv": text})
        assert command(name, "--skip-bad-rows").status == (4 if number == broken else 0)
    gaps = TradeStore(tmp_path / "data").gaps("XBTUSD")
    ends = {None: (third, third + 1), 2: (early[-1][0], third), 3: (third, late[0][0])}
    begin_s, end_s = ends[broken]
    [gap] = [gap for gap in gaps if gap.after < third * SECOND < gap.through + 2]
    assert gap.after < begin_s * SECOND
    assert end_s * SECOND - 1 <= gap.through
    assert command.other("status").status == 4


@pytest.mark.parametrize("broken", [2, 3])
def test_a_broken_row_at_a_quarters_end_leaves_the_quarter_beside_it_covered(
    command: Any, tmp_path: Path, broken: int
) -> None:
    """Its time is unreadable, but its file has the rows of its quarter only."""
    third = 1_688_169_600
    early, late = regular(third - 6_000, third, 600), regular(third + 600, third + 6_000, 600)
    texts = {2: lines(*early) + b"oops\n" * (broken == 2), 3: lines(*late)}
    if broken == 3:
        texts[3] = b"oops\n" + texts[3]
    names = [f"Kraken_Trading_History_Q{number}_2023.zip" for number in texts]
    for name, text in zip(names, texts.values(), strict=True):
        csv_files.packed(tmp_path / name, {"XBTUSD.csv": text})
    bounds = ("--whole-since", str(third - 9_000), "--whole-until", str(third + 9_000))
    assert command(*names, "--skip-bad-rows", *bounds).status == 4
    first, last = (early[-1][0], third) if broken == 2 else (third, late[0][0])
    assert not any(is_covered(tmp_path / "data", at) for at in range(first, last, 60))
    assert is_covered(tmp_path / "data", first - 70)
    assert is_covered(tmp_path / "data", last + 70)
    assert stored(tmp_path) == exact([row for row in early + late if not first <= row[0] <= last])


# --- what a failed import says --------------------------------------------------------------------


def test_a_failed_import_claims_no_rows(command: Any, tmp_path: Path) -> None:
    rows = regular(START_S, START_S + 400_000, 10)
    rows[-10] = (rows[-10][0], "broken", "1")
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*rows))
    done = command("XBTUSD.csv", "--json")
    [report] = done.reports
    assert (done.status, report["imported"]["rows"], stored(tmp_path)) == (2, 0, [])
    assert "XBTUSD.csv, line 39991: " in report["error"]


@pytest.mark.parametrize("column", [0, 12, 17, -1, None])
def test_a_flipped_byte_in_a_zip_is_damage_and_no_bad_row(
    command: Any, tmp_path: Path, column: int | None
) -> None:
    """In a time, a price, a volume, or at a line's end; or in the middle of a packed file."""
    method = zipfile.ZIP_DEFLATED if column is None else zipfile.ZIP_STORED
    data = lines(*regular(START_S, START_S + 60_000, 10))
    path = tmp_path / "K.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("XBTUSD.csv", data)
    raw = bytearray(path.read_bytes())
    line = data.splitlines(keepends=True)[3_000]
    place = len(raw) // 2 if column is None else raw.find(line) + column % len(line)
    raw[place] ^= 0x40
    path.write_bytes(raw)
    done = command("K.zip", "--skip-bad-rows", "--json")
    [report] = done.reports
    assert (done.status, report["imported"]["rows"], stored(tmp_path)) == (2, 0, [])
    plain = command("K.zip", "--json")
    for error in (report["error"], plain.reports[0]["error"]):
        assert error.startswith("K.zip:XBTUSD.csv is damaged: ") or "can't be read: " in error
        assert "--skip-bad-rows" not in error


# --- empty files, folders, busy files -------------------------------------------------------------

Q3 = (1_688_169_600, 1_696_118_400)


EMPTY_FILES = [b"", b"\n", b"price,volume,timestamp,b/s,m/l,misc\n"]


@pytest.mark.parametrize("data", EMPTY_FILES)
def test_an_empty_member_of_a_quarter_is_covered_and_empty(
    command: Any, tmp_path: Path, data: bytes
) -> None:
    members = {"ETHUSD.csv": lines(*regular(Q3[0] + 9, Q3[1], 60_000)), "XBTUSD.csv": data}
    name = "Kraken_Trading_History_Q3_2023"
    csv_files.packed(tmp_path / f"{name}.zip", members)
    name += ".zip"
    plan = command(name, "--dry-run", "--json")
    assert plan.status == 0
    assert [(report["pair"], report["layout"]) for report in plan.reports] == [
        ("ETHUSD", "time,price,volume without header"),
        ("XBTUSD", "no rows"),
    ]
    assert command(name).status == 0
    assert stored(tmp_path) == []
    [covered] = TradeStore(tmp_path / "data").coverage("XBTUSD")
    assert covered == Range((Q3[0] + 1) * SECOND - 1, (Q3[1] - 1) * SECOND - 1)
    assert command.other("verify").status == 0
    again = command(name, "--json")
    assert (again.status, [report["imported"]["rows"] for report in again.reports]) == (0, [0, 0])


@pytest.mark.parametrize("data", EMPTY_FILES)
def test_an_empty_file_outside_of_a_zip_does_not_prove_that_nothing_was_traded(
    command: Any, tmp_path: Path, data: bytes
) -> None:
    """The disk may have been full when it was unzipped."""
    path = tmp_path / "Kraken_Trading_History_Q3_2023" / "XBTUSD.csv"
    path.parent.mkdir()
    path.write_bytes(data)
    assert command(str(path)).status == 0
    assert TradeStore(tmp_path / "data").coverage("XBTUSD") == []
    said = ("--whole-since", str(Q3[0]), "--whole-until", str(Q3[1]))
    assert command(str(path), *said).status == 0
    assert len(TradeStore(tmp_path / "data").coverage("XBTUSD")) == 1


def test_an_empty_file_of_which_nothing_is_known_covers_nothing(
    command: Any, tmp_path: Path
) -> None:
    (tmp_path / "XBTUSD.csv").write_bytes(b"")
    csv_files.packed(tmp_path / "Kraken_Trading_History.zip", {"XBTUSD.csv": b""})
    until = ("--whole-until", str(START_S))
    for asked in (["XBTUSD.csv"], ["Kraken_Trading_History.zip"], ["XBTUSD.csv", *until]):
        assert command(*asked).status == 0
        assert TradeStore(tmp_path / "data").coverage("XBTUSD") == []


def test_an_empty_file_of_which_nothing_is_known_takes_no_bound_of_another(
    command: Any, tmp_path: Path
) -> None:
    rows = regular(START_S, START_S + 6_000, 60)
    for name, text in (("a", b""), ("b", lines(*rows))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "XBTUSD.csv").write_bytes(text)
    since, until = START_S - 3_600, START_S + 9_600
    bounds = ("--whole-since", str(since), "--whole-until", str(until))
    assert command("a/XBTUSD.csv", "b/XBTUSD.csv", *bounds).status == 0
    assert stored(tmp_path) == exact(rows)
    assert is_covered(tmp_path / "data", since + 10)
    assert is_covered(tmp_path / "data", until - 10)


def test_an_empty_quarter_between_two_leaves_no_gap(command: Any, tmp_path: Path) -> None:
    second, third, fourth = 1_680_307_200, 1_688_169_600, 1_696_118_400
    early, late = regular(second, second + 6_000, 60), regular(fourth + 60, fourth + 6_000, 60)
    for number, rows in ((2, early), (3, []), (4, late)):
        name = f"Kraken_Trading_History_Q{number}_2023.zip"
        csv_files.packed(tmp_path / name, {"XBTUSD.csv": lines(*rows)})
    names = (f"Kraken_Trading_History_Q{number}_2023.zip" for number in (4, 3, 2))
    # The quarters may be rounded differently at their turns, unless the user vouches for them.
    whole = ("--whole-since", str(second), "--whole-until", str(fourth + 7_000))
    done = command(*names, *whole)
    assert done.status == 0
    [covered] = TradeStore(tmp_path / "data").coverage("XBTUSD")
    assert covered.after < third * SECOND < fourth * SECOND < covered.through
    assert stored(tmp_path) == exact(early[1:] + late)


def test_one_bad_file_hides_no_other_from_a_dry_run(command: Any, tmp_path: Path) -> None:
    members = {"ETHUSD.csv": b"<html>", "XBTUSD.csv": lines(*regular(START_S, START_S + 600, 60))}
    csv_files.packed(tmp_path / "K.zip", members)
    done = command("K.zip", "--dry-run", "--json")
    assert (done.status, [report["rows"] for report in done.reports]) == (2, [0, 10])
    assert done.reports[0]["error"].startswith("K.zip:ETHUSD.csv has no trades")


@pytest.mark.parametrize("rows", [1, 2, 500])
def test_a_busy_file_of_which_no_row_can_be_imported_does_not_end_well(
    command: Any, tmp_path: Path, rows: int
) -> None:
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*regular(START_S, START_S + rows, 1)))
    done = command("XBTUSD.csv", "--json")
    assert (done.status, done.reports[0]["at_boundaries"]["rows"], stored(tmp_path)) == (
        4,
        rows,
        [],
    )
    assert "no row was imported, because" in done.err
    quiet = command("XBTUSD.csv", "-q")
    # Before it stands that the exchange could not be asked, as it is for every delisted pair.
    assert (quiet.status, "".join(quiet.err.splitlines(keepends=True)[1:])) == (
        4,
        f"harvester: XBTUSD: 0 of {rows} rows imported, {rows} skipped at boundaries, where "
        "`harvester backfill XBTUSD` downloads the trades\n",
    )


def test_files_of_one_delisted_pair_are_imported_together(command: Any, tmp_path: Path) -> None:
    for name, since in (("a", START_S), ("b", START_S + 90_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "OLDUSD.csv").write_bytes(lines(*regular(since, since + 6_000, 60)))
    done = command("a", "b", "--json")
    assert [report["imported"]["rows"] for report in done.reports] == [98, 98]


# --- interruption ---------------------------------------------------------------------------------

CTRL_C_AT_THE_SECOND_BLOCK = """
import os, signal, threading
from harvester.cli.main import main
from harvester.csv_import.row_order import Sorter
from harvester.events import CancelToken

cancelled, pushed = threading.Event(), []
push, cancel = Sorter.push, CancelToken.cancel

def push_with_ctrl_c(sorter, block):
    if len(pushed) == 1:
        os.kill(os.getpid(), signal.SIGINT)
        assert cancelled.wait(30)
    pushed.append(block)
    return push(sorter, block)

def cancel_and_say_so(token):
    cancel(token)
    cancelled.set()

Sorter.push, CancelToken.cancel = push_with_ctrl_c, cancel_and_say_so
main()
"""


def test_ctrl_c_ends_an_import_which_keeps_what_is_complete(command: Any, tmp_path: Path) -> None:
    rows = regular(START_S, START_S + 160_000 * 60, 60)
    (tmp_path / "XBTUSD.csv").write_bytes(lines(*rows))
    bounds = ("--whole-since", str(START_S - 900), "--whole-until", str(rows[-1][0] + 900))
    stopped = command("XBTUSD.csv", *bounds, program=CTRL_C_AT_THE_SECOND_BLOCK)
    hint = "stopping; storing what is complete (press again to stop at once)"
    assert (stopped.status, hint in stopped.err.splitlines()) == (130, True)
    kept = stored(tmp_path)
    assert 0 < len(kept) < len(rows)
    assert kept == exact(rows)[: len(kept)]
    assert command("XBTUSD.csv", *bounds).status == 0
    assert stored(tmp_path) == exact(rows)
