"""Candles of one length, ours against the exchange's, and why some can't be compared."""

from __future__ import annotations

from collections.abc import Sequence

from harvester.kraken.ohlc import Candle
from harvester.times import Range, covers
from harvester.verify.ours import Asker, Edges, Held
from harvester.verify.report import IntervalReport
from harvester.verify.steady import steady
from harvester.verify.tally import Tally

RUNNING = "running"
BEFORE = "before what is held"
AFTER = "after what is held"
HOLE = "in a hole"
NO_CLOSE = "empty, with no trade held before it"


def compare_interval(
    asker: Asker, coverage: Sequence[Range], minutes: int, theirs: Sequence[Candle]
) -> IntervalReport:
    """Hold the exchange's candles of one length against ours.

    Args:
        asker: asks the archive.
        coverage: what it holds, in order.
        minutes: the candles' length.
        theirs: in order of time; the last of them is running.
    """
    if not theirs:
        return IntervalReport(minutes)
    return steady(asker.archive, asker.pair, lambda: _compared(asker, coverage, minutes, theirs))


def _compared(
    asker: Asker, coverage: Sequence[Range], minutes: int, theirs: Sequence[Candle]
) -> IntervalReport:
    first, newest = theirs[0].time_ns, theirs[-1].time_ns
    # The moment at which the running one opens is asked for too: see `splits`.
    ours = asker.held(minutes, Range(max(0, first - 1), newest))
    closed = {one.time_ns: one for one in theirs[:-1]}

    def why_not(time_ns: int) -> str | None:
        span = Range(time_ns - 1, tally.end_ns(time_ns) - 1)
        return _why_not(coverage, span, ours.get(time_ns), closed.get(time_ns))

    def is_compared(time_ns: int) -> bool:
        return first <= time_ns < newest and why_not(time_ns) is None

    def edges_of(time_ns: int) -> Edges | None:
        beside = (ours.get(time_ns), ours.get(tally.end_ns(time_ns)))
        if not any(one and one.at_opening for one in beside):
            return None
        return asker.edges(minutes, [time_ns])[time_ns]

    tally = Tally(asker, minutes, is_compared)
    tally.skip(RUNNING)
    for time_ns in sorted(closed.keys() | {one for one in ours if one < newest}):
        if reason := why_not(time_ns):
            tally.skip(reason)
            continue
        held = ours.get(time_ns)
        tally.compare(time_ns, held.candle if held else None, closed.get(time_ns), edges_of)
    return tally.report()


def _why_not(
    coverage: Sequence[Range], span: Range, held: Held | None, their: Candle | None
) -> str | None:
    """Why a candle can't be compared; None where it can."""
    uncovered = _uncovered(coverage, span)
    if held is not None:
        return None if held.is_complete else uncovered or HOLE
    if uncovered is None and their is not None and not (their.count or their.volume):
        return NO_CLOSE
    return uncovered


def _uncovered(coverage: Sequence[Range], span: Range) -> str | None:
    """Why coverage does not hold a span whole; None where it does."""
    if covers(coverage, span):
        return None
    if span.after < coverage[0].after:
        return BEFORE
    return AFTER if span.through > coverage[-1].through else HOLE
