"""First pass over a file: columns, row count, order, and possible times of unreadable rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from harvester.csv_import.columns import Layout, detect
from harvester.csv_import.files import UNKNOWN, KnownComplete, Member, blocks, check, checksum, head
from harvester.csv_import.parse import BadRow, Parsed, parse
from harvester.csv_import.sorting import MAX_STEP_BACK_S, TimeDisorder
from harvester.download.events import CancelToken
from harvester.errors import BadFile, DamagedFile, Interrupted
from harvester.schema import times
from harvester.times import END_OF_TIME, SECOND, Range, union

# --- times of unreadable rows ---------------------------------------------------------------------

MAX_RUNS = 100_000
"""Runs of bad rows that are kept in memory; further ones are joined to the last one."""


class _Run(NamedTuple):
    """Consecutive bad rows of a file; times in nanoseconds.

    Attributes:
        before: time of the good row before them; None if there is none.
        behind: time of the good row after them; None if there is none.
        first: earliest readable time of the bad rows; None if no time is readable.
        last: latest readable time of the bad rows; None if no time is readable.
        is_known: whether the times of all bad rows are readable.
    """

    before: int | None
    behind: int | None
    first: int | None
    last: int | None
    is_known: bool


class UnreadableTimes:
    """Bounds the times of a file's bad rows by their own times and the rows around them."""

    def __init__(self) -> None:
        """Start before the first row."""
        self._runs: list[_Run] = []
        self._latest: int | None = None
        """Time of the last good row, in nanoseconds."""
        self._is_open = False
        """Whether no good row has followed the last run yet."""
        self._steps = TimeDisorder()
        """Steps back in time among all readable times, including those of bad rows."""

    def add(self, parsed: Parsed) -> None:
        """Add the next block of the file."""
        stamps = every = times(parsed.rows)
        if parsed.bad:
            lines = np.array([parsed.line_of(row) for row in range(len(stamps))], dtype=np.int64)
            indexes = lines.searchsorted([row.line for row in parsed.bad])
            readable = [at is not None for at in parsed.bad_times]
            every = np.insert(
                stamps, indexes[readable], [at for at in parsed.bad_times if at is not None]
            )
            is_behind_first = False
            for index, stamp in zip(indexes.tolist(), parsed.bad_times, strict=True):
                if index and not is_behind_first:
                    self._close(int(stamps[0]))
                    is_behind_first = True
                before = int(stamps[index - 1]) if index else self._latest
                behind = int(stamps[index]) if index < len(stamps) else None
                run = _Run(before, behind, stamp, stamp, stamp is not None)
                self._note(run, is_open=behind is None)
        elif len(stamps):
            self._close(int(stamps[0]))
        if len(stamps):
            self._latest = int(stamps[-1])
        if len(every):
            self._steps.add(every)

    def _note(self, run: _Run, *, is_open: bool) -> None:
        last = self._runs[-1] if self._runs else None
        same = last is not None and (last.before, last.behind) == (run.before, run.behind)
        if last is not None and (same or self._is_open or len(self._runs) >= MAX_RUNS):
            known = [at for at in (*last[2:4], *run[2:4]) if at is not None]
            first, through = (min(known), max(known)) if known else (None, None)
            is_known = last.is_known and run.is_known
            self._runs[-1] = _Run(last.before, run.behind, first, through, is_known)
        else:
            self._runs.append(run)
        self._is_open = is_open

    def _close(self, stamp: int) -> None:
        if self._is_open:
            self._runs[-1] = self._runs[-1]._replace(behind=stamp)
            self._is_open = False

    def ranges(self, good_back_ns: int) -> list[Range]:
        """Ranges that contain all bad rows, with at least a second to spare at both ends.

        Args:
            good_back_ns: by how much times step back at most among the good rows, in nanoseconds.
        """
        every_back_ns = self._steps.farthest_back_ns
        found = []
        for run in self._runs:
            low, high = run.first, run.last
            if low is None or high is None:
                low, high = _between(run, every_back_ns)
            elif not run.is_known:
                before, behind = _between(run, every_back_ns)
                low, high = min(low, before), max(high, behind)
            elif good_back_ns <= MAX_STEP_BACK_S * SECOND:
                before, behind = _between(run, good_back_ns)
                if not before <= low <= high <= behind:
                    # A time out of order may be the broken field of the row.
                    low, high = min(low, before), max(high, behind)
            found.append(_around(low, high))
        return union(found)


def _between(run: _Run, farthest_back_ns: int) -> tuple[int, int]:
    """The earliest and latest possible time of bad rows, from the good rows around them, in ns.

    In a file that is not sorted, neighbouring rows say nothing.

    Args:
        run: the bad rows.
        farthest_back_ns: by how much times step back at most in the file.
    """
    before, behind = 0, END_OF_TIME
    if farthest_back_ns <= MAX_STEP_BACK_S * SECOND:
        if run.before is not None:
            before = max(0, run.before - farthest_back_ns)
        if run.behind is not None:
            behind = min(END_OF_TIME, run.behind + farthest_back_ns)
    return before, behind


