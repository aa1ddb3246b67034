"""How many trades a range holds, from the weekly counts that the exchange itself gives."""

from __future__ import annotations

from harvester.times import UNITS_NS, Range

WEEK = UNITS_NS["w"]


class Estimate:
    """Trades a week of one pair; within a week they are taken to be evenly spread."""

    def __init__(self, weeks: list[tuple[int, int]]) -> None:
        """`weeks`: (open time in ns, count), in order."""
        self._weeks = weeks

    def trades(self, spans: list[Range]) -> int:
        """Roughly how many trades these ranges hold."""
        total = 0.0
        for opened, count in self._weeks:
            for span in spans:
                overlap = min(span.through, opened + WEEK) - max(span.after, opened)
                total += count * max(0, overlap) / WEEK
        return round(total)
