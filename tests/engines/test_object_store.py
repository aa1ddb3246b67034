"""An archive in an object store: reading it, and what `sync` leaves there after faults."""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from command_line import ForkedCommand
from engines import REASON, served
from object_stores import BUCKET, SERVERS, Fault, Store, localbucket, no_fault

import harvester
from harvester.cli.main import cli
from harvester.errors import (
    ArchiveDamaged,
    ArchiveError,
    ArchiveLocked,
    ArchiveTooNew,
    ArchiveUnwritable,
    HarvesterError,
    UsageError,
)
from harvester.server.sample_data import END_NS, SAMPLE_PAIR, sample_trades
from harvester.storage.locks_and_requests import locked, store_pairs
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, Range

for package in ("obstore", "localbucket"):
    pytest.importorskip(package, reason=REASON.format(package))

URL = f"s3://{BUCKET}/kraken"
PAIR = SAMPLE_PAIR.altname
PARTS = [Range(*bounds) for bounds in pairwise(range(END_NS - 12 * DAY, END_NS + 1, DAY))]
TRADES = sample_trades(5_000, 7)
KILLS = 20
FILES = 29
"""Of ten days: a segment each, two roll-ups of each but the first two, and three small files."""


def add(folder: Path, parts: list[Range]) -> harvester.Archive:
    """Store the trades of some days, a segment for each, with roll-ups."""
    store = TradeStore(folder)
    store_pairs(store.store, msgspec.json.encode({PAIR: SAMPLE_PAIR}))
    times = TRADES.column("time").cast("int64").to_numpy()
    pair_json = msgspec.json.encode(SAMPLE_PAIR).decode()
    with open_writer(store, PAIR) as pair_writer:
        for part in parts:
            pair_writer.record_requested(part)
            first, last = times.searchsorted([part.after, part.through], side="right")
            rows = TRADES.slice(first, last - first)
            pair_writer.commit(part, rows, Footer(part, pair_json))
    archive = harvester.open(folder)
    archive.rollup()
    return archive


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of an archive of ten days, and of it two days and a compaction later."""
    folder = tmp_path_factory.mktemp("archives")
    add(folder / "before", PARTS[:10])
    shutil.copytree(folder / "before", folder / "after")
    add(folder / "after", PARTS[10:]).compact()
    return folder / "before", folder / "after"


@pytest.fixture(params=SERVERS)
def any_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    with SERVERS[request.param](tmp_path / "store") as store:
        use(store, monkeypatch)
        yield store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with localbucket(tmp_path / "store") as store:
        use(store, monkeypatch)
        yield store


def use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The client tries a request again once, and at once."""
    from harvester.storage import object_store

    monkeypatch.setitem(object_store._RETRIES, "max_retries", 1)
    object_store._client.cache_clear()
    yield object_store
    object_store._client.cache_clear()


