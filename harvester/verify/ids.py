"""Whether trade ids go on by one within and across files, but for what is on record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harvester.storage.footer import Footer
from harvester.times import Range
from harvester.trade_ids import BEGINNING, Edge, across_file
from harvester.verify.files import Findings, Skip
from harvester.verify.report import Fault, PairReport

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
        f"{report.pair}: {across_file(report.pair, *sides, rows)}"
        for (sides, rows, _), *_ in open_
        if sides in across
    ]
    _say(report, [one for one in open_ if one.skip.sides not in across])


def _say(report: PairReport, places: Sequence[_Place]) -> None:
    # A pair that jumps at nearly every trade has them counted, and not listed.
    if len(places) <= report.unasked_jumps:
        return
    for skip, left, right in places[:MOST_SAID]:
        text = _told(skip)
        span = Range(left.segment.range.after, right.segment.range.through)
        other = None if left is right else left.segment.path
        report.faults.append(
            Fault(report.pair, span, right.segment.path, text, other, skip.between)
        )
    if len(places) > MOST_SAID:
        report.notes.append(f"{report.pair}: ids skip in {len(places) - MOST_SAID} more places")


def _told(skip: Skip) -> str:
    before, behind = skip.sides
    if before == BEGINNING.trade_id:
        return f"its first trade id is {behind}, not 1, and no confirmed id gap explains it"
    return f"ids skip from {before} to {behind}, which no jump on record explains"


def _at_seams(report: PairReport, found: Sequence[Findings]) -> Iterator[_Place]:
    """Where ids leave room between segments that touch; where coverage breaks off, any may.

    Coverage from 0 on goes on from id 0: a market's first trade has id 1.
    """
    edge: Edge | None = None
    left: Findings | None = None
    for one in found:
        if one.footer is None or one.wrong:
            left, edge = None, None
            continue
        footer, segment = one.footer, one.segment
        if left is None and segment.range.after == 0:
            edge = BEGINNING
        elif left is None or left.segment.range.through != segment.range.after:
            edge = None
        else:
            report.seams += 1
        if edge == BEGINNING and footer.lead:
            # Rows without ids come first: old answers, or a file's, which have none to begin with.
            edge = None
        first = footer.first_trade_id
        rows = edge.loose + footer.lead if edge else 0
        if edge and first is not None and first - edge.trade_id - 1 > rows:
            skip = Skip((edge.trade_id, first), rows, (edge.time_ns, one.first_id_ns))
            yield _Place(skip, left or one, one)
        edge = _edge_behind(one, footer, edge)
        left = one


def _edge_behind(found: Findings, footer: Footer, edge: Edge | None) -> Edge | None:
    if footer.last_trade_id is not None:
        return Edge(footer.last_trade_id, footer.trail, found.last_id_ns)
    return edge and edge._replace(loose=edge.loose + footer.rows)
