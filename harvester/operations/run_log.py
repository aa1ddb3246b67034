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
from harvester.download.events import Upgrade
from harvester.errors import BAD_JSON, HarvesterError, Interrupted, gravest
from harvester.escaping import without_credentials
from harvester.storage.lock import held
from harvester.storage.trade_store import TradeStore
from harvester.times import SECOND, Range, show

if TYPE_CHECKING:
    from harvester.csv_import.import_report import ImportReport
    from harvester.verify.reports import RepairReport


# --- processes ------------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is somebody else's.
        return True
    return True


def ticks_of(pid: int) -> int | None:
    """When a process started, where the system tells: on Linux."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        # The name before it may hold anything, so fields count from its closing bracket.
        return int(stat.rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


# --- records --------------------------------------------------------------------------------------

# It is written when the run begins and replaced whole when it ends, so a run that was killed is
# seen as well. A record is only a record: that it can't be written stops nothing.

FOLDER = "runs"


class PairResult(msgspec.Struct):
    """What a run came to for one pair."""

    pair: str
    exit_status: int
    trades: int = 0
    pages: int = 0
    gaps: int = 0
    moved: int = 0
    covered_through_ns: int | None = None
    error: str | None = None
    upgrade: dict[str, Any] | None = None


class RunRecord(msgspec.Struct):
    """One run, as its file tells it. Moments are ISO 8601 in UTC.

    Attributes:
        id: the file's name without its ending; later runs sort behind earlier ones.
        command: such as backfill.
        state: `running` or `ended` in the file; `killed` where the process is gone without a word.
        asked: what was asked for.
        settings: those that matter to it.
        ticks: when its process started, by the system's count: process ids are used again.
        calls: made to the exchange, those that were refused as well.
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
        """Of all pairs."""
        return sum(pair.trades for pair in self.pairs)

    @property
    def gaps(self) -> int:
        """Of all pairs."""
        return sum(pair.gaps for pair in self.pairs)


def last(archive: TradeStore, count: int) -> list[RunRecord]:
    """The last so many runs, the latest first; a file that can't be read is left out.

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
                found.append(_judged(msgspec.json.decode(raw, type=RunRecord)))
    return found


def _judged(record: RunRecord) -> RunRecord:
    """A record, with `killed` for a run that has not ended and whose process is gone."""
    if record.state == "running" and record.host == socket.gethostname():
        ticks = ticks_of(record.pid)
        is_other = None not in (ticks, record.ticks) and ticks != record.ticks
        if is_other or not is_alive(record.pid):
            record.state = "killed"
    return record


def paths(archive: TradeStore) -> list[str]:
    """All records, the oldest first."""
    entries = archive.store.files(FOLDER)
    return sorted(entry.path for entry in entries if entry.path.endswith(".json"))


# --- recording ------------------------------------------------------------------------------------

LOCK = "_runs"
MOST_KEPT = 1000
LOCK_WAIT_S = 10.0


class RunResult(Protocol):
    """What came of one pair, whatever run it was."""

    @property
    def pair(self) -> str:
        """Its altname."""

    @property
    def exit_status(self) -> int:
        """As that of the command: 0 for complete."""

    @property
    def trades(self) -> int:
        """Added."""

    @property
    def pages(self) -> int:
        """Asked for."""

    @property
    def gaps(self) -> list[Range]:
        """Left."""

    @property
    def reached(self) -> Range | None:
        """The last range covered."""

    @property
    def error(self) -> HarvesterError | None:
        """What ended it."""


class RunRecorder:
    """A run's record while it is made."""

    def __init__(self, archive: TradeStore, record: RunRecord) -> None:
        """Nothing is written yet."""
        self._archive = archive
        self.record = record
        self.unwritten: HarvesterError | None = None

    def heard(self, calls: int, refusals: int) -> None:
        """Note how often the exchange was asked, and how often it refused."""
        self.record.calls, self.record.refusals = calls, refusals

    def outcomes(self, outcomes: Iterable[RunResult]) -> None:
        """Note what each pair's crawl came to."""
        self.record.pairs = [
            _result(
                outcome,
                gaps=len(outcome.gaps),
                covered_through_ns=outcome.reached.through if outcome.reached else None,
                upgrade=_upgrade(outcome),
            )
            for outcome in outcomes
        ]

    def ended_with(self, exit_status: int, error: HarvesterError | None) -> None:
        """Note how the run as a whole ended, where its pairs alone do not tell."""
        self.record.exit_status = exit_status
        self.record.error = None if error is None else str(error)

    def repairs(self, reports: Iterable[RepairReport]) -> None:
        """Note what mending each pair came to."""
        self.record.pairs = [_result(report, moved=len(report.moved)) for report in reports]

    def imports(self, reports: Iterable[ImportReport], gaps: Callable[[str], int]) -> None:
        """Note what taking in the files of each pair came to; `gaps`: how many a pair has now."""
        found: dict[str, PairResult] = {}
        for report in reports:
            pair = found.setdefault(report.pair, PairResult(report.pair, 0, gaps=gaps(report.pair)))
            pair.trades += report.imported.rows
            pair.exit_status = gravest([pair.exit_status, report.exit_status])
            if report.ranges:
                through = max(span.through for span in report.ranges)
                pair.covered_through_ns = max(pair.covered_through_ns or 0, through)
            if report.error is not None and pair.error is None:
                pair.error = str(report.error)
        self.record.pairs = list(found.values())

    def write(self, *, prune: bool = False) -> None:
        """Put the record in its place; what prevents that is kept in `unwritten`."""
        store = self._archive.store
        data = msgspec.json.format(msgspec.json.encode(self.record), indent=2) + b"\n"
        try:
            with held(self._archive.root / "locks", LOCK, wait_s=LOCK_WAIT_S):
                store.remove_folder(f"staging/{LOCK}")
                store.write(f"{FOLDER}/{self.record.id}.json", data, LOCK)
                store.remove_folder(f"staging/{LOCK}")
                for path in paths(self._archive)[:-MOST_KEPT] if prune else ():
                    store.remove(path)
        except HarvesterError as reason:
            self.unwritten = reason


