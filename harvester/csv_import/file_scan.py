"""First pass over a file: columns, row count, order, and possible times of unreadable rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from harvester.csv_import.columns import Layout, detect
from harvester.csv_import.files import UNKNOWN, KnownComplete, Member, blocks, check, checksum, head
from harvester.csv_import.parse import BadRow, Parsed, parse
from harvester.csv_import.sorting import HABIT_S, TimeDisorder
from harvester.errors import BadFile, DamagedFile, Interrupted
from harvester.schema import times
from harvester.times import END_OF_TIME, SECOND, Range, union

# --- badtimes -------------------------------------------------------------------------------------

MOST_KEPT = 100_000
"""Runs of bad rows that memory holds; further ones are counted to the last of them."""


class _Run(NamedTuple):
    """Bad rows between two good ones, in a file's order; times in nanoseconds.

    `before` and `behind` are the times of the good rows beside it, None where there is no such row.
    `first` and `last` bound those times of the bad rows that can be read, None where none can;
    `is_known` tells whether all of them can.
    """

    before: int | None
    behind: int | None
    first: int | None
    last: int | None
    is_known: bool


class UnreadableTimes:
    """Bounds the times of the bad rows of one file by themselves and by the rows beside them."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._runs: list[_Run] = []
        self._latest: int | None = None
        """The time of the last good row."""
        self._is_open = False
        """Whether no good row followed the last run yet."""
        self._steps = TimeDisorder()
        """Steps back among all times that can be read, those of bad rows, too."""

    def add(self, parsed: Parsed) -> None:
        """Take the next block of the file."""
        stamps = every = times(parsed.rows)
        if parsed.bad:
            lines = np.array([parsed.line_of(row) for row in range(len(stamps))], dtype=np.int64)
            places = lines.searchsorted([row.line for row in parsed.bad])
            readable = [at is not None for at in parsed.bad_times]
            every = np.insert(
                stamps, places[readable], [at for at in parsed.bad_times if at is not None]
            )
            is_behind_first = False
            for place, stamp in zip(places.tolist(), parsed.bad_times, strict=True):
                if place and not is_behind_first:
                    self._close(int(stamps[0]))
                    is_behind_first = True
                before = int(stamps[place - 1]) if place else self._latest
                behind = int(stamps[place]) if place < len(stamps) else None
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
        if last is not None and (same or self._is_open or len(self._runs) >= MOST_KEPT):
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
        """Ranges at whose ends no bad row was traded, nor in the second before or behind.

        Args:
            good_back_ns: how far times go back among the good rows.
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
            elif good_back_ns <= HABIT_S * SECOND:
                before, behind = _between(run, good_back_ns)
                if not before <= low <= high <= behind:
                    # A time that is out of place may be what is broken.
                    low, high = min(low, before), max(high, behind)
            found.append(_around(low, high))
        return union(found)


def _between(run: _Run, farthest_back_ns: int) -> tuple[int, int]:
    """The earliest and latest time of rows by those beside them, in nanoseconds.

    In a file that is not sorted, rows tell nothing about those beside them.
    """
    before, behind = 0, END_OF_TIME
    if farthest_back_ns <= HABIT_S * SECOND:
        if run.before is not None:
            before = max(0, run.before - farthest_back_ns)
        if run.behind is not None:
            behind = min(END_OF_TIME, run.behind + farthest_back_ns)
    return before, behind


def _around(low_ns: int, high_ns: int) -> Range:
    after = max(0, (low_ns // SECOND - 1) * SECOND - 1)
    return Range(after, min(END_OF_TIME, (high_ns // SECOND + 2) * SECOND - 1))


# --- parts ----------------------------------------------------------------------------------------

MOST_LISTED = 10_000
"""Rows left out as bad are listed one by one up to so many."""


class ScannedFile(NamedTuple):
    """A member that was read once.

    Attributes:
        member: what was read.
        checksum: of its bytes then.
        layout: its columns; none where it holds no rows.
        rows: how many can be read.
        first_ns, last_ns: the earliest and the latest time of them; None where there are none.
        is_sorted: whether no time lies more than a minute before one that stands above it.
        bad: how many rows can't be read; `bad_rows` lists them.
        bad_times: ranges in which the rows that can't be read may have been traded.
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


