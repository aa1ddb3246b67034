"""`verify --repair`: broken files are set aside, what is missing is fetched, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import corruption
import csv_files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sample_trades
from backfills import Backfill, foreign_files, rows_on_disk, serve
from command_line import run_harvester
from corruption import END, HARMS, MARKET, PAIR, RANGES, TRADES, Harm, path_of, segment
from crash_points import Plan
from csv_imports import imported
from download_kills import Killed, dying, is_dead
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_faults import Faults
from kraken_market import SECOND_NS, Clock, Trade, expected
from kraken_server import Exchange
from kraken_socket import Call

from harvester.cli.main import cli
from harvester.config import load
from harvester.download.exchange import DownloadContext, RunOptions
from harvester.errors import HarvesterError
from harvester.events import CancelToken
from harvester.kraken.client import Client
from harvester.operations.run_log import latest_runs
from harvester.query.rollups import parse_levels, roll_up
from harvester.storage.locks_and_requests import locked
from harvester.storage.parquet_files import WRITER_OPTIONS
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range
from harvester.verify.integrity import verify
from harvester.verify.repair import Repairer
from harvester.verify.reports import PairReport, RepairReport

HISTORY = list(expected(MARKET))
NOWHERE = "http://127.0.0.1:9"
FAST = {
    "HARVESTER_EXCHANGE_RATE": "0",
    "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.01",
    "HARVESTER_EXCHANGE_GIVE_UP_S": "0.5",
    "HARVESTER_CANDLES_ROLLUPS": "",
}
SOUND = (
    "XBTUSD: sound: 1 file, 800 trades, 800 ids, 0 file boundaries, 0 confirmed id gaps, 0 roll-ups"
)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four segments that touch, of two hundred trades each."""
    return corruption.build(
        tmp_path_factory.mktemp("sound"), lambda: tmp_path_factory.mktemp("part")
    )


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with serve(MARKET) as server:
        yield server


@pytest.fixture
def data(sound: Path, tmp_path: Path) -> Path:
    """A copy to be harmed."""
    return Path(shutil.copytree(sound, tmp_path / "data"))


RepairPair = Callable[..., RepairReport]


@pytest.fixture(scope="module")
def repair_pair(exchange: Exchange) -> Iterator[RepairPair]:
    """Repairs the pair of an archive; by an older report, if one is given."""
    options = {"exchange.url": exchange.url}
    client = Client(load(options, environment=FAST).exchange)

    async def work(
        archive: TradeStore, report: PairReport | None, cancel: CancelToken
    ) -> RepairReport:
        watch = RunOptions(lambda _event: None, cancel)
        run = DownloadContext(client, archive, load(options, environment=dict(os.environ)), watch)
        repairer = Repairer(run, lambda _moved: None)
        return await repairer.repair(report or verify(archive, PAIR))

    def repairing(
        archive: TradeStore, report: PairReport | None = None, cancel: CancelToken | None = None
    ) -> RepairReport:
        return runner.run(work(archive, report, cancel or CancelToken()))

    with asyncio.Runner() as runner:
        yield repairing
        runner.run(client.__aexit__(None, None, None))


@dataclass
class Ran:
    """What a command came to, and what it asked the exchange."""

    status: int
    out: str
    err: str
    calls: Sequence[Call]

    @property
    def lines(self) -> list[str]:
        """What it printed."""
        return self.out.splitlines()

    @property
    def asked(self) -> list[tuple[str, str | None, str | None]]:
        """Endpoint, pair and `since` of each call."""
        return [
            (call.path.rpartition("/")[2], call.pair, call.params.get("since"))
            for call in self.calls
        ]


def run(exchange: Exchange | str, folder: Path, *words: str) -> Ran:
    """`harvester verify` in this process, as `harvester.cli.main` runs it."""
    url = exchange if isinstance(exchange, str) else exchange.url
    calls = [] if isinstance(exchange, str) else exchange.calls
    before = len(calls)
    arguments = ["verify", *words, "-d", str(folder), "--api-url", url]
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli(arguments, standalone_mode=False)
        except HarvesterError as error:
            status = error.exit_status
            err.write(f"{error}\n")
    out.flush()
    written = out.buffer.getvalue().decode() if isinstance(out.buffer, io.BytesIO) else ""
    return Ran(status, written, err.getvalue(), calls[before:])


def bodies(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def kept(folder: Path) -> dict[str, bytes]:
    """The files of an archive that matter: not its locks, nor the records of runs."""
    aside = ("locks/", "runs.jsonl")
    return {path: body for path, body in bodies(folder).items() if not path.startswith(aside)}


def quarantined(folder: Path) -> dict[str, bytes]:
    """What stands in quarantine, without the notes."""
    found = bodies(folder / "quarantine") if (folder / "quarantine").exists() else {}
    return {path: body for path, body in found.items() if not path.endswith("/note.json")}


def note(folder: Path, number: str = "0001") -> dict[str, Any]:
    """A note, but for when it was written."""
    found = json.loads((folder / f"quarantine/{PAIR}/{number}/note.json").read_text())
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.pop("when"))
    return dict(found)


# --- every kind of damage: found and repaired -----------------------------------------------------

