"""Compare the number of imported trades with the trade ids around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from harvester.storage.segment import Footer
from harvester.times import Range
from harvester.trade_ids import imported_gap_text

# A CSV file has no trade ids. But each trade of the exchange has one more than the trade before it,
# so the ids on both sides of imported trades say how many trades there must be between them. Before
# a market's first trade stands id 0.


class WrongCount(NamedTuple):
    """Imported trades that are fewer or more than the ids on both sides of them leave room for.

    Attributes:
        after_id: the id of the last trade before them; 0 before a market's first trade.
        before_id: the id of the first trade behind them.
        imported: how many imported trades without an id are between.
        rows: how many trades without an id are between, downloaded ones included.
        expected: how many there should be: the ids between, less those of confirmed id gaps.
        within: from the start of the first imported range between to the end of the last one.
        is_proved: False if they are fewer, and the market's ids skip so often that its id gaps are
            only counted, and not requested again.
    """

    after_id: int
    before_id: int
    imported: int
    rows: int
    expected: int
    within: Range
    is_proved: bool

    @property
    def sides(self) -> tuple[int, int]:
        """The ids on both sides."""
        return self.after_id, self.before_id

    def text(self, pair: str) -> str:
        """The message for users; `pair` is the altname."""
        if self.rows < self.expected:
            return imported_gap_text(pair, self.after_id, self.before_id, self.rows, self.expected)
        return (
            f"between ids {self.after_id} and {self.before_id} there are {self.imported:,} "
            f"imported trades, but {self.expected:,} unused ids: the imported file has "
            f"{self.imported - self.expected:,} too many there (rows that are in it twice, or that "
            f"have a wrong time); `harvester backfill {pair} --replace-imported` downloads the "
            "range again"
        )


class _Stretch:
    """The trades without an id since the last one that has an id."""

    def __init__(self, after_id: int | None) -> None:
        self.after_id = after_id
        self.imported = self.rows = 0
        self.within: Range | None = None

    def add(self, footer: Footer, rows: int) -> None:
        """Add the trades without an id at one end of a segment; `rows` is their number."""
        if footer.source == "csv":
            self.imported += rows
            first = self.within or footer.range
            self.within = Range(first.after, footer.range.through)
        elif rows and self.within is None and self.after_id == 0:
            # Old answers of the exchange have no ids: the first one may be any.
            self.after_id = None
        self.rows += rows


def wrong_counts(footers: Iterable[Footer]) -> list[WrongCount]:
    """Find imported trades that are fewer or more than the ids on both sides leave room for.

    Too many are only imported ones: of a trade that the exchange shows without an id, nobody knows
    whether it uses one up.

    Args:
        footers: of the segments of a pair that are read, in order.
    """
    footers = list(footers)
    found = [
        (before_id, stretch, stretch.within)
        for before_id, stretch in _stretches(footers)
        if stretch.within is not None
    ]
    if not found:
        return []
    confirmed = {tuple(gap) for footer in footers for gap in footer.jumps}
    skips_often = any(footer.unasked_jumps for footer in footers if footer.source != "csv")
    wrong = []
    for before_id, stretch, within in found:
        after_id = stretch.after_id
        if after_id is None or before_id <= after_id or (after_id, before_id) in confirmed:
            continue
        skipped = sum(
            right - left - 1 for left, right in confirmed if after_id <= left and right <= before_id
        )
        expected = before_id - after_id - 1 - skipped
        if stretch.rows < expected or stretch.imported > expected:
            counts = (stretch.imported, stretch.rows, expected)
            is_proved = stretch.imported > expected or not skips_often
            wrong.append(WrongCount(after_id, before_id, *counts, within, is_proved))
    return wrong


def _stretches(footers: Iterable[Footer]) -> Iterator[tuple[int, _Stretch]]:
    """Each first id behind a stretch of trades without one, and that stretch.

    Behind a gap in coverage no id is known.
    """
    reached = -1
    stretch = _Stretch(None)
    for footer in footers:
        if footer.range.after != reached:
            stretch = _Stretch(0 if footer.range.after == 0 else None)
        reached = footer.range.through
        if footer.first_trade_id is None:
            stretch.add(footer, footer.rows)
            continue
        if footer.lead:
            stretch.add(footer, footer.lead)
        yield footer.first_trade_id, stretch
        stretch = _Stretch(footer.last_trade_id)
        if footer.trail:
            stretch.add(footer, footer.trail)
