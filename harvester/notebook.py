"""An archive as HTML for a notebook: its pairs, and a bar of the coverage of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from harvester.query.html_preview import FAINT, table
from harvester.times import DAY, Range, overlap, show, year_end, year_of
from harvester.verify.status import PairStatus

# --- html -----------------------------------------------------------------------------------------

WIDTH, HEIGHT = 300, 14
LEAST = 1.5
"""So wide is a gap at least, that it can be seen."""

COVERED, GAP = "#2a9d6f", "#e5484d"
"""Both stand out on white as on black."""


def show_archive(path: str, held: Sequence[PairStatus], named: Sequence[str]) -> str:
    """A table of pairs with their trades, first and last, coverage and gaps.

    Args:
        path: of the archive.
        held: what is held of each pair.
        named: the pairs held or asked for.
    """
    missing = [name for name in named if name not in {pair_status.pair for pair_status in held}]
    also = f"asked for and not held: {', '.join(missing)}" if missing else ""
    title = f"<strong>{escape(path)}</strong>"
    if not held:
        return _framed(title, f"nothing is held; {also or 'archive.backfill(PAIR) fetches it'}")
    shown = _shown(held)
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
        for pair in held
    ]
    return _framed(title, table(header, rows, left=4), also)


def bar(coverage: Sequence[Range], gaps: Sequence[Range], shown: Range) -> str:
    """Coverage along time as an inline SVG, a notch at each New Year; what is held tells itself.

    Args:
        coverage: what is covered.
        gaps: what was asked for and is not covered; each is to be seen, however short.
        shown: from when to when the bar reaches.
    """
    parts = [
        *_stretches(coverage, shown, COVERED, "covered", 0.0),
        *_stretches(gaps, shown, GAP, "gap", LEAST),
        *_notches(shown),
    ]
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="currentColor" opacity=".12"/>'
        f"{''.join(parts)}</svg>"
    )


def _stretches(
    ranges: Sequence[Range], shown: Range, colour: str, word: str, least: float
) -> Iterator[str]:
    for one in ranges:
        seen = overlap(one, shown)
        if seen is None:
            continue
        left = _place(seen.after, shown)
        width = max(_place(seen.through, shown) - left, least)
        yield (
            f'<rect x="{min(left, WIDTH - width):.2f}" width="{width:.2f}" height="{HEIGHT}" '
            f'fill="{colour}"><title>{word}: {one}</title></rect>'
        )


def _notches(shown: Range) -> Iterator[str]:
    for year in range(year_of(shown.after), year_of(shown.through)):
        x = _place(year_end(year), shown)
        yield (
            f'<rect x="{x:.2f}" width="1" height="4" fill="currentColor">'
            f"<title>{year + 1}</title></rect>"
        )


def _place(moment_ns: int, shown: Range) -> float:
    return (moment_ns - shown.after) / (shown.through - shown.after) * WIDTH


def _shown(held: Sequence[PairStatus]) -> Range:
    """From the first trade, or the first gap, to where coverage or a gap ends: one for all pairs.

    Coverage may reach back to 1970, where there is nothing to be seen.
    """
    starts = [pair_status.first_ns for pair_status in held if pair_status.first_ns is not None]
    starts += [gap.after for pair_status in held for gap in pair_status.gaps if gap.after > 0]
    ends = [
        part.through for pair_status in held for part in (*pair_status.coverage, *pair_status.gaps)
    ]
    end = max(ends)
    return Range(min([*starts, end - DAY]), end)


def _years(shown: Range) -> str:
    first, last = year_of(shown.after), year_of(shown.through)
    return f"{first}" if first == last else f"{first} to {last}"


def _date(stamp_ns: int | None) -> str:
    return "" if stamp_ns is None else show(stamp_ns)[:16].replace("T", " ")


def _framed(title: str, inside: str, note: str = "") -> str:
    faint = f'<br><small style="{FAINT}">{escape(note)}</small>' if note else ""
    return f"<div>{title}{inside}{faint}</div>"