PLACES: dict[Harm, int] = {
    corruption.bytes_cut_off: 3,
    corruption.byte_changed: 3,
    corruption.rows_swapped: 2,
}
CASES = [(harm, PLACES.get(harm, 1)) for harm in HARMS]
CASES += [(corruption.file_lost, 3), (corruption.file_lost, 0), (corruption.file_renamed_wider, 3)]


@dataclass
class Repaired:
    """One kind of damage, and the results: verified, repaired, repaired again."""

    harm: Harm
    place: int
    said: list[corruption.Said]
    before: dict[str, bytes]
    caught: Ran
    repaired: Ran
    again: Ran
    folder: Path

    @property
    def moved(self) -> str | None:
        """The path of the file that has to go."""
        return None if self.harm is corruption.file_lost else self.said[0].where

    @property
    def gap(self) -> Range | None:
        """What has to be asked for; None where nothing is missing."""
        return None if self.harm is corruption.file_doubled else RANGES[self.place]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}")
def repaired(
    request: pytest.FixtureRequest,
    sound: Path,
    exchange: Exchange,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Repaired]:
    harm, place = request.param
    folder = Path(shutil.copytree(sound, tmp_path_factory.mktemp("harmed") / "data"))
    said = harm(folder, place)
    before = kept(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FAST.items():
            patch.setenv(name, value)
        runs = [run(exchange, folder, *words) for words in ([], ["--repair"], ["--repair"])]
    yield Repaired(harm, place, said, before, runs[0], runs[1], runs[2], folder)
    shutil.rmtree(folder)


def test_damage_is_found_with_lines_that_name_file_and_range(repaired: Repaired) -> None:
    patterns = [pattern for said in repaired.said for pattern in said.lines()]
    found = repaired.caught.lines[1:]
    assert (repaired.caught.status, len(found)) == (4, len(patterns))
    unsaid = [
        pattern for pattern in patterns if not any(re.fullmatch(pattern, line) for line in found)
    ]
    assert unsaid == []


def test_a_damaged_archive_is_repaired(repaired: Repaired) -> None:
    assert repaired.repaired.status == 0
    assert rows_on_disk(repaired.folder, PAIR) == HISTORY
    assert verify(TradeStore(repaired.folder), PAIR).faults == []


def test_the_broken_file_is_kept_to_the_byte(repaired: Repaired) -> None:
    wanted = {}
    if repaired.moved is not None:
        name = repaired.moved.rpartition("/")[2]
        wanted = {f"{PAIR}/0001/{name}": repaired.before[repaired.moved]}
    assert quarantined(repaired.folder) == wanted


def test_the_quarantine_note_has_the_faults(repaired: Repaired) -> None:
    if repaired.moved is None:
        return
    found = note(repaired.folder)
    texts = repaired.said[0].texts[: len(found["faults"])]
    assert all(map(re.fullmatch, texts, found.pop("faults")))
    assert found == {
        "pair": PAIR,
        "path": repaired.moved,
        "range": list(repaired.said[0].span),
        "wanted": [list(RANGES[repaired.place])],
    }


def test_only_missing_ranges_are_requested(repaired: Repaired) -> None:
    calls = repaired.repaired.asked
    if repaired.gap is None:
        assert calls == []
        return
    assert calls[:3] == [("Time", None, None), *[("AssetPairs", None, None)] * 2]
    assert {(path, pair) for path, pair, _ in calls[3:]} == {("Trades", PAIR)}
    stamps = [int(since) for _, _, since in calls[3:] if since is not None]
    # A range is asked for from a millisecond before it.
    assert max(0, repaired.gap.after - 1_000_000) == stamps[0] == min(stamps)
    assert max(stamps) <= repaired.gap.through
    # At the head, the page after the last and the newest one have to be seen as well.
    assert len(calls) == 3 + (3 if repaired.place == 3 else 1)


def test_the_lines_name_moved_files_and_downloaded_trades(repaired: Repaired) -> None:
    rows = (
        sum(repaired.gap.after < row[1] <= repaired.gap.through for row in HISTORY)
        if repaired.gap
        else 0
    )
    pages = 3 if repaired.place == 3 else 1
    lines = repaired.repaired.lines
    assert lines[: len(repaired.caught.lines)] == repaired.caught.lines
    name = (repaired.moved or "").rpartition("/")[2]
    moved = [f"{PAIR}: moved {repaired.moved} to quarantine/{PAIR}/0001/{name}"]
    ending = "" if pages == 1 else "s"
    fetched = [f"{PAIR}: downloaded {rows} trades in {pages} page{ending}"]
    assert lines[len(repaired.caught.lines) :] == [
        *(moved if repaired.moved else []),
        *(fetched if repaired.gap else []),
        SOUND,
    ]


def test_what_was_wanted_stays_as_it_was(repaired: Repaired) -> None:
    wanted = json.loads((repaired.folder / f"wanted/{PAIR}.json").read_text())
    assert (wanted["pair"], wanted["spans"]) == (PAIR, [[0, END]])
    assert "unlisted" not in wanted


def test_a_second_repair_changes_and_requests_nothing(repaired: Repaired) -> None:
    assert (repaired.again.status, repaired.again.asked, len(repaired.again.lines)) == (0, [], 1)


# --- roll-ups ------------------------------------------------------------------------------------


@pytest.fixture
def rolled(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive with a roll-up of hours beside each segment."""
    monkeypatch.setenv("HARVESTER_CANDLES_ROLLUPS", "1h")
    with open_writer(TradeStore(data), PAIR) as pair_writer:
        roll_up(pair_writer, parse_levels(["1h"]))
    return data


def test_an_altered_rollup_is_moved_and_made_again_without_a_request(rolled: Path) -> None:
    path = path_of(RANGES[2]).replace("trades/", "candles/interval=1h/", 1)
    table = pq.ParquetFile(rolled / path).read()
    counts = [count + 1 for count in table.column("count").to_pylist()]
    place = table.schema.get_field_index("count")
    corruption.rewrite(
        rolled / path,
        lambda table: table.set_column(place, table.schema.field("count"), pa.array(counts)),
    )
    altered = (rolled / path).read_bytes()
    ran = run(NOWHERE, rolled, "--repair")
    name = path.rpartition("/")[2]
    span = corruption.span_text(RANGES[2])
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines[1:-1] == [
        f"  {path}: it does not agree with the trades of its segment; range {span}",
        f"{PAIR}: moved {path} to quarantine/{PAIR}/0001/{name}",
    ]
    assert quarantined(rolled) == {f"{PAIR}/0001/{name}": altered}
    report = verify(TradeStore(rolled), PAIR)
    assert (report.faults, report.files, report.rollups) == ([], 1, 1)
    assert note(rolled)["wanted"] == []


def test_the_rollups_of_a_moved_segment_are_made_again(rolled: Path, exchange: Exchange) -> None:
    corruption.digit_changed(rolled, 1)
    assert run(exchange, rolled, "--repair").status == 0
    report = verify(TradeStore(rolled), PAIR)
    assert (report.faults, report.files, report.rollups) == ([], 1, 1)
    assert list(quarantined(rolled)) == [f"{PAIR}/0001/{Path(path_of(RANGES[1])).name}"]


def test_an_open_archive_can_be_repaired_again(rolled: Path, repair_pair: RepairPair) -> None:
    archive = TradeStore(rolled)
    corruption.digit_changed(rolled, 1)
    assert repair_pair(archive).exit_status == 0
    for _ in range(2):
        [file] = (rolled / "candles").rglob("*.parquet")
        file.write_bytes(file.read_bytes()[:-30])
        assert repair_pair(archive).exit_status == 0
    assert (verify(archive, PAIR).rollups, len(quarantined(rolled))) == (1, 3)


# --- files that are sound each, and not together -------------------------------------------------


def refetched(url: str, folder: Path, tmp_path: Path, span: Range, *left_out: int) -> None:
    """Put another segment into an archive, downloaded from an exchange that leaves trades out."""
    with (
        serve(corruption.market_without(*left_out))
        if left_out
        else contextlib.nullcontext() as exchange
    ):
        source = exchange.url if exchange else url
        corruption.fetch(source, folder, span, tmp_path / f"part-{span.after}-{span.through}")


def test_of_two_files_that_overlap_in_part_with_the_same_trades_the_later_is_moved(
    data: Path, exchange: Exchange, tmp_path: Path
) -> None:
    middle = Range(TRADES[300].true_ns, TRADES[450].true_ns)
    segment(data, 2).unlink()
    refetched(exchange.url, data, tmp_path, middle)
    body = (data / path_of(middle)).read_bytes()
    ran = run(exchange, data, "--repair")
    assert ran.status == 0
    assert rows_on_disk(data, PAIR) == HISTORY
    assert quarantined(data) == {f"{PAIR}/0001/{Path(path_of(middle)).name}": body}
    assert note(data)["faults"] == [f"it overlaps with {path_of(RANGES[1])}"]


@pytest.mark.parametrize(
    "span",
    [
        Range(TRADES[300].true_ns, TRADES[450].true_ns),
        Range(TRADES[250].true_ns, RANGES[1].through),
    ],
    ids=["in part", "one inside the other"],
)
def test_of_two_that_overlap_with_other_trades_both_go(
    data: Path, exchange: Exchange, tmp_path: Path, span: Range
) -> None:
    if span.through > RANGES[1].through:
        segment(data, 2).unlink()
    refetched(exchange.url, data, tmp_path, span, 320)
    ran = run(exchange, data, "--repair")
    assert ran.status == 0
    assert rows_on_disk(data, PAIR) == HISTORY
    assert [note(data, number)["faults"] for number in ("0001", "0002")] == [
        [f"it overlaps with {path_of(span)}, which has other trades"],
        [f"it overlaps with {path_of(RANGES[1])}, which has other trades"],
    ]


def test_files_that_a_crash_left_beside_the_merged_file_are_removed_without_a_request(
    data: Path, exchange: Exchange, tmp_path: Path
) -> None:
    refetched(exchange.url, data, tmp_path, Range(TRADES[250].true_ns, RANGES[1].through))
    assert run(NOWHERE, data).status == 4
    ran = run(NOWHERE, data, "--repair")
    assert (ran.status, rows_on_disk(data, PAIR), quarantined(data)) == (0, HISTORY, {})


def test_trades_missing_inside_a_file_are_downloaded_and_no_others(
    data: Path, exchange: Exchange, tmp_path: Path
) -> None:
    segment(data, 1).unlink()
    refetched(exchange.url, data, tmp_path, RANGES[1], 300, 301)
    forget_id_gaps(segment(data, 1))
    ran = run(exchange, data, "--repair")
    assert (ran.status, rows_on_disk(data, PAIR), quarantined(data)) == (0, HISTORY, {})
    assert sum(endpoint == "Trades" for endpoint, *_ in ran.asked) <= 4
    [line] = [line for line in ran.lines if "trades were missing, downloaded again: " in line]
    assert line.startswith(f"{PAIR}: ")
    # Of the file, only what lies between the two trades beside the missing ones.
    assert str(RANGES[1]) not in line


def forget_id_gaps(file: Path) -> None:
    """Remove the id gaps from a footer."""
    footer = pq.read_metadata(file).metadata
    kept = {key: text for key, text in footer.items() if key.startswith(b"harvester.")}
    kept[b"harvester.jumps"] = b"[]"
    table = pq.ParquetFile(file).read().replace_schema_metadata(kept)
    pq.write_table(table, file, **WRITER_OPTIONS)


def test_trades_missing_between_two_files_are_downloaded_and_no_others(
    data: Path, exchange: Exchange, tmp_path: Path
) -> None:
    segment(data, 1).unlink()
    # The exchange shows the first trades behind the edge to nobody.
    refetched(exchange.url, data, tmp_path, RANGES[1], 199, 200)
    ran = run(exchange, data, "--repair")
    assert (ran.status, rows_on_disk(data, PAIR), quarantined(data)) == (0, HISTORY, {})
    assert sum(endpoint == "Trades" for endpoint, *_ in ran.asked) <= 3


def test_id_gaps_of_the_exchange_are_on_record_after_a_repair(tmp_path: Path) -> None:
    with serve(corruption.market_without(300, 301)) as skipping:
        corruption.fetch(skipping.url, tmp_path / "data", RANGES[1], tmp_path / "part")
        forget_id_gaps(segment(tmp_path / "data", 1))
        assert run(skipping, tmp_path / "data").status == 4
        assert run(skipping, tmp_path / "data", "--repair").status == 0
    report = verify(TradeStore(tmp_path / "data"), PAIR)
    assert (report.faults, report.confirmed_id_gaps) == ([], 1)


def test_a_file_shown_to_lack_trades_by_the_download_of_its_neighbour_is_completed(
    data: Path, exchange: Exchange, tmp_path: Path
) -> None:
    segment(data, 1).unlink()
    refetched(exchange.url, data, tmp_path, RANGES[1], 199, 200)
    corruption.digit_changed(data, 0)
    ran = run(exchange, data, "--repair")
    # The file that was altered went; what its neighbour lacks is downloaded into a gap.
    assert (ran.status, rows_on_disk(data, PAIR), len(quarantined(data))) == (0, HISTORY, 1)


# --- ranges in file names, and which of them are requested ----------------------------------------


def wanted(folder: Path, pair: str = PAIR) -> list[list[int]]:
    return list(json.loads((folder / f"wanted/{pair}.json").read_text())["spans"])


def test_the_false_part_of_a_file_name_is_not_requested(data: Path, exchange: Exchange) -> None:
    corruption.want(data, Range(0, RANGES[2].through))
    corruption.file_renamed_wider(data, 3)
    assert run(exchange, data, "--repair").status == 0
    assert wanted(data) == [[0, END]]


def test_the_range_of_a_file_without_a_footer_is_its_name_up_to_now(
    data: Path, exchange: Exchange
) -> None:
    corruption.bytes_cut_off(data, 3)
    future = Range(RANGES[3].after, 4_000_000_000_000_000_000)
    segment(data, 3).rename(data / path_of(future))
    corruption.want(data, Range(0, RANGES[2].through))
    now_ns = END + 5 * 10**9
    exchange.clock, before = Clock(now_ns), exchange.clock
    try:
        ran = run(exchange, data, "--repair")
    finally:
        exchange.clock = before
    settled = now_ns // 10**9 * 10**9 - 60 * 10**9
    assert ran.status == 0
    assert wanted(data) == [[0, settled]]


def test_a_file_of_another_pair_is_moved_and_nothing_is_requested(data: Path) -> None:
    other = data / path_of(RANGES[0]).replace(PAIR, "ETHUSD")
    other.parent.mkdir(parents=True)
    shutil.copy(segment(data, 0), other)
    ran = run(NOWHERE, data, "--repair")
    assert (ran.status, ran.calls, (data / "wanted/ETHUSD.json").exists()) == (0, [], False)
    assert list(quarantined(data)) == [f"ETHUSD/0001/{other.name}"]
    assert ran.lines[-1] == (
        "ETHUSD: sound: 0 files, 0 trades, 0 ids, 0 file boundaries, 0 confirmed id gaps, "
        "0 roll-ups"
    )


def test_copies_beside_segments_are_moved_and_nothing_is_downloaded(
    data: Path, exchange: Exchange
) -> None:
    first = segment(data, 0)
    names = ("copy.parquet", f"old/{first.name}")
    copies = [first.parent / name for name in names]
    for copy in copies:
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(first, copy)
    body = first.read_bytes()
    ran = run(exchange, data, "--repair")
    assert (ran.status, ran.asked, rows_on_disk(data, PAIR)) == (0, [], HISTORY)
    assert list(quarantined(data).values()) == [body] * 2
    assert not any(copy.exists() for copy in copies)


def test_what_was_wanted_and_lost_is_all_between_the_first_file_and_the_last(
    data: Path, exchange: Exchange
) -> None:
    (data / f"wanted/{PAIR}.json").unlink()
    segment(data, 1).unlink()
    assert [fault.range for fault in verify(TradeStore(data), PAIR).faults if not fault.path] == [
        RANGES[1]
    ]
    ran = run(exchange, data, "--repair")
    assert (ran.status, rows_on_disk(data, PAIR)) == (0, HISTORY)


def test_the_false_part_of_a_file_name_is_not_requested_if_the_record_of_requests_is_lost(
    data: Path, exchange: Exchange
) -> None:
    (data / f"wanted/{PAIR}.json").unlink()
    corruption.file_renamed_wider(data, 3)
    ran = run(exchange, data, "--repair")
    assert (ran.status, rows_on_disk(data, PAIR), wanted(data)) == (0, HISTORY, [[0, END]])


def test_a_list_of_what_was_wanted_that_cannot_be_read_wants_the_gaps_between_files(
    data: Path, exchange: Exchange
) -> None:
    segment(data, 1).unlink()
    (data / f"wanted/{PAIR}.json").write_bytes(b'{"pair": "ETHUSD", "spans": [[0, 17]]}')
    ran = run(exchange, data, "--repair")
    assert (ran.status, rows_on_disk(data, PAIR), wanted(data)) == (0, HISTORY, [[0, END]])


def test_an_unreadable_record_of_requests_is_moved_and_written_again(
    data: Path, exchange: Exchange
) -> None:
    corruption.file_renamed_wider(data, 3)
    raw = b'{"pair": "XBTUSD", "spans": [[0, 17'
    (data / f"wanted/{PAIR}.json").write_bytes(raw)
    ran = run(exchange, data, "--repair")
    assert (ran.status, rows_on_disk(data, PAIR), wanted(data)) == (0, HISTORY, [[0, END]])
    assert quarantined(data)[f"{PAIR}/0001/{PAIR}.json"] == raw
    assert note(data)["wanted"] == [[0, END]]
    assert (
        ran.lines[-4] == f"{PAIR}: moved wanted/{PAIR}.json to quarantine/{PAIR}/0001/{PAIR}.json"
    )


def test_a_pair_whose_name_the_archive_forgot_is_known_by_its_files(
    data: Path, exchange: Exchange
) -> None:
    (data / "pairs.json").unlink()
    corruption.digit_changed(data, 1)
    ran = run(exchange, data, "--repair")
    assert [path for path, _, _ in ran.asked] == ["Time", "AssetPairs", "AssetPairs", "Trades"]
    assert (ran.status, rows_on_disk(data, PAIR)) == (0, HISTORY)


def test_a_pair_whose_key_the_archive_does_not_know_is_looked_up_once(
    data: Path, exchange: Exchange
) -> None:
    (data / "pairs.json").write_text(json.dumps({PAIR: {"altname": PAIR}}))
    corruption.digit_changed(data, 1)
    ran = run(exchange, data, "--repair")
    assert [path for path, _, _ in ran.asked] == ["Time", "AssetPairs", "AssetPairs", "Trades"]
    assert (ran.status, rows_on_disk(data, PAIR)) == (0, HISTORY)


# --- harms together ------------------------------------------------------------------------------

# Two rows swapped twice would be no harm.
HARMED = st.lists(
    st.tuples(st.sampled_from(HARMS), st.integers(0, 3)), min_size=2, max_size=4, unique=True
)


def content(file: Path) -> Any:
    """What a file holds and says, however it is encoded; None where that can't be read."""
    try:
        table, footer = pq.ParquetFile(file).read(), pq.read_metadata(file).metadata
    except (OSError, pa.ArrowException):
        return None
    return table.to_pylist(), {k: v for k, v in footer.items() if k.startswith(b"harvester.")}


@given(several=HARMED)
@settings(max_examples=15, deadline=None)
def test_any_damage_in_any_combination_is_repaired_and_nothing_is_lost(
    sound: Path,
    exchange: Exchange,
    tmp_path_factory: pytest.TempPathFactory,
    several: list[tuple[Harm, int]],
) -> None:
    folder = Path(shutil.copytree(sound, tmp_path_factory.mktemp("harmed") / "data"))
    for harm, place in several:
        # What another harm has done to a file may leave nothing to harm.
        with contextlib.suppress(OSError, pa.ArrowException):
            harm(folder, place)
    broken = {
        file.read_bytes()
        for file in (folder / "trades").rglob("*.parquet")
        if content(file) != content(sound / file.relative_to(folder))
    }
    assert run(exchange, folder).status == 4
    ran = run(exchange, folder, "--repair")
    assert (ran.status, rows_on_disk(folder, PAIR)) == (0, HISTORY)
    assert broken <= set(quarantined(folder).values())
    again = run(NOWHERE, folder, "--repair")
    assert (again.status, len(again.lines)) == (0, 1)
    shutil.rmtree(folder)


def test_an_unreadable_file_whose_name_covers_others_is_repaired(
    data: Path, exchange: Exchange
) -> None:
    corruption.bytes_cut_off(data, 1)
    corruption.file_renamed_wider(data, 1)
    ran = run(exchange, data, "--repair")
    assert (ran.status, rows_on_disk(data, PAIR), len(quarantined(data))) == (0, HISTORY, 1)


# --- kills ---------------------------------------------------------------------------------------


def harmed_with_its_list(folder: Path) -> None:
    """Three files, and what was wanted, which can't be read any more."""
    corruption.digit_changed(folder, 1)
    corruption.file_renamed_wider(folder, 2)
    corruption.bytes_cut_off(folder, 3)
    (folder / f"wanted/{PAIR}.json").write_text("{")


def harmed_and_not_wanted(folder: Path) -> None:
    """A file whose range is requested by its name and footer only."""
    corruption.digit_changed(folder, 3)
    corruption.want(folder, Range(0, RANGES[2].through))


@pytest.mark.parametrize(
    ("harm", "least"), [(harmed_with_its_list, 20), (harmed_and_not_wanted, 10)]
)
def test_killed_at_any_step_nothing_is_lost_and_the_next_repair_ends_it(
    data: Path,
    repair_pair: RepairPair,
    tmp_path: Path,
    harm: Callable[[Path], None],
    least: int,
) -> None:
    before = kept(data)
    harm(data)
    broken = {
        body
        for path, body in kept(data).items()
        if before.get(path) != body and not (path.startswith("wanted/") and body != b"{")
    }
    for steps in itertools.count():
        folder = Path(shutil.copytree(data, tmp_path / str(steps)))
        archive = dying(folder, steps, is_truncating=bool(steps // 2 % 2))
        report = repair_pair(archive)
        assert broken <= set(bodies(folder).values()), steps
        assert (report.error is not None) == is_dead(archive)
        assert repair_pair(TradeStore(folder)).exit_status == 0, steps
        assert (rows_on_disk(folder, PAIR), wanted(folder)) == (HISTORY, [[0, END]]), steps
        assert broken <= set(quarantined(folder).values())
        assert foreign_files(folder) == []
        shutil.rmtree(folder)
        if not is_dead(archive):
            break
    assert steps > least


def test_imported_trades_are_kept_whenever_a_run_that_uncovers_them_is_killed(
    tmp_path: Path,
) -> None:
    minute_ns = 60 * SECOND_NS
    begin_ns = sample_trades.utc_ns(2024, 1, 20)
    trades = [
        Trade(begin_ns + at * minute_ns, "5.5", f"{at + 1}.5", "b", "l", "", at + 1)
        for at in range(40)
    ]
    volumes = {Decimal(trade.volume) for trade in trades[1:-1]}
    data, file = tmp_path / "data", tmp_path / f"{PAIR}.csv"
    file.write_bytes(csv_files.three_columns(trades))
    imported(data, file)
    lost = Range(begin_ns + 15 * minute_ns, begin_ns + 25 * minute_ns)

    def left(folder: Path) -> list[Decimal]:
        copies = map(pq.read_table, (folder / "quarantine").rglob("*.parquet"))
        kept = [volume for copy in copies for volume in copy.column("volume").to_pylist()]
        return sorted([*kept, *(row[4] for row in rows_on_disk(folder, PAIR))])

    for steps in itertools.count():
        folder = Path(shutil.copytree(data, tmp_path / str(steps)))
        archive = dying(folder, steps, is_truncating=bool(steps // 2 % 2))
        with contextlib.suppress(Killed), open_writer(archive, PAIR) as writer:
            writer.remove_coverage(lost)
        assert set(left(folder)) == volumes, steps
        with open_writer(TradeStore(folder), PAIR) as writer:
            writer.remove_coverage(lost)
        assert left(folder) == sorted(volumes), steps
        if not is_dead(archive):
            break
    assert steps > 5


@pytest.mark.parametrize(("nth", "when"), [(1, "after"), (2, "before"), (3, "after")])
def test_a_repair_killed_around_a_rename_is_continued(
    data: Path, exchange: Exchange, nth: int, when: str
) -> None:
    corruption.digit_changed(data, 1)
    broken = segment(data, 1).read_bytes()
    words = ["verify", "--repair", "-q", "-d", str(data), "--api-url", exchange.url]
    plan = Plan(step="rename", when=when, nth=nth)
    done = run_harvester(words, os.environ | FAST, plan=plan)
    assert done.returncode == -signal.SIGKILL
    assert broken in bodies(data).values()
    assert run(exchange, data, "--repair").status == 0
    assert rows_on_disk(data, PAIR) == HISTORY
    assert list(quarantined(data).values()) == [broken]


# --- what ends a repair ---------------------------------------------------------------------------


def test_where_the_exchange_is_down_nothing_is_moved(data: Path) -> None:
    corruption.digit_changed(data, 1)
    before = kept(data)
    ran = run(NOWHERE, data, "--repair", "-q")
    assert (ran.status, kept(data), len(ran.lines)) == (3, before, 2)
    assert ran.err == (
        f"harvester: XBTUSD: Time: {NOWHERE} gave no good answer for 0.5 s (at last: no "
        "connection: Connection refused); nothing that is stored is lost, "
        "run the same command again\n"
        "XBTUSD: nothing was moved\n"
    )


def refuse_moves(monkeypatch: pytest.MonkeyPatch, number: int, after: int = 0) -> None:
    """Have the machine refuse to move segments away, some excepted."""
    replace, moves = Path.replace, itertools.count()

    def refusing(self: Path, target: Path) -> Path:
        if "trades" in self.parts and "quarantine" in target.parts and next(moves) >= after:
            raise OSError(number, os.strerror(number))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refusing)


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.ENOSPC, "the disk is full: make room, then run the same command again"),
        (errno.EROFS, "the disk is mounted read-only: choose another --data"),
    ],
)
def test_where_the_machine_refuses_nothing_is_lost(
    data: Path, exchange: Exchange, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    corruption.digit_changed(data, 1)
    before = bodies(data / "trades")
    with monkeypatch.context() as patch:
        refuse_moves(patch, number)
        ran = run(exchange, data, "--repair", "-q")
    assert (ran.status, bodies(data / "trades"), quarantined(data)) == (1, before, {})
    place = data / f"quarantine/{PAIR}/0001/{segment(data, 1).name}"
    assert ran.err == (
        f"harvester: XBTUSD: can't write {place}: {what}\nXBTUSD: nothing was moved\n"
    )
    assert run(exchange, data, "--repair").status == 0
    assert (rows_on_disk(data, PAIR), len(quarantined(data))) == (HISTORY, 1)


def test_a_repair_that_a_disk_error_ends_reports_the_missing_ranges(
    data: Path, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    corruption.digit_changed(data, 1)
    corruption.digit_changed(data, 3)
    refuse_moves(monkeypatch, errno.EIO, after=1)
    ran = run(exchange, data, "--repair", "-q")
    gap = corruption.span_text(RANGES[1])
    assert f"  {PAIR}: missing: requested, but no file has it; range {gap}" in ran.lines
    place = data / f"quarantine/{PAIR}/0002/{segment(data, 3).name}"
    assert (ran.status, len(quarantined(data)), segment(data, 3).exists()) == (1, 1, True)
    assert ran.err == (
        f"harvester: XBTUSD: can't write {place}: Input/output error\n"
        f"XBTUSD: moved files are kept in {data}/quarantine/XBTUSD; the missing ranges stay "
        "recorded\n"
    )


def test_a_pair_that_another_run_writes_is_left_alone(data: Path, exchange: Exchange) -> None:
    corruption.digit_changed(data, 1)
    before = kept(data)
    with locked(data / "locks", PAIR):
        ran = run(exchange, data, "--repair", "-q")
    assert (ran.status, ran.asked, kept(data)) == (5, [], before)
    assert re.fullmatch(
        r"harvester: XBTUSD is being written by another run \(process .*\): wait until it is done, "
        r"or stop it\nXBTUSD: nothing was moved\n",
        ran.err,
    )


def test_what_changed_before_the_lock_was_had_is_looked_at_again(
    data: Path, exchange: Exchange, repair_pair: RepairPair
) -> None:
    body = segment(data, 1).read_bytes()
    corruption.digit_changed(data, 1)
    archive = TradeStore(data)
    report = verify(archive, PAIR)
    segment(data, 1).write_bytes(body)
    calls = len(exchange.calls)
    done = repair_pair(archive, report)
    assert (done.exit_status, done.before.faults, done.moved) == (0, [], [])
    assert len(exchange.calls) == calls


def test_nothing_is_believed_that_was_read_before_the_lock_was_had(
    data: Path, repair_pair: RepairPair
) -> None:
    archive = TradeStore(data)
    report = verify(archive, PAIR)
    # Neither the name nor the size shows that it is another file.
    body = segment(data, 1).read_bytes()
    last = archive.footer(archive.segments(PAIR)[1]).last_trade_id or 0
    segment(data, 1).write_bytes(body.replace(str(last).encode(), str(last + 1).encode()))
    done = repair_pair(archive, report)
    assert [moved.path for moved in done.moved] == [path_of(RANGES[1])]
    assert done.exit_status == 0


def test_a_cancelled_repair_moves_nothing(data: Path, repair_pair: RepairPair) -> None:
    corruption.digit_changed(data, 1)
    before = kept(data)
    cancel = CancelToken()
    cancel.cancel()
    done = repair_pair(TradeStore(data), cancel=cancel)
    assert (done.exit_status, done.moved, kept(data)) == (130, [], before)


# --- several pairs -------------------------------------------------------------------------------


@pytest.fixture
def two(data: Path) -> Iterator[tuple[Path, Exchange]]:
    """An archive of two pairs, and the exchange that lists both."""
    coin = sample_trades.tiny_coin(60, 172)
    with serve(MARKET, coin) as exchange:
        span = Range(0, coin.trades[-1].true_ns + 10**9)
        assert (
            Backfill(exchange.url, data, {"candles.rollups": ""}).only("BTTUSD", span).error is None
        )
        yield data, exchange


def test_of_two_pairs_only_the_broken_one_is_touched(two: tuple[Path, Exchange]) -> None:
    data, exchange = two
    corruption.digit_changed(data, 1)
    sound = bodies(data / "trades/pair=BTTUSD")
    ran = run(exchange, data, "--repair")
    assert (ran.status, rows_on_disk(data, PAIR)) == (0, HISTORY)
    assert {pair for _, pair, _ in ran.asked} == {None, PAIR}
    assert bodies(data / "trades/pair=BTTUSD") == sound


def test_a_delisted_pair_fails_alone_and_its_file_stays(
    two: tuple[Path, Exchange],
) -> None:
    data, exchange = two
    corruption.digit_changed(data, 1)
    coin = next((data / "trades/pair=BTTUSD").rglob("*.parquet"))
    coin.write_bytes(coin.read_bytes()[:-100])
    before = bodies(data / f"trades/pair={PAIR}")
    exchange.delist(PAIR)
    ran = run(exchange, data, "--repair", "-q")
    assert ran.status == 4
    assert ran.err == (
        "harvester: XBTUSD: the exchange does not list this pair any more: nothing of it can be "
        "downloaded, and what is stored stays\n"
        "XBTUSD: nothing was moved\n"
    )
    assert any(path_of(RANGES[1]) in line for line in ran.lines)
    assert bodies(data / f"trades/pair={PAIR}") == before
    assert list(quarantined(data)) == [f"BTTUSD/0001/{coin.name}"]
    assert verify(TradeStore(data), "BTTUSD").faults == []


# --- the command ---------------------------------------------------------------------------------


def command(url: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | FAST | {"HARVESTER_DATA": str(folder), "HARVESTER_API_URL": url}
    return run_harvester(["verify", *words], variables)


def test_the_real_command_prints_the_whole_repair(data: Path, exchange: Exchange) -> None:
    [said] = corruption.digit_changed(data, 1)
    done = command(exchange.url, data, "btc/usd", "--repair")
    name, span = Path(said.where).name, corruption.span_text(said.span)
    assert (done.returncode, done.stderr) == (0, f"XBTUSD: downloading from {span}\n")
    assert done.stdout.splitlines() == [
        "XBTUSD: 1 FAULT: 4 files, 800 trades, 800 ids, 1 file boundary, 0 confirmed id gaps, "
        "0 roll-ups",
        f"  {said.where}: {corruption.CHECKSUM}; range {span}",
        f"XBTUSD: moved {said.where} to quarantine/XBTUSD/0001/{name}",
        "XBTUSD: downloaded 200 trades in 1 page",
        SOUND,
    ]


def test_the_report_as_json(data: Path, exchange: Exchange) -> None:
    [said] = corruption.digit_changed(data, 1)
    ran = run(exchange, data, "--repair", "--json", "-q")
    [report] = json.loads(ran.out)
    found = report["repair"]
    before = found.pop("before")
    assert (ran.status, ran.err, report["exit_status"], report["faults"]) == (0, "", 0, [])
    assert [fault[2:] for fault in before["faults"]] == [
        [said.where, corruption.CHECKSUM, None, None]
    ]
    assert found == {
        "moved": [
            {
                "pair": PAIR,
                "path": said.where,
                "new_path": f"quarantine/{PAIR}/0001/{Path(said.where).name}",
                "faults": [corruption.CHECKSUM],
                "wanted": [list(RANGES[1])],
            }
        ],
        "uncovered": [],
        "kept": [],
        "trades": 200,
        "pages": 1,
        "error": None,
        "exit_status": 0,
    }


def test_the_report_of_a_sound_pair_has_no_repair(data: Path) -> None:
    ran = run(NOWHERE, data, "--repair", "--json")
    [report] = json.loads(ran.out)
    assert (ran.status, report["repair"]) == (0, None)
    assert "repair" not in json.loads(run(NOWHERE, data, "--json").out)[0]


def test_a_repaired_archive_is_then_compared_with_the_exchange(
    data: Path, exchange: Exchange
) -> None:
    corruption.digit_changed(data, 1)
    ran = run(exchange, data, "--repair", "--against-exchange", "-q")
    [line] = [shown for shown in ran.lines if shown.startswith("XBTUSD against the exchange: ")]
    assert ran.lines.index(SOUND) < ran.lines.index(line)
    asked = [path for path, _, _ in ran.asked]
    assert asked == ["Time", "AssetPairs", "AssetPairs", "Trades", *["OHLC"] * 9]


def test_a_pair_named_twice_is_repaired_once(data: Path, exchange: Exchange) -> None:
    corruption.digit_changed(data, 1)
    ran = run(exchange, data, "XBTUSD", "btc/usd", "--repair", "-q")
    assert (ran.status, len(quarantined(data))) == (0, 1)


def test_ctrl_c_ends_a_repair_and_keeps_its_report(data: Path) -> None:
    corruption.digit_changed(data, 1)
    with serve(MARKET, faults=Faults(elsewhere={"Time": ["hang"]})) as hanging:
        process = subprocess.Popen(
            [sys.executable, "-m", "harvester", "verify", "--repair"],
            env=os.environ | FAST | {"HARVESTER_DATA": str(data), "HARVESTER_API_URL": hanging.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not hanging.calls:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.startswith("XBTUSD: 1 FAULT")
    assert err.splitlines() == [
        "stopping; storing what is complete (press again to stop at once)",
        "harvester: XBTUSD: interrupted; the same command goes on where it stopped",
        "XBTUSD: nothing was moved",
    ]
    assert [record.exit_status for record in latest_runs(TradeStore(data), 1)] == [130]