def copy_of(folder: Path, tmp_path: Path) -> harvester.Archive:
    """An archive of its own for a test that syncs."""
    shutil.copytree(folder, tmp_path / "data")
    return harvester.open(tmp_path / "data")


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The exit status of a command, and what it prints."""
    status = cli(words, prog_name="harvester", standalone_mode=False)
    return status or 0, capfd.readouterr().out


def rows(archive: harvester.Archive, until: Any = None) -> list[tuple[Any, ...]]:
    return archive.trades(PAIR, until=until).fetchall()


def contents(folder: Path) -> dict[str, bytes]:
    """The files of an archive that its copy has."""
    return {
        path: file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and (path := str(file.relative_to(folder))).startswith(
            ("trades", "candles", "wanted", "archive.json", "pairs.json")
        )
    }


def is_right(copy: harvester.Archive, whole: harvester.Archive) -> bool:
    """Whether a copy shows the trades that it says to have, each once, and candles likewise."""
    [covered] = copy.coverage(PAIR)
    until = covered.through + 1
    candles = [found.ohlc(PAIR, "1h", until=until).fetchall() for found in (copy, whole)]
    return (
        covered.through >= PARTS[9].through
        and rows(copy, until) == rows(whole, until)
        and candles[0] == candles[1]
    )


# --- reading --------------------------------------------------------------------------------------

COMMANDS = {
    "ohlc": ("ohlc", "XBT/USD", "-i", "7m", "--all-columns"),
    "trades": ("trades", "XBT/USD", "--since", "2026-01-28T20:00"),
    "status": ("status",),
    "verify": ("verify",),
    "sql": ("sql", "SELECT count(*), sum(value) FROM ohlc(['XBTUSD'], '1d')"),
}


@pytest.mark.usefixtures("any_store")
def test_commands_print_what_they_print_in_the_folder(
    states: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    archive = copy_of(states[0], tmp_path)
    archive.sync(URL)
    for words in COMMANDS.values():
        shown = run(capfd, *words, "--data", archive.path)
        assert shown[0] == 0
        assert shown[1]
        assert run(capfd, *words, "--data", URL) == shown


@pytest.mark.usefixtures("store")
def test_python_and_the_api_server_read_it(states: tuple[Path, Path], tmp_path: Path) -> None:
    archive = copy_of(states[1], tmp_path)
    archive.sync(URL)
    copy = harvester.open(URL)
    assert copy.stored_pairs() == [PAIR]
    assert rows(copy) == rows(archive)
    assert copy.digest(PAIR) == archive.digest(PAIR)
    assert copy.bars(PAIR, trades=100).fetchall() == archive.bars(PAIR, trades=100).fetchall()
    with copy.connect() as connection:
        assert connection.sql("FROM trades").fetchall() == archive.sql("FROM trades").fetchall()
    import httpx

    answers = []
    for place in (archive.path, URL):
        with served(place) as url:
            answers.append(httpx.get(f"{url}/0/public/OHLC", params={"pair": PAIR}).text)
    assert answers[0] == answers[1]


def test_the_explorers_query_reads_the_copy_and_nothing_else(
    store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    from harvester.errors import BadQuery
    from harvester.server.explorer.service import ArchiveExplorer

    archive = copy_of(states[0], tmp_path)
    archive.sync(URL)
    explorer = ArchiveExplorer(harvester.open(URL))
    [[number]] = explorer.query().run("SELECT count(*) FROM trades").table.to_pydict().values()
    assert number == len(rows(archive))
    (store.folder / "secret.csv").write_text("a\n1\n")
    with pytest.raises(BadQuery):
        explorer.query().run(f"FROM read_csv('s3://{BUCKET}/secret.csv')")


def test_a_copy_is_only_read(store: Store, states: tuple[Path, Path], tmp_path: Path) -> None:
    copy_of(states[0], tmp_path).sync(URL)
    store.writes()
    copy = harvester.open(URL)
    message = "is the copy of an archive, which is only read"
    calls: list[Any] = [
        lambda: copy.backfill(PAIR),
        copy.refresh,
        lambda: copy.follow(PAIR),
        copy.compact,
        copy.rollup,
        lambda: copy.verify(repair=True),
        lambda: copy.pairs(update=True),
        lambda: copy.write_database(tmp_path / "trades.duckdb"),
        lambda: copy.sync("s3://bucket/other"),
        copy.doctor,
    ]
    for call in calls:
        with pytest.raises(UsageError, match=message):
            call()
    assert store.writes() == []


def test_an_archive_of_a_newer_format_is_refused(store: Store) -> None:
    (store.folder / "kraken").mkdir()
    (store.folder / "kraken" / "archive.json").write_text('{"format": 2}')
    with pytest.raises(ArchiveTooNew):
        harvester.open(URL)


def test_an_object_replaced_since_its_listing_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harvester.storage.object_store import FILES, ObjectStore

    with SERVERS["moto"](tmp_path) as server:
        use(server, monkeypatch)
        copy, path = ObjectStore(URL), f"candles/{PAIR}.parquet"
        copy.upload(path, io.BytesIO(b"first"), 5 << 20)
        copy.objects("candles")
        with FILES.open(copy.location(path)) as file:
            assert file.read(2) == b"fi"
            copy.upload(path, io.BytesIO(b"other"), 5 << 20)
            with pytest.raises(FileNotFoundError):
                file.read(3)
        copy.objects("candles")
        assert FILES.open(copy.location(path)).read() == b"other"


@pytest.mark.usefixtures("store", "impatient")
def test_a_missing_bucket_is_named() -> None:
    with pytest.raises(ArchiveError, match=r"s3://other/x.*: there is no such bucket"):
        harvester.open("s3://other/x").stored_pairs()


@pytest.mark.usefixtures("store", "impatient")
def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ArchiveError, match="there are no credentials: set AWS_ACCESS_KEY_ID"):
        harvester.open(URL)


# --- sync -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("any_store")
def test_what_is_there_is_not_written_again(states: tuple[Path, Path], tmp_path: Path) -> None:
    archive = copy_of(states[0], tmp_path)
    first, second = archive.sync(URL), archive.sync(URL)
    assert (first.uploaded, second.uploaded, second.unchanged) == (FILES, 0, FILES)
    # Without its record, it compares checksums.
    (Path(archive.path) / "cache" / "sync.json").unlink()
    assert archive.sync(URL).unchanged == FILES


def test_a_dry_run_says_what_would_be_done(
    store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    copy_of(states[0], tmp_path).sync(URL)
    archive = copy_of(states[1], tmp_path / "later")
    store.writes()
    planned = archive.sync(URL, dry_run=True)
    assert store.writes() == []
    done = archive.sync(URL)
    assert (planned.uploaded, planned.uploaded_bytes) == (done.uploaded, done.uploaded_bytes)
    assert sorted(planned.deleted) == sorted(done.deleted)
    assert (len(done.deleted), done.kept) == (FILES - 3, [])
    assert contents(store.folder / "kraken") == contents(Path(archive.path))


def test_a_segment_of_the_same_name_and_size_with_other_bytes_is_written(
    store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    archive = copy_of(states[0], tmp_path)
    archive.sync(URL)
    segment = next((store.folder / "kraken" / "trades").rglob("*.parquet"))
    segment.write_bytes(bytes(segment.stat().st_size))
    assert archive.sync(URL).uploaded == 1
    assert contents(store.folder / "kraken") == contents(Path(archive.path))


def test_what_it_does_not_know_stays(
    store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    foreign = [
        "README.txt",
        "trades/pair=XBTUSD/notes.txt",
        "trades/pair=XBTUSD/year=2026/a.parquet",
    ]
    other = f"trades/pair=ETHEUR/year=2026/{PARTS[0].after:019d}-{PARTS[0].through:019d}.parquet"
    earlier = f"trades/pair=XBTUSD/year=2025/{0:019d}-{PARTS[0].after:019d}.parquet"
    for path in (*foreign, other, earlier):
        (store.folder / "kraken" / path).parent.mkdir(parents=True, exist_ok=True)
        (store.folder / "kraken" / path).write_bytes(b"mine")
    archive = copy_of(states[1], tmp_path)
    result = archive.sync(URL)
    assert (result.deleted, sorted(result.kept)) == ([], [other, earlier])
    for path in (*foreign, other, earlier):
        assert (store.folder / "kraken" / path).read_bytes() == b"mine"


def test_an_object_of_many_parts_is_compared_without_reading_it(
    store: Store, states: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harvester.operations import sync

    monkeypatch.setattr(sync, "PART_BYTES", 5 << 20)
    archive = copy_of(states[0], tmp_path)
    # Roll-ups of any size are files like others.
    rollup = next((Path(archive.path) / "candles").rglob("*.parquet"))
    rollup.write_bytes(os.urandom(11 << 20))
    archive.sync(URL)
    assert "POST" in {method for method, _ in store.requests}
    (Path(archive.path) / "cache" / "sync.json").unlink()
    store.requests.clear()
    assert archive.sync(URL).uploaded == 0
    assert [path for method, path in store.requests if path.endswith(".parquet")] == []


def test_a_store_that_changes_what_it_gets_is_noticed(
    store: Store, states: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harvester.storage.object_store import ObjectStore

    upload = ObjectStore.upload

    def damaging(self: ObjectStore, path: str, file: Any, part_bytes: int) -> str:
        upload(self, path, file, part_bytes)
        (store.folder / "kraken" / path).write_bytes(b"something else")
        return '"opaque"'

    monkeypatch.setattr(ObjectStore, "upload", damaging)
    with pytest.raises(ArchiveUnwritable, match="has other bytes than were sent"):
        copy_of(states[0], tmp_path).sync(URL)


@pytest.mark.usefixtures("store")
def test_an_etag_that_is_no_checksum_is_no_error(
    states: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harvester.operations import sync

    monkeypatch.setattr(sync, "md5_tags", lambda _file: set())
    archive = copy_of(states[0], tmp_path)
    assert archive.sync(URL).uploaded == FILES
    assert archive.sync(URL).uploaded == 0


@pytest.mark.parametrize("place", ["rows", "footer"])
def test_a_damaged_segment_never_replaces_a_sound_copy(
    place: str, store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    archive = copy_of(states[0], tmp_path)
    archive.sync(URL)
    before = contents(store.folder / "kraken")
    segment = next((Path(archive.path) / "trades").rglob("*.parquet"))
    damage = bytearray(segment.read_bytes())
    at = len(damage) // 3 if place == "rows" else damage.index(PAIR.encode())
    damage[at] ^= 1
    segment.write_bytes(damage)
    with pytest.raises(ArchiveDamaged, match=f"{segment.name}.*verify {PAIR} --repair"):
        archive.sync(URL)
    assert contents(store.folder / "kraken") == before


def test_an_archive_is_not_synced_over_half_of_an_imported_range(
    store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    """Another archive's: its file may round the trade at the boundary to either side."""
    archive = copy_of(states[0], tmp_path)
    middle = (PARTS[9].after + PARTS[9].through) // 2
    imported = f"trades/pair={PAIR}/year=2026/{middle:019d}-{PARTS[10].through:019d}.csv.parquet"
    (store.folder / "kraken" / imported).parent.mkdir(parents=True)
    (store.folder / "kraken" / imported).write_bytes(b"theirs")
    for dry_run in (True, False):
        with pytest.raises(ArchiveError, match=f"{imported}.*another URL"):
            archive.sync(URL, dry_run=dry_run)
    assert contents(store.folder / "kraken") == {imported: b"theirs"}


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("prefix", ["/kraken", "a//b", "./kraken", "a/../b"])
def test_a_prefix_that_the_client_would_change_is_refused(prefix: str) -> None:
    with pytest.raises(UsageError, match="is no archive in an object store"):
        harvester.open(f"s3://{BUCKET}/{prefix}")


