"""Run log: one JSON file per run of a command, written while it runs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from harvester import __version__
from harvester.config import Settings
from harvester.download.events import ReplacementResult
from harvester.errors import BAD_JSON, HarvesterError, Interrupted, gravest
from harvester.escaping import without_credentials
from harvester.storage.lock import locked
from harvester.storage.trade_store import TradeStore
from harvester.times import SECOND, Range, show

if TYPE_CHECKING:
    from harvester.csv_import.import_report import ImportReport
    from harvester.verify.reports import RepairReport


def is_alive(pid: int) -> bool:
    """Whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is another user's process.
        return True
    return True


def ticks_of(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where that is unknown (not Linux)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        # The process name may contain any character, so fields count from its closing bracket.
        return int(stat.rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


# A record is written when the run begins and replaced when it ends, so a run that was killed is
# recorded as well. If a record can't be written, the run continues.

FOLDER = "runs"


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
    """The record of one run. Times are ISO 8601 in UTC.

    Attributes:
        id: the file's name without its ending; ids sort by time.
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

    @property
    def trades(self) -> int:
        """How many trades were added to all pairs."""
        return sum(pair.trades for pair in self.pairs)

    @property
    def gaps(self) -> int:
        """How many gaps all pairs have."""
        return sum(pair.gaps for pair in self.pairs)


def latest_runs(archive: TradeStore, count: int) -> list[RunRecord]:
    """Read the records of the latest runs, the latest first; unreadable files are left out.

    Args:
        archive: whose runs.
        count: how many records at most.

    Raises:
        ArchiveError: the folder can't be read.
    """
    found: list[RunRecord] = []
    for path in reversed(paths(archive)):
        if len(found) == count:
            break
        with suppress(*BAD_JSON):
            raw = archive.store.read(path)
            if raw is not None:
                found.append(_with_killed(msgspec.json.decode(raw, type=RunRecord)))
    return found


def _with_killed(record: RunRecord) -> RunRecord:
    """Set `killed` as the state of a run that has not ended and whose process is gone."""
    if record.state == "running" and record.host == socket.gethostname():
        ticks = ticks_of(record.pid)
        is_other = None not in (ticks, record.ticks) and ticks != record.ticks
        if is_other or not is_alive(record.pid):
            record.state = "killed"
    return record


def paths(archive: TradeStore) -> list[str]:
    """List the paths of all records, the oldest first."""
    entries = archive.store.files(FOLDER)
    return sorted(entry.path for entry in entries if entry.path.endswith(".json"))


LOCK = "_runs"
MOST_KEPT = 1000
LOCK_WAIT_S = 10.0


class RunResult(Protocol):
    """What the results of a pair have in common, whatever run made them."""

    @property
    def pair(self) -> str:
        """The altname."""

    @property
    def exit_status(self) -> int:
        """The exit status of the command for this pair: 0 for complete."""

    @property
    def trades(self) -> int:
        """How many trades were added."""

    @property
    def pages(self) -> int:
        """How many pages were read."""

    @property
    def gaps(self) -> list[Range]:
        """The gaps that remain."""

    @property
    def reached(self) -> Range | None:
        """The last covered range."""

    @property
    def error(self) -> HarvesterError | None:
        """What ended the pair's run early, if anything did."""


class RunRecorder:
    """Collects the record of a run while it runs, and writes it."""

    def __init__(self, archive: TradeStore, record: RunRecord) -> None:
        """Record in `archive`; nothing is written yet."""
        self._archive = archive
        self.record = record
        self.unwritten: HarvesterError | None = None

    def set_calls(self, calls: int, refusals: int) -> None:
        """Set the number of requests to the exchange.

        Args:
            calls: all requests.
            refusals: those that were refused.
        """
        self.record.calls, self.record.refusals = calls, refusals

    def set_results(self, results: Iterable[RunResult]) -> None:
        """Set the results of a backfill or a refresh, one per pair."""
        self.record.pairs = [
            msgspec.structs.replace(
                _pair_result(result),
                gaps=len(result.gaps),
                covered_through_ns=result.reached.through if result.reached else None,
                replacement=_replacement(result),
            )
            for result in results
        ]

    def set_end(self, exit_status: int, error: HarvesterError | None) -> None:
        """Set how the run as a whole ended, if the results of the pairs do not show it.

        Args:
            exit_status: of the command.
            error: what ended the run early, if anything did.
        """
        self.record.exit_status = exit_status
        self.record.error = None if error is None else str(error)

    def set_repairs(self, reports: Iterable[RepairReport]) -> None:
        """Set the results of a repair, one per pair."""
        self.record.pairs = [
            msgspec.structs.replace(_pair_result(report), moved=len(report.moved))
            for report in reports
        ]

    def set_imports(self, reports: Iterable[ImportReport], gaps: Callable[[str], int]) -> None:
        """Set the results of an import, added up per pair.

        Args:
            reports: one per file.
            gaps: returns how many gaps a pair has now.
        """
        results: dict[str, PairResult] = {}
        for report in reports:
            result = results.setdefault(
                report.pair, PairResult(report.pair, 0, gaps=gaps(report.pair))
            )
            result.trades += report.imported.rows
            result.exit_status = gravest([result.exit_status, report.exit_status])
            if report.ranges:
                through = max(imported.through for imported in report.ranges)
                result.covered_through_ns = max(result.covered_through_ns or 0, through)
            if report.error is not None and result.error is None:
                result.error = str(report.error)
        self.record.pairs = list(results.values())

    def write(self, *, prune: bool = False) -> None:
        """Write the record; an error is kept in `unwritten`, not raised.

        Args:
            prune: also delete the oldest records, beyond the latest 1000.
        """
        store = self._archive.store
        data = msgspec.json.format(msgspec.json.encode(self.record), indent=2) + b"\n"
        try:
            with locked(self._archive.root / "locks", LOCK, wait_s=LOCK_WAIT_S):
                store.remove_folder(f"staging/{LOCK}")
                store.write(f"{FOLDER}/{self.record.id}.json", data, LOCK)
                store.remove_folder(f"staging/{LOCK}")
                for path in paths(self._archive)[:-MOST_KEPT] if prune else ():
                    store.remove(path)
        except HarvesterError as reason:
            self.unwritten = reason


@contextmanager
def record_run(
    archive: TradeStore,
    command: str,
    asked: Mapping[str, Any],
    settings: Settings,
    warn: Callable[[str], None],
) -> Iterator[RunRecorder]:
    """Keep a record of a run: written before the block runs, and again when it ends.

    Args:
        archive: what the run changes.
        command: its name.
        asked: what was requested, by name.
        settings: the effective settings.
        warn: called at the end if the record could not be written and nothing worse happened.
    """
    now_ns = time.time_ns()
    record = RunRecord(
        id=_id(now_ns, os.getpid()),
        command=command,
        begun=show(now_ns // 10**6 * 10**6),
        host=socket.gethostname(),
        pid=os.getpid(),
        ticks=ticks_of(os.getpid()),
        asked=dict(asked),
        settings=_settings(settings),
    )
    recorder = RunRecorder(archive, record)
    recorder.write(prune=True)
    try:
        yield recorder
        if record.exit_status is None:
            record.exit_status = gravest([pair.exit_status for pair in record.pairs])
    except HarvesterError as error:
        record.exit_status = error.exit_status
        record.error = without_credentials(str(error))
        raise
    except BaseException as error:
        is_interrupt = isinstance(error, KeyboardInterrupt)
        record.exit_status = Interrupted.exit_status if is_interrupt else HarvesterError.exit_status
        record.error = without_credentials(f"{type(error).__name__}: {error}")
        raise
    finally:
        record.state, record.ended = "ended", _now()
        recorder.unwritten = None
        recorder.write()
        if recorder.unwritten is not None and not record.exit_status:
            warn(f"this run leaves no record: {recorder.unwritten}")


def _pair_result(result: RunResult | RepairReport) -> PairResult:
    """Copy the fields that a run and a repair have in common."""
    error = None if result.error is None else str(result.error)
    return PairResult(result.pair, result.exit_status, result.trades, result.pages, error=error)


def _replacement(run_result: RunResult) -> dict[str, Any] | None:
    """The result of re-downloading imported ranges, of a backfill that was to do so."""
    replacement = getattr(run_result, "replacement", None)
    return replacement.plain() if isinstance(replacement, ReplacementResult) else None


def _settings(settings: Settings) -> dict[str, Any]:
    """The settings that a record keeps, by key."""
    exchange, archive = settings.exchange, settings.archive
    return {
        "exchange.url": exchange.shown_url,
        "exchange.rate": exchange.rate,
        "exchange.jobs": exchange.jobs,
        "archive.flush_s": archive.flush_s,
        "archive.flush_rows": archive.flush_rows,
        "refresh.settle_s": settings.refresh.settle_s,
        "candles.rollups": list(settings.candles.rollups),
    }


def _id(now_ns: int, pid: int) -> str:
    """The id of a run, which sorts by time, such as 20260130T120000.000123Z-4711."""
    day = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_ns // SECOND))
    return f"{day}.{now_ns // 1000 % 10**6:06d}Z-{pid}"


def _now() -> str:
    return show(time.time_ns() // 10**6 * 10**6)