def look_at(
    member: Member,
    *,
    skip_bad_rows: bool = False,
    read: Callable[[int], None] = lambda _bytes: None,
    stop: threading.Event | None = None,
) -> ScannedFile:
    """Read a member whole, and find out its layout, its times and which rows can't be read.

    Args:
        member: to be read.
        skip_bad_rows: count rows that can't be read, instead of ending at the first one.
        read: called with the bytes read since the last call.
        stop: ends it once set.

    Raises:
        DamagedFile: its bytes are not those of its checksum.
        BadFile: it holds other things than trades.
        Interrupted: `stop` was set.
    """
    try:
        return _read_whole(member, skip_bad_rows, read, stop)
    except DamagedFile:
        raise
    except BadFile:
        # A flipped byte may be what makes a row unreadable: then that is to be said.
        check(member)
        raise


def _read_whole(
    member: Member,
    skip_bad_rows: bool,
    read: Callable[[int], None],
    stop: threading.Event | None,
) -> ScannedFile:
    name, line = str(member), 1
    sum_ = checksum(member)
    layout = detect(head(member), name)
    steps, bad_times = TimeDisorder(), UnreadableTimes()
    rows = bad = 0
    bad_rows: list[BadRow] = []
    first_ns: int | None = None
    for block in blocks(member, sum_):
        if stop is not None and stop.is_set():
            raise Interrupted("interrupted; the same command goes on where it stopped")
        text = block
        if line == 1 and layout.has_header:
            text, line = block.partition(b"\n")[2], 2
        parsed = parse(text, layout, line)
        if parsed.bad and not skip_bad_rows:
            raise parsed.bad[0].error(name)
        bad += len(parsed.bad)
        bad_rows += [row._replace(file=name) for row in parsed.bad[: MOST_LISTED - len(bad_rows)]]
        bad_times.add(parsed)
        stamps = times(parsed.rows)
        if len(stamps):
            steps.add(stamps)
            earliest = int(stamps.min())
            first_ns = earliest if first_ns is None else min(first_ns, earliest)
            rows += len(stamps)
        line += parsed.line_count
        read(len(block))
    is_sorted = steps.farthest_back_ns <= HABIT_S * SECOND
    last_ns = steps.latest_ns if rows else None
    found = bad_times.ranges(steps.farthest_back_ns)
    return ScannedFile(
        member, sum_, layout, rows, first_ns, last_ns, is_sorted, bad, bad_rows, found
    )


def chains(parts: Sequence[ScannedFile], said: KnownComplete = UNKNOWN) -> list[list[ScannedFile]]:
    """Parts of one pair in order of time; those that are known to go on where one ends, with it.

    Args:
        parts: all of a pair.
        said: from when on, and up to before when, they hold all trades together, if that was said:
            it counts for the beginning of the one that begins first and the end of the one that
            ends last, never for an end that another part lies behind.
    """
    made: list[list[ScannedFile]] = []
    for part in sorted(parts, key=lambda part: (_begins_ns([part]) or 0, part.member)):
        whole = part.member.whole
        if made and whole.since_s and made[-1][-1].member.whole.until_s == whole.since_s:
            made[-1].append(part)
        else:
            made.append([part])
    # An empty file of which nothing is known lies nowhere; it takes a bound only where it is alone.
    placed = [chain for chain in made if _begins_ns(chain) is not None] or made
    if placed and said.since_s is not None:
        first = min(placed, key=lambda chain: _begins_ns(chain) or 0)
        first[0] = _with_whole(first[0], since_s=said.since_s)
    if placed and said.until_s is not None:
        last = max(placed, key=_ends_ns)
        last[-1] = _with_whole(last[-1], until_s=said.until_s)
    return made


def is_in_order(chain: Sequence[ScannedFile]) -> bool:
    """Whether parts, one after the other, can be read as they are: sorted within a minute."""
    latest_ns = 0
    for part in chain:
        if part.first_ns is None or part.last_ns is None:
            continue
        if not part.is_sorted or part.first_ns < latest_ns - HABIT_S * SECOND:
            return False
        latest_ns = max(latest_ns, part.last_ns)
    return True


def _with_whole(part: ScannedFile, **bounds: int) -> ScannedFile:
    whole = part.member.whole._replace(**bounds)
    return part._replace(member=part.member._replace(whole=whole))


def _begins_ns(chain: Sequence[ScannedFile]) -> int | None:
    since_s = chain[0].member.whole.since_s
    known = [] if since_s is None else [since_s * SECOND]
    return min(
        [*known, *(part.first_ns for part in chain if part.first_ns is not None)], default=None
    )


def _ends_ns(chain: Sequence[ScannedFile]) -> int:
    until_s = chain[-1].member.whole.until_s
    known = [] if until_s is None else [until_s * SECOND - 1]
    return max([*known, *(part.last_ns for part in chain if part.last_ns is not None)], default=-1)