# --- refresh --------------------------------------------------------------------------------------


@pytest.fixture
def nightly(tmp_path: Path) -> Iterator[harvester.Archive]:
    """An archive of made-up trades, and a sample exchange that it is refreshed from."""
    with harvester.sample_exchange(2_000) as exchange:
        archive = harvester.open(tmp_path / "data", settings=exchange.settings)
        archive.backfill("XBT/USD")
        yield archive


def test_a_refresh_syncs_afterwards(store: Store, nightly: harvester.Archive) -> None:
    result = nightly.refresh(sync=URL)
    assert result.sync is not None
    assert (result.sync.uploaded, result.exit_status) == (6, 0)
    assert contents(store.folder / "kraken") == contents(Path(nightly.path))


def test_a_refresh_whose_time_is_up_syncs_what_there_is(
    store: Store, nightly: harvester.Archive
) -> None:
    cancel = harvester.CancelToken()
    result = nightly.refresh(sync=URL, max_minutes=1e-9, cancel=cancel)
    assert [pair.state for pair in result.pairs] == ["unfinished"]
    assert (result.exit_status, cancel.is_cancelled) == (0, False)
    assert contents(store.folder / "kraken") == contents(Path(nightly.path))


@pytest.mark.usefixtures("impatient")
def test_a_sync_that_fails_is_the_refreshs_failure(
    store: Store, nightly: harvester.Archive
) -> None:
    store.fault = lambda method, _path: "503" if method == "PUT" else None
    result = nightly.refresh(sync=URL, check=False)
    assert [pair.state for pair in result.pairs] == ["complete"]
    assert (result.exit_status, result.sync) == (1, None)
    with pytest.raises(ArchiveUnwritable):
        nightly.refresh(sync=URL)


