"""A pair's files, looked at before they are read: what each is, and which follow one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harvester.bulk.layout import Layout, detect
from harvester.bulk.rows import parse
from harvester.bulk.sources import Member, head
from harvester.columns import times


class Part(NamedTuple):
    """A member that was looked at."""

    member: Member
    layout: Layout
    first_ns: int


def look_at(member: Member) -> Part:
    """Find out a member's layout, and when it begins.

    Raises:
        BadFile: it holds no trades.
    """
    sample = head(member)
    layout = detect(sample, str(member))
    skipped = sample.partition(b"\n")[2] if layout.has_header else sample
    rows = parse(skipped, layout, 1).rows
    return Part(member, layout, int(times(rows).min()) if rows.num_rows else 0)


def chains(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts of one pair in order of time; those that are known to go on where one ends, with it."""
    made: list[list[Part]] = []
    for part in sorted(parts, key=lambda one: (one.first_ns, one.member)):
        whole = part.member.whole
        if made and whole.since_s and made[-1][-1].member.whole.until_s == whole.since_s:
            made[-1].append(part)
        else:
            made.append([part])
    return made
