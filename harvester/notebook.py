"""HTML view of an archive in a notebook: its pairs, each with a bar of its coverage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from html import escape

from harvester.query.result import FAINT, table
from harvester.server.explorer.time_view import strip_axis
from harvester.times import Range, overlap, show, year_end, year_of
from harvester.verify.status import PairStatus

WIDTH, HEIGHT = 300, 14
MIN_GAP_WIDTH = 1.5
"""The width of a short gap, so that it can be seen."""

COVERED_COLOUR, GAP_COLOUR = "#2a9d6f", "#e5484d"
"""Both are visible on white and on black."""


def show_archive(path: str, statuses: Sequence[PairStatus], stored_pairs_text: str) -> str:
    """Render an archive as an HTML table: each pair with its trades, coverage and gaps.

    Args:
        path: the archive's folder.
        statuses: of all stored or requested pairs.
        stored_pairs_text: what to say where there are no trades.
    """
    title = f"<strong>{escape(path)}</strong>"
    if not statuses:
        note = f": {stored_pairs_text}; archive.backfill(PAIR) downloads trades"
        return _framed(title, escape(note))
    shown = strip_axis(statuses, time.time_ns())
    header = ["pair", "first", "last", f"covered {_years(shown)}", "trades", "gaps", "MB"]
    rows = [
        [
            f'{escape(pair.pair)} <small style="{FAINT}">{escape(pair.wsname)}</small>',
            _date(pair.first_ns),
            _date(pair.last_ns),
            bar(pair.coverage, pair.gaps, shown),
            f"{pair.trades:,}",
            f"{len(pair.gaps):,}",
            f"{pair.bytes / 1e6:,.1f}",
        ]
        for pair in statuses
    ]
    return _framed(title, table(header, rows, left=4))


def bar(coverage: Sequence[Range], gaps: Sequence[Range], shown: Range) -> str:
    """Draw coverage and gaps on a time axis as an inline SVG, with a notch at each New Year.

    Args:
        coverage: the covered ranges.
        gaps: requested ranges that are not covered; even a short one is visible.
        shown: the range of the time axis.
    """
    parts = [
        *_rectangles(coverage, shown, COVERED_COLOUR, "covered", 0.0),
        *_rectangles(gaps, shown, GAP_COLOUR, "gap", MIN_GAP_WIDTH),
        *_notches(shown),
    ]
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="currentColor" opacity=".12"/>'
        f"{''.join(parts)}</svg>"
    )


def _rectangles(
    ranges: Sequence[Range], shown: Range, colour: str, label: str, min_width: float
) -> Iterator[str]:
    for part in ranges:
        visible = overlap(part, shown)
        if visible is None:
            continue
        left = _x_of(visible.after, shown)
        width = max(_x_of(visible.through, shown) - left, min_width)
        yield (
            f'<rect x="{min(left, WIDTH - width):.2f}" width="{width:.2f}" height="{HEIGHT}" '
            f'fill="{colour}"><title>{label}: {part}</title></rect>'
        )


def _notches(shown: Range) -> Iterator[str]:
    for year in range(year_of(shown.after), year_of(shown.through)):
        x = _x_of(year_end(year), shown)
        yield (
            f'<rect x="{x:.2f}" width="1" height="4" fill="currentColor">'
            f"<title>{year + 1}</title></rect>"
        )


def _x_of(moment_ns: int, shown: Range) -> float:
    return (moment_ns - shown.after) / (shown.through - shown.after) * WIDTH


def _years(shown: Range) -> str:
    first, last = year_of(shown.after), year_of(shown.through)
    return f"{first}" if first == last else f"{first} to {last}"


def _date(stamp_ns: int | None) -> str:
    return "" if stamp_ns is None else show(stamp_ns)[:16].replace("T", " ")


def _framed(title: str, inside: str) -> str:
    return f"<div>{title}{inside}</div>"