@contextmanager
def recorded(
    archive: TradeStore,
    command: str,
    asked: Mapping[str, Any],
    settings: Settings,
    warn: Callable[[str], None],
) -> Iterator[RunRecorder]:
    """Keep a record of a run over an archive: begun before the block, ended behind it.

    Args:
        archive: what the run writes.
        command: what it is called.
        asked: what was asked for, by name.
        settings: what is in force.
        warn: told at the end, where the record could not be written and nothing worse happened.
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
    recording = RunRecorder(archive, record)
    recording.write(prune=True)
    try:
        yield recording
        if record.exit_status is None:
            record.exit_status = gravest([pair.exit_status for pair in record.pairs])
    except HarvesterError as error:
        record.exit_status = error.exit_status
        record.error = without_credentials(str(error))
        raise
    except BaseException as error:
        is_wish = isinstance(error, KeyboardInterrupt)
        record.exit_status = Interrupted.exit_status if is_wish else HarvesterError.exit_status
        record.error = without_credentials(f"{type(error).__name__}: {error}")
        raise
    finally:
        record.state, record.ended = "ended", _now()
        recording.unwritten = None
        recording.write()
        if recording.unwritten is not None and not record.exit_status:
            warn(f"this run leaves no record: {recording.unwritten}")


def _result(run_result: RunResult | RepairReport, **more: Any) -> PairResult:  # noqa: ANN401 - its fields
    """What both kinds of results tell, and `more`."""
    error = None if run_result.error is None else str(run_result.error)
    return PairResult(
        run_result.pair,
        run_result.exit_status,
        run_result.trades,
        run_result.pages,
        error=error,
        **more,
    )


def _upgrade(run_result: RunResult) -> dict[str, Any] | None:
    """What became of ranges from files, of a backfill that was to replace them."""
    upgrade = getattr(run_result, "upgrade", None)
    return upgrade.plain() if isinstance(upgrade, Upgrade) else None


def _settings(settings: Settings) -> dict[str, Any]:
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
    """A name that sorts by the time, such as 20260130T120000.000123Z-4711."""
    day = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_ns // SECOND))
    return f"{day}.{now_ns // 1000 % 10**6:06d}Z-{pid}"


def _now() -> str:
    return show(time.time_ns() // 10**6 * 10**6)
