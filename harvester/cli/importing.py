"""From files that were typed to an import: names resolved, signals heeded, progress shown."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

from harvester.cli import output
from harvester.cli.options import Common
from harvester.cli.progress import Display, display
from harvester.csv_import.files import KnownComplete, Member, find
from harvester.csv_import.importer import ImportOptions, ImportReport
from harvester.csv_import.run import (
    FilePlan,
    MatchedFiles,
    PairFiles,
    as_named,
    by_pair,
    chosen,
    plan,
    run,
)
from harvester.download.events import Begun, Imported, Step
from harvester.download.pair_selection import refresh_pairs
from harvester.errors import (
    AmbiguousPair,
    ExchangeError,
    Interrupted,
    UnknownPair,
    UsageError,
    gravest,
)
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair, resolve
from harvester.operations.run_log import record_run
from harvester.pair_names import known_pairs
from harvester.storage.trade_store import TradeStore
from harvester.times import SECOND, parse_moment, show

MOST_SHOWN = 20
MOST_NAMED = 8

Ask = Callable[[], dict[str, Pair]]
"""Asks the exchange for its pairs."""


class Request(NamedTuple):
    """What was typed."""

    files: Sequence[str]
    pair: str | None = None
    pairs: str | None = None
    delisted: bool = False
    whole_since: str | None = None
    whole_until: str | None = None
    skip_bad_rows: bool = False
    dry_run: bool = False

    def whole(self) -> KnownComplete:
        """What time the files are said to hold whole, in seconds.

        Raises:
            UsageError: a time is no whole second.
        """
        ends = []
        for option, text in (
            ("--whole-since", self.whole_since),
            ("--whole-until", self.whole_until),
        ):
            stamp = None if text is None else parse_moment(text, time.time_ns())
            if stamp is not None and stamp % SECOND:
                raise UsageError(f"{option} {text}: give a whole second, as the files have them")
            ends.append(None if stamp is None else stamp // SECOND)
        return KnownComplete(*ends)


class TakenIn(NamedTuple):
    """What an import came to; `unknown` are the files whose names nobody knows."""

    reports: list[ImportReport]
    unknown: list[str]

    @property
    def exit_status(self) -> int:
        """The gravest of all pairs'; 2 where a file's name means no pair."""
        return gravest([report.exit_status for report in self.reports] + [2] * bool(self.unknown))


def importing(request: Request, common: Common) -> TakenIn:
    """Import what was typed, on the terminal."""
    archive = TradeStore(common.settings.archive.path)
    asked = request._asdict()
    with record_run(archive, "import", asked, common.settings, output.hint) as record:
        works, unknown = _works(request, archive, lambda: _asked(archive, common, record.set_calls))
        with (
            display(quiet=common.quiet, log_json=common.log_json) as shown,
            _stopping() as stop,
        ):
            told = _Told(works, shown)
            watch = ImportOptions(told.read, stop, request.skip_bad_rows)
            reports = run(archive, works, watch, told.done)
        record.set_imports(reports, lambda pair: len(archive.gaps(pair)))
        done = TakenIn(reports, unknown)
        record.set_end(done.exit_status, None)
    if not common.quiet and any(one.ranges for one in reports):
        pairs = [report.pair for report in reports if report.ranges]
        # Without names it means all pairs held, where a list of hundreds would be no help.
        fetch = f"backfill {shlex.join(pairs)}" if len(pairs) <= MOST_NAMED else "refresh"
        output.hint(
            f"`harvester {fetch}` fetches what is missing beside it; `harvester rollup` makes "
            "long questions fast"
        )
    return done


def dry_run(request: Request, common: Common) -> tuple[list[FilePlan], list[str]]:
    """What would be imported, and the files whose names nobody knows."""
    archive = TradeStore(common.settings.archive.path)
    works, unknown = _works(request, archive, lambda: _asked(archive, common))
    return plan(archive, works, skip_bad_rows=request.skip_bad_rows), unknown


def _works(request: Request, archive: TradeStore, ask: Ask) -> tuple[list[PairFiles], list[str]]:
    """The pairs of the files, and the files whose names nobody knows."""
    whole, members = request.whole(), find(request.files)
    if request.pair is not None:
        return [PairFiles(_one_pair(request, members, archive, ask), members, whole)], []
    known = known_pairs(archive)
    try:
        named = _chosen(request, members, known)
        is_known = not named.unknown
    except UsageError:
        is_known = False
    if not is_known:
        named = _chosen(request, members, ask())
    works = [PairFiles(pair, some, whole) for pair, some in named.pairs]
    unknown = []
    delisted: dict[str, PairFiles] = {}
    for member in named.unknown:
        pair = as_named(member.stem) if request.delisted else None
        if pair is None:
            unknown.append(str(member))
        else:
            delisted.setdefault(pair.altname, PairFiles(pair, [], whole)).members.append(member)
    works += delisted.values()
    if unknown:
        shown = ", ".join(unknown[:MOST_SHOWN]) + (" ..." if len(unknown) > MOST_SHOWN else "")
        output.error(
            f"the exchange lists no pair for {len(unknown)} of the files: {shown}; they are left "
            "out (--delisted takes them by their names, --pair names one)"
        )
    return works, unknown


def _one_pair(request: Request, members: Sequence[Member], archive: TradeStore, ask: Ask) -> Pair:
    text = request.pair or ""
    if len(members) != 1:
        raise UsageError(
            f"--pair {text} names the pair of one file, and {len(members)} were given: give one, "
            "or leave it to their names"
        )
    try:
        return resolve(text, known_pairs(archive).values())
    except AmbiguousPair:
        raise
    except UnknownPair:
        if request.delisted and (pair := as_named(text)):
            return pair
    return resolve(text, ask().values())


def _chosen(request: Request, members: Sequence[Member], known: dict[str, Pair]) -> MatchedFiles:
    texts = [text.strip() for text in (request.pairs or "").split(",") if text.strip()]
    kept = chosen(members, texts, known.values()) if texts else members
    return by_pair(kept, known.values())


def _asked(
    archive: TradeStore,
    common: Common,
    heard: Callable[[int, int], None] = lambda _calls, _refusals: None,
) -> dict[str, Pair]:
    """The pairs that the exchange lists now; those known so far where it can't be reached.

    `heard` is told how many calls that took, and how many were refused.
    """

    async def ask() -> dict[str, Pair]:
        async with Client(common.settings.exchange) as client:
            try:
                return await refresh_pairs(client, archive)
            finally:
                heard(client.calls, client.refusals)

    from harvester.cli.crawling import show_warnings

    show_warnings(verbose=common.verbose > 0)
    try:
        return asyncio.run(ask())
    except ExchangeError as error:
        output.hint(f"{error}; names are taken from what the archive knows")
        return known_pairs(archive)


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM keeps what is whole; the second ends at once."""
    stop = threading.Event()

    def heed(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            output.hide_live()
            os._exit(Interrupted.exit_status)
        stop.set()
        output.hint("stopping; what was read is being written (again to stop at once)")

    before = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Told:
    """Makes events of what an import tells, from any thread."""

    def __init__(self, works: Sequence[PairFiles], shown: Display) -> None:
        self._shown = shown
        self._sizes = {work.pair.altname: work.size for work in works}
        self._read = dict.fromkeys(self._sizes, 0)
        self._lock = threading.Lock()
        shown.tell(Begun(len(works)))
        for pair, size in self._sizes.items():
            shown.tell(Step(pair, 0, size, "bytes"))

    def read(self, pair: str, size: int) -> None:
        """So many bytes more were read."""
        with self._lock:
            self._read[pair] += size
            # The last bytes end nothing: what they held is being written.
            done = min(self._read[pair], self._sizes[pair] - 1)
            self._shown.tell(Step(pair, done, self._sizes[pair], "bytes"))

    def done(self, done: ImportReport) -> None:
        """Files of a pair are done."""
        with self._lock:
            self._shown.tell(
                Imported(
                    done.pair,
                    done.exit_status,
                    list(_lines(done)),
                    as_fields(done),
                )
            )


def _lines(done: ImportReport) -> Iterator[str]:
    for file, layout in zip(done.files, done.layouts, strict=False):
        yield f"{done.pair}: {file} has {layout}"
    others = (
        (done.held, "of time held already"),
        (done.left, f"left to `harvester backfill {done.pair}`"),
    )
    parts = [f"{done.pair}: {done.kept.rows:,} of {done.read.rows:,} rows imported"]
    parts += [f"{count.rows:,} {what}" for count, what in others if count.rows]
    parts += [f"{done.bad:,} that can't be read left out"] if done.bad else []
    yield ", ".join(parts) + f", in {done.seconds:.1f} s"
    for note in done.notes:
        yield f"{done.pair}: {note}"
    for row in done.bad_rows[:MOST_SHOWN]:
        yield f"{done.pair}: {row.file}, line {row.line}, left out: {row.text!r}: {row.reason}"
    if done.bad > MOST_SHOWN:
        yield f"{done.pair}: {done.bad - MOST_SHOWN:,} more left out; --json lists them"
    if done.error is not None:
        yield f"harvester: {done.pair}: {done.error}"


def as_fields(done: ImportReport) -> dict[str, Any]:
    """A report for machines."""
    counts = {
        name: {"rows": count.rows, "volume": f"{count.volume:f}"}
        for name in ("read", "kept", "held", "left", "repeats")
        for count in [getattr(done, name)]
    }
    return {
        "pair": done.pair,
        "exit_status": done.exit_status,
        "files": done.files,
        "layouts": done.layouts,
        "bytes": done.size,
        **counts,
        "bad": done.bad,
        "bad_rows": [row._asdict() for row in done.bad_rows],
        "ranges": done.ranges,
        "notes": done.notes,
        "rounding": None if done.rounding is None else done.rounding._asdict(),
        "seconds": round(done.seconds, 3),
        "error": str(done.error) if done.error else None,
    }


def report(done: TakenIn) -> dict[str, Any]:
    """All reports for machines."""
    return {"files": [as_fields(one) for one in done.reports], "unknown": done.unknown}


def table(plans: Sequence[FilePlan]) -> str:
    """What would be imported, for people."""
    rows = [
        [
            plan.file,
            plan.pair,
            plan.layout,
            f"{plan.bytes / 1e6:.1f}",
            f"{plan.rows:,}",
            f"{plan.bad:,}",
            "by time" if plan.is_sorted else "unsorted",
            "" if plan.begins_ns is None else show(plan.begins_ns),
            plan.error or "; ".join(map(str, plan.missing)) or "nothing",
        ]
        for plan in plans
    ]
    names = ["file", "pair", "layout", "MB", "rows", "bad", "order", "begins", "not covered"]
    return output.columns(names, rows, left=3)