def test_a_refresh_refuses_what_is_no_url_before_it_downloads(nightly: harvester.Archive) -> None:
    events: list[object] = []
    with pytest.raises(UsageError, match="is no archive in an object store"):
        nightly.refresh(sync="bucket/kraken", progress=events.append)
    assert events == []


# --- faults, kills and races ----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["500", "503", "cut"])
def test_a_store_that_fails_at_times_is_retried(
    fault: Fault, store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    numbers = count(1)
    store.fault = lambda *_request: fault if next(numbers) % 7 == 0 else None
    archive = copy_of(states[1], tmp_path)
    archive.sync(URL)
    assert contents(store.folder / "kraken") == contents(Path(archive.path))
    assert is_right(harvester.open(URL), archive)


@pytest.mark.usefixtures("impatient")
def test_a_store_that_stops_half_way_is_an_error_and_the_next_sync_continues(
    store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    copy_of(states[0], tmp_path).sync(URL)
    archive = copy_of(states[1], tmp_path / "later")
    numbers = count(1)
    store.fault = lambda method, _path: "cut" if method == "PUT" and next(numbers) > 2 else None
    with pytest.raises(ArchiveUnwritable, match=f"can't write {URL}/"):
        archive.sync(URL)
    store.fault = no_fault
    assert is_right(harvester.open(URL), archive)
    archive.sync(URL)
    assert contents(store.folder / "kraken") == contents(Path(archive.path))


@pytest.mark.usefixtures("impatient")
def test_a_reader_reports_a_store_that_stops(
    store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    copy_of(states[0], tmp_path).sync(URL)
    copy = harvester.open(URL)
    store.fault = lambda _method, path: "503" if path.endswith(".parquet") else None
    for read in (lambda: copy.ohlc(PAIR, "1d").df(), lambda: rows(copy), copy.verify):
        with pytest.raises(ArchiveError, match=r"can't read s3://.*503"):
            read()


def test_readers_are_right_after_each_of_twenty_kills_and_the_end_is_exact(
    store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    copy_of(states[0], tmp_path).sync(URL)
    shutil.copytree(store.folder, tmp_path / "kept")
    archive = copy_of(states[1], tmp_path / "later")
    for kill in range(1, KILLS + 1):
        shutil.rmtree(store.folder)
        shutil.copytree(tmp_path / "kept", store.folder)
        assert killed_at(store, archive, kill + kill // 2)
        assert is_right(harvester.open(URL), archive)
        archive.sync(URL)
        assert contents(store.folder / "kraken") == contents(Path(archive.path))


def killed_at(store: Store, archive: harvester.Archive, number: int) -> bool:
    """Kill a sync when the store gets its write of this number; whether it died of it."""
    writes = count(1)
    begun = threading.Event()

    def kill(method: str, _path: str) -> Fault | None:
        if method in ("GET", "HEAD") or next(writes) < number:
            return None
        begun.wait()
        process.kill()
        # Every other time, the write on its way is still carried out.
        return "cut" if number % 2 else None

    store.fault = kill
    process = ForkedCommand(["sync", URL, "--data", archive.path, "-q"], os.environ)
    begun.set()
    process.communicate()
    store.fault = no_fault
    return (process.returncode or 0) < 0


@pytest.mark.usefixtures("store")
def test_readers_are_right_while_a_sync_replaces_what_they_read(
    states: tuple[Path, Path], tmp_path: Path
) -> None:
    copy_of(states[0], tmp_path).sync(URL)
    archive = copy_of(states[1], tmp_path / "later")
    thread = threading.Thread(target=archive.sync, args=[URL])
    copy = harvester.open(URL)
    thread.start()
    while thread.is_alive():
        assert is_right(copy, archive)
    thread.join()
    assert rows(copy) == rows(archive)


def test_a_second_sync_of_an_archive_is_refused(
    store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    archive = copy_of(states[0], tmp_path)
    with (
        locked(Path(archive.path) / "locks", "_sync"),
        pytest.raises(ArchiveLocked, match="is being synced by another run"),
    ):
        archive.sync(URL)
    assert store.writes() == []


@pytest.mark.usefixtures("store")
def test_two_copies_of_an_archive_that_sync_at_once_lose_nothing(
    states: tuple[Path, Path], tmp_path: Path
) -> None:
    older = copy_of(states[0], tmp_path / "older")
    newer = copy_of(states[1], tmp_path / "newer")
    older.sync(URL)

    def sync(archive: harvester.Archive) -> None:
        try:
            archive.sync(URL)
        except ArchiveUnwritable as error:
            refused.append(error)

    refused: list[HarvesterError] = []
    for _ in range(5):
        threads = [threading.Thread(target=sync, args=[archive]) for archive in (older, newer)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert is_right(harvester.open(URL), newer)
    newer.sync(URL)
    assert rows(harvester.open(URL)) == rows(newer)


def test_an_archive_that_is_compacted_during_a_sync_is_listed_again(
    store: Store, states: tuple[Path, Path], tmp_path: Path
) -> None:
    archive = copy_of(states[0], tmp_path)
    done: list[str] = []

    def compact(method: str, path: str) -> Fault | None:
        if method == "PUT" and not done:
            done.append(path)
            archive.compact()
        return None

    store.fault = compact
    assert archive.sync(URL).unchanged == 0
    archive.sync(URL)
    assert len(list((Path(archive.path) / "trades").rglob("*.parquet"))) == 1
    assert contents(store.folder / "kraken") == contents(Path(archive.path))
