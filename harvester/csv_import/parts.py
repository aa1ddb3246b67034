"""A pair's files, read once before anything is imported: what each holds, and its faults."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harvester.csv_import.badtimes import BadTimes
from harvester.csv_import.layout import Layout, detect
from harvester.csv_import.rows import BadRow, parse
from harvester.csv_import.sorting import HABIT_S, StepsBack
from harvester.csv_import.sources import UNKNOWN, Member, Whole, blocks, check, checksum, head
from harvester.errors import BadFile, DamagedFile, Interrupted
from harvester.schema import times
from harvester.times import SECOND, Range

MOST_LISTED = 10_000
"""Rows left out as bad are listed one by one up to so many."""


class Part(NamedTuple):
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
) -> Part:
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
) -> Part:
    name, line = str(member), 1
    sum_ = checksum(member)
    layout = detect(head(member), name)
    steps, bad_times = StepsBack(), BadTimes()
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
    return Part(member, sum_, layout, rows, first_ns, last_ns, is_sorted, bad, bad_rows, found)


def chains(parts: Sequence[Part], said: Whole = UNKNOWN) -> list[list[Part]]:
    """Parts of one pair in order of time; those that are known to go on where one ends, with it.

    Args:
        parts: all of a pair.
        said: from when on, and up to before when, they hold all trades together, if that was said:
            it counts for the beginning of the one that begins first and the end of the one that
            ends last, never for an end that another part lies behind.
    """
    made: list[list[Part]] = []
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


def is_in_order(chain: Sequence[Part]) -> bool:
    """Whether parts, one after the other, can be read as they are: sorted within a minute."""
    latest_ns = 0
    for part in chain:
        if part.first_ns is None or part.last_ns is None:
            continue
        if not part.is_sorted or part.first_ns < latest_ns - HABIT_S * SECOND:
            return False
        latest_ns = max(latest_ns, part.last_ns)
    return True


def _with_whole(part: Part, **bounds: int) -> Part:
    whole = part.member.whole._replace(**bounds)
    return part._replace(member=part.member._replace(whole=whole))


def _begins_ns(chain: Sequence[Part]) -> int | None:
    since_s = chain[0].member.whole.since_s
    known = [] if since_s is None else [since_s * SECOND]
    return min(
        [*known, *(part.first_ns for part in chain if part.first_ns is not None)], default=None
    )


def _ends_ns(chain: Sequence[Part]) -> int:
    until_s = chain[-1].member.whole.until_s
    known = [] if until_s is None else [until_s * SECOND - 1]
    return max([*known, *(part.last_ns for part in chain if part.last_ns is not None)], default=-1)
