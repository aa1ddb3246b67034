"""Run log: one append-only file, `runs.jsonl`, with what each run was asked and how it ended."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harvester import __version__
from harvester.config import Settings
from harvester.errors import (
    BAD_JSON,
    HarvesterError,
    Interrupted,
    UnknownPair,
    gravest,
    without_credentials,
)
from harvester.kraken.pairs import Pair, PairIndex, is_pattern, match_pattern, quote_names
from harvester.storage.filesystem import writing
from harvester.storage.locks_and_requests import locked
from harvester.storage.trade_store import TradeStore
from harvester.times import UNITS_NS, now_text

if TYPE_CHECKING:
    from harvester.csv_import.chain_importer import ImportReport
    from harvester.events import BackfillResult
    from harvester.operations.refresh import RefreshedPair
    from harvester.verify.reports import RepairReport

FILE = "runs.jsonl"
MAX_BYTES = 8 << 20
"""A larger file is cut to the newest half of this: thousands of runs of ten pairs."""

SETTINGS = (
    *("exchange.url", "exchange.rate", "exchange.jobs", "archive.flush_s", "archive.flush_rows"),
    *("refresh.settle_s", "candles.rollups"),
)
"""The settings that matter to a run."""

LOCK = "_runs"
LOCK_WAIT_S = 10.0


class PairResult(msgspec.Struct):
    """The result of a run for one pair."""

    pair: str
    exit_status: int
    trades: int = 0
    pages: int = 0
    gaps: int = 0
    moved: int = 0
    covered_through_ns: int | None = None
    error: str | None = None
    replacement: dict[str, Any] | None = None


class RunRecord(msgspec.Struct):
    """The record of one run: a line of the file when it starts, and another when it ends.

    Times are ISO 8601 in UTC.

    Attributes:
        id: of the run, the same in both lines; ids sort by time.
        command: such as backfill.
        begun: when the run began.
        format: version of this format.
        state: `running` or `ended` in the file; `killed` if its process is gone without an end.
        version: of harvester.
        host: name of the machine.
        pid: its process id.
        ticks: when its process started, in clock ticks: process ids are used again.
        asked: what was requested, by name.
        settings: the settings that matter to the run.
        ended: when the run ended.
        exit_status: of the command.
        error: what ended the run as a whole, if anything did.
        calls: requests to the exchange, refused ones included.
        refusals: those that were refused.
        pairs: the results per pair.
    """

    id: str
    command: str
    begun: str
    format: int = 1
    state: str = "running"
    version: str = __version__
    host: str = ""
    pid: int = 0
    ticks: int | None = None
    asked: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    ended: str | None = None
    exit_status: int | None = None
    error: str | None = None
    calls: int = 0
    refusals: int = 0
    pairs: list[PairResult] = []

    def concerns(self, pair: Pair) -> bool:
        """Whether the run changed a pair, or was to do so if it has no results."""
        if self.pairs:
            return any(result.pair == pair.altname for result in self.pairs)
        # An import of one file may name its pair.
        names = self.asked.get("pairs") or [name for name in [self.asked.get("pair")] if name]
        if not names:
            # Only these two take any pair if none is named.
            return self.command in ("refresh", "import")
        quotes = {str(quote).upper() for quote in self.asked.get("quotes", ())}
        if quotes and not quotes & quote_names(pair):
            return False
        for name in map(str, names):
            if is_pattern(name) and match_pattern(name, [pair]):
                return True
            with suppress(UnknownPair):
                PairIndex([pair]).resolve(name)
                return True
        return False

    @property
    def trades(self) -> int:
        """How many trades were added to all pairs."""
        return sum(pair.trades for pair in self.pairs)

    @property
    def gaps(self) -> int:
        """How many gaps all pairs have."""
        return sum(pair.gaps for pair in self.pairs)


def latest_runs(archive: TradeStore, count: int, pairs: Collection[Pair] = ()) -> list[RunRecord]:
    """Read the records of the latest runs, the latest first; lines that can't be read are left out.

    Args:
        archive: whose runs.
        count: how many records at most.
        pairs: only runs that concern one of these; all runs if there are none.

    Raises:
        ArchiveError: the file can't be read.
    """
    found: dict[str, RunRecord] = {}
    for line in (archive.store.read(FILE) or b"").split(b"\n"):
        with suppress(*BAD_JSON):
            record = msgspec.json.decode(line, type=RunRecord)
            found[record.id] = record
    concerned = (
        run for run in reversed(found.values()) if not pairs or any(map(run.concerns, pairs))
    )
    latest = list(islice(concerned, count))
    for record in latest:
        if record.state == "running" and not _may_run(record):
            record.state = "killed"
    return latest


def _may_run(record: RunRecord) -> bool:
    """Whether the process of a run may be there; of another machine's, nothing is known."""
    if record.host != socket.gethostname():
        return True
    ticks = _start_ticks(record.pid)
    if None not in (ticks, record.ticks):
        return ticks == record.ticks
    try:
        os.kill(record.pid, 0)
    except OSError as error:
        # Other errors come from another user's process.
        return not isinstance(error, ProcessLookupError)
    return True


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where that is unknown (not Linux)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        # The process name may contain any character, so fields count from its closing bracket.
        return int(stat.rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def append(archive: TradeStore, record: RunRecord) -> None:
    """Add a line to the run log.

    Args:
        archive: what the run changes.
        record: as it is now.

    Raises:
        ArchiveUnwritable: the operating system refused to write.
        ArchiveLocked: another run kept the lock of the file for ten seconds.
    """
    path = archive.store.root / FILE
    with (
        locked(archive.store.root / "locks", LOCK, wait_s=LOCK_WAIT_S),
        writing(str(path)),
        path.open("ab+") as file,
    ):
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        # A line that a crash cut short is ended, so that it spoils no other.
        end = b"" if file.read() in (b"", b"\n") else b"\n"
        file.write(end + msgspec.json.encode(record) + b"\n")
        file.flush()
        os.fsync(file.fileno())
        if file.tell() > MAX_BYTES:
            file.seek(-MAX_BYTES // 2, os.SEEK_END)
            archive.store.write_locked(FILE, file.read().partition(b"\n")[2], LOCK)


@contextmanager
def record_run(
    archive: TradeStore,
    command: str,
    asked: Mapping[str, Any],
    settings: Settings,
    warn: Callable[[str], None],
) -> Iterator[RunRecord]:
    """Write a record when a run begins and when it ends; the block adds results.

    If writing fails, the run continues.

    Args:
        archive: what the run changes.
        command: its name.
        asked: what was requested, by name.
        settings: the effective settings.
        warn: called at the end if the record could not be written and nothing worse happened.
    """
    pid = os.getpid()
    record = RunRecord(
        f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{pid}",
        command,
        now_text(UNITS_NS["ms"]),
        host=socket.gethostname(),
        pid=pid,
        ticks=_start_ticks(pid),
        asked=dict(asked),
        settings={key: settings.shown(key) for key in SETTINGS},
    )
    with suppress(HarvesterError):
        append(archive, record)
    try:
        yield record
        if record.exit_status is None:
            record.exit_status = gravest([pair.exit_status for pair in record.pairs])
    except BaseException as error:
        kind = Interrupted if isinstance(error, KeyboardInterrupt) else HarvesterError
        record.exit_status = getattr(error, "exit_status", kind.exit_status)
        named = "" if isinstance(error, HarvesterError) else f"{type(error).__name__}: "
        record.error = without_credentials(f"{named}{error}")
        raise
    finally:
        record.state, record.ended = "ended", now_text(UNITS_NS["ms"])
        try:
            append(archive, record)
        except HarvesterError as reason:
            if not record.exit_status:
                warn(f"this run leaves no record: {reason}")


def pair_results(
    results: Iterable[BackfillResult | RefreshedPair | RepairReport],
) -> list[PairResult]:
    """The results of a backfill, a refresh or a repair, for its record."""
    return [
        PairResult(
            result.pair,
            result.exit_status,
            result.trades,
            result.pages,
            gaps=len(getattr(result, "gaps", ())),
            moved=len(getattr(result, "moved", ())),
            covered_through_ns=reached.through if reached else None,
            error=None if result.error is None else str(result.error),
            replacement=None if replaced is None else replaced.to_dict(),
        )
        for result in results
        for reached in [getattr(result, "reached", None)]
        for replaced in [getattr(result, "replacement", None)]
    ]


def import_results(reports: Iterable[ImportReport], gaps: Callable[[str], int]) -> list[PairResult]:
    """The results of an import, added up per pair, for its record.

    Args:
        reports: one per file.
        gaps: returns how many gaps a pair has now.
    """
    results: dict[str, PairResult] = {}
    for report in reports:
        result = results.setdefault(report.pair, PairResult(report.pair, 0, gaps=gaps(report.pair)))
        result.trades += report.imported.rows
        result.exit_status = gravest([result.exit_status, report.exit_status])
        if report.ranges:
            through = max(imported.through for imported in report.ranges)
            result.covered_through_ns = max(result.covered_through_ns or 0, through)
        if report.error is not None and result.error is None:
            result.error = str(report.error)
    return list(results.values())