def _around(low_ns: int, high_ns: int) -> Range:
    """A range of whole seconds that begins a second earlier and ends a second later."""
    after = max(0, (low_ns // SECOND - 1) * SECOND - 1)
    return Range(after, min(END_OF_TIME, (high_ns // SECOND + 2) * SECOND - 1))


# --- scanning a file ------------------------------------------------------------------------------

MAX_BAD_ROWS_LISTED = 10_000
"""Up to this many bad rows are listed one by one."""


class ScannedFile(NamedTuple):
    """The result of reading a CSV file for the first time.

    Attributes:
        member: the file.
        checksum: of its bytes when it was read.
        layout: its columns; none if it has no rows.
        rows: number of readable rows.
        first_ns: the earliest time; None if there are no readable rows.
        last_ns: the latest time; None if there are no readable rows.
        is_sorted: whether no time is more than a minute before the time of an earlier row.
        bad: number of unreadable rows.
        bad_rows: the unreadable rows, up to `MAX_BAD_ROWS_LISTED`.
        bad_times: ranges in which the unreadable rows may have been traded.
    """

    member: Member
    checksum: str
    layout: Layout
    rows: int
    first_ns: int | None
    last_ns: int | None
    is_sorted: bool
    bad: int
    bad_rows: list[BadRow]
    bad_times: list[Range]


def scan_file(
    member: Member,
    *,
    skip_bad_rows: bool = False,
    read: Callable[[int], None] = lambda _bytes: None,
    stop: CancelToken | None = None,
) -> ScannedFile:
    """Read a file completely: detect its columns, its first and last time, and its bad rows.

    Args:
        member: the file.
        skip_bad_rows: count unreadable rows, instead of failing at the first one.
        read: called with the number of bytes read since the last call.
        stop: cancelled to end the scan.

    Raises:
        DamagedFile: its bytes do not match its checksum.
        BadFile: it contains something else than trades.
        Interrupted: `stop` was cancelled.
    """
    try:
        return _read_whole(member, skip_bad_rows, read, stop)
    except DamagedFile:
        raise
    except BadFile:
        # If a flipped byte made the row unreadable, the error must say so.
        check(member)
        raise


def _read_whole(
    member: Member,
    skip_bad_rows: bool,
    read: Callable[[int], None],
    stop: CancelToken | None,
) -> ScannedFile:
    name, line = str(member), 1
    sum_ = checksum(member)
    layout = detect(head(member), name)
    steps, bad_times = TimeDisorder(), UnreadableTimes()
    rows = bad = 0
    bad_rows: list[BadRow] = []
    first_ns: int | None = None
    for block in blocks(member, sum_):
        if stop is not None and stop.is_cancelled:
            raise Interrupted("interrupted; the same command goes on where it stopped")
        text = block
        if line == 1 and layout.has_header:
            text, line = block.partition(b"\n")[2], 2
        parsed = parse(text, layout, line)
        if parsed.bad and not skip_bad_rows:
            raise parsed.bad[0].error(name)
        bad += len(parsed.bad)
        bad_rows += [
            row._replace(file=name) for row in parsed.bad[: MAX_BAD_ROWS_LISTED - len(bad_rows)]
        ]
        bad_times.add(parsed)
        stamps = times(parsed.rows)
        if len(stamps):
            steps.add(stamps)
            earliest = int(stamps.min())
            first_ns = earliest if first_ns is None else min(first_ns, earliest)
            rows += len(stamps)
        line += parsed.line_count
        read(len(block))
    is_sorted = steps.farthest_back_ns <= MAX_STEP_BACK_S * SECOND
    last_ns = steps.latest_ns if rows else None
    found = bad_times.ranges(steps.farthest_back_ns)
    return ScannedFile(
        member, sum_, layout, rows, first_ns, last_ns, is_sorted, bad, bad_rows, found
    )


def chains(files: Sequence[ScannedFile], said: KnownComplete = UNKNOWN) -> list[list[ScannedFile]]:
    """Group the files of a pair into chains: a file that begins where another ends follows it.

    Args:
        files: all scanned files of a pair.
        said: the time for which they together contain every trade, if the user said so. It counts
            for the beginning of the first file and the end of the last file, and never for an end
            that another file follows.

    Returns:
        The chains, and the files of each, in order of time.
    """
    found: list[list[ScannedFile]] = []
    for file in sorted(files, key=lambda file: (_begins_ns([file]) or 0, file.member)):
        since_s = file.member.complete.since_s
        if found and since_s and found[-1][-1].member.complete.until_s == since_s:
            found[-1].append(file)
        else:
            found.append([file])
    # An empty file of unknown time has no place in the order; it gets a bound only if it is alone.
    placed = [chain for chain in found if _begins_ns(chain) is not None] or found
    if placed and said.since_s is not None:
        first = min(placed, key=lambda chain: _begins_ns(chain) or 0)
        first[0] = _with_bounds(first[0], since_s=said.since_s)
    if placed and said.until_s is not None:
        last = max(placed, key=_ends_ns)
        last[-1] = _with_bounds(last[-1], until_s=said.until_s)
    return found


def is_in_order(chain: Sequence[ScannedFile]) -> bool:
    """Whether a chain of files can be read as it is: no time is a minute before an earlier one."""
    latest_ns = 0
    for file in chain:
        if file.first_ns is None or file.last_ns is None:
            continue
        if not file.is_sorted or file.first_ns < latest_ns - MAX_STEP_BACK_S * SECOND:
            return False
        latest_ns = max(latest_ns, file.last_ns)
    return True


def _with_bounds(file: ScannedFile, **bounds: int) -> ScannedFile:
    complete = file.member.complete._replace(**bounds)
    return file._replace(member=file.member._replace(complete=complete))


def _begins_ns(chain: Sequence[ScannedFile]) -> int | None:
    since_s = chain[0].member.complete.since_s
    known = [] if since_s is None else [since_s * SECOND]
    return min(
        [*known, *(file.first_ns for file in chain if file.first_ns is not None)], default=None
    )


def _ends_ns(chain: Sequence[ScannedFile]) -> int:
    until_s = chain[-1].member.complete.until_s
    known = [] if until_s is None else [until_s * SECOND - 1]
    return max([*known, *(file.last_ns for file in chain if file.last_ns is not None)], default=-1)
