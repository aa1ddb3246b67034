"""Gaps of a query: what of the requested range is not downloaded, and the sentence about it.

An answer over a gap looks like one over a quiet market, so each says which gaps it spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harvester.errors import ArchiveHasHoles
from harvester.storage.trade_store import Archive
from harvester.times import (
    BEGINNING_NS,
    DAY,
    END_OF_TIME,
    SECOND,
    Range,
    missing,
    overlap,
    show,
    union,
)

NAMED = 5
"""So many gaps are named in a sentence, the first ones; of more, their number and total length."""


def gaps_in(archive: Archive, pair: str, span: Range, now_ns: int) -> list[Range]:
    """What of a requested range is not covered, in order.

    These count: everything between the first and the last covered moment, whether or not it was
    ever requested; what `backfill` was asked for and has not downloaded; and, where the range has
    a beginning or an end, what lies between that and the coverage. The future is no gap.

    Args:
        archive: where the trades are.
        pair: the altname.
        span: the requested range; from 0 or to the end of time where no bound was given.
        now_ns: what is later is not counted.
    """
    covered = archive.coverage(pair)
    if not covered:
        return []
    span = Range(span.after, min(span.through, END_OF_TIME))
    after = span.after if span.after > 0 else covered[0].after
    is_open = span.through > now_ns
    through = covered[-1].through if is_open else span.through
    if is_open and after >= through:
        # All that was requested is later than what is covered.
        through = now_ns
    requested = [Range(after, through)] if after < through else []
    ever = Range(max(span.after, 0), min(span.through, now_ns))
    wanted = [overlap(gap, ever) for gap in archive.holes(pair)]
    found = union([*missing(requested, covered), *filter(None, wanted)])
    return [gap for gap in found if gap.through > BEGINNING_NS]


def gap_note(gaps: Sequence[Range]) -> str:
    """One sentence that names gaps, at least one: `not downloaded: 2024-01-01 to 2025-01-01`."""
    named = ", ".join(str(gap) for gap in gaps[:NAMED])
    if len(gaps) <= NAMED:
        return f"not downloaded: {named}"
    total_ns = sum(gap.through - max(gap.after, BEGINNING_NS) for gap in gaps)
    return (
        f"not downloaded: {named} and {len(gaps) - NAMED:,} more; {len(gaps):,} gaps, "
        f"{_length(total_ns)} in total"
    )


def checked(
    archive: Archive, pair: str, spans: Iterable[Range], now_ns: int, *, strict: bool
) -> tuple[str, ...]:
    """What is to be known of an answer over some ranges: the sentence about gaps, if there are any.

    Raises:
        ArchiveHasHoles: there are, and the query is strict.
    """
    gaps = union(gap for span in spans for gap in gaps_in(archive, pair, span, now_ns))
    if strict:
        refuse_gaps(pair, gaps)
    return gap_notes(gaps)


def gap_notes(gaps: Sequence[Range]) -> tuple[str, ...]:
    """The sentence about gaps, if there are any."""
    return (gap_note(gaps),) if gaps else ()


def refuse_gaps(pair: str, gaps: Sequence[Range]) -> None:
    """End a strict query that spans gaps.

    Raises:
        ArchiveHasHoles: there are gaps.
    """
    if not gaps:
        return
    since = "start" if gaps[0].after <= 0 else show(gaps[0].after + 1)
    raise ArchiveHasHoles(
        f"{pair}: {gap_note(gaps)}: "
        f"`harvester backfill {pair} --since {since} --until {show(gaps[-1].through + 1)}` "
        "downloads it; without --strict the answer leaves it out"
    )


def _length(total_ns: int) -> str:
    for unit, width_ns in (("days", DAY), ("hours", 3600 * SECOND), ("minutes", 60 * SECOND)):
        if total_ns >= 2 * width_ns:
            return f"{total_ns / width_ns:,.1f} {unit}"
    return f"{total_ns / SECOND:,.9f}".rstrip("0").rstrip(".") + " seconds"
