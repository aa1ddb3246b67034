"""Whether trade ids go on by one within and across files, but for what is on record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harvester.archive.footers import Footer
from harvester.archive.skips import across_file
from harvester.checks.files import Findings, Skip
from harvester.checks.report import Fault, PairReport
from harvester.times import Range

MOST_SAID = 20
"""Places where ids skip are told one by one up to so many."""


class _Place(NamedTuple):
    """A skip, and the segments that the ids on its sides are in."""

    skip: Skip
    left: Findings
    right: Findings


def check_ids(report: PairReport, found: Sequence[Findings]) -> None:
    """Tell where ids leave room for others, and nothing on record explains it.

    Where a file's rows lie between, and nobody could find out why, that is told as odd.
    """
    sound = [one for one in found if one.footer is not None and not one.wrong]
    footers = [one.footer for one in sound if one.footer]
    known = {tuple(jump) for one in footers for jump in one.jumps}
    across = {tuple(sides) for one in footers for sides in one.across_files}
    places = [_Place(skip, one, one) for one in sound for skip in one.skips]
    places += _at_seams(report, found)
    open_ = [one for one in places if one.skip.sides not in known]
    report.notes += [
        f"{report.pair}: {across_file(*sides, rows)}"
        for (sides, rows), *_ in open_
        if sides in across
    ]
    _say(report, [one for one in open_ if one.skip.sides not in across])


def _say(report: PairReport, places: Sequence[_Place]) -> None:
    # A pair that jumps at nearly every trade has them counted, and not listed.
    if len(places) <= report.unasked_jumps:
        return
    for (sides, _), left, right in places[:MOST_SAID]:
        text = f"ids skip from {sides[0]} to {sides[1]}, which no jump on record explains"
        span = Range(left.segment.range.after, right.segment.range.through)
        other = None if left is right else left.segment.path
        report.faults.append(Fault(report.pair, span, right.segment.path, text, other))
    if len(places) > MOST_SAID:
        report.notes.append(f"{report.pair}: ids skip in {len(places) - MOST_SAID} more places")


def _at_seams(report: PairReport, found: Sequence[Findings]) -> Iterator[_Place]:
    """Where ids leave room between segments that touch; where coverage breaks off, any may."""
    edge: tuple[int, int] | None = None
    left: Findings | None = None
    for one in found:
        if one.footer is None or one.wrong:
            left, edge = None, None
            continue
        if left is None or left.segment.range.through != one.segment.range.after:
            edge = None
        else:
            report.seams += 1
            first = one.footer.first_trade_id
            rows = edge[1] + one.footer.lead if edge else 0
            if edge and first is not None and first - edge[0] - 1 > rows:
                yield _Place(Skip((edge[0], first), rows), left, one)
        edge = _edge_behind(one.footer, edge)
        left = one


def _edge_behind(footer: Footer, edge: tuple[int, int] | None) -> tuple[int, int] | None:
    if footer.last_trade_id is not None:
        return footer.last_trade_id, footer.trail
    return edge and (edge[0], edge[1] + footer.rows)
