"""Rows of a file as the tape has them: by time, and where there are ids by id within one time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.bulk.counting import Count
from harvester.bulk.rows import BadRow, Parsed
from harvester.columns import Int64s, clip, joined, no_rows, times
from harvester.crawl.order import in_order
from harvester.times import SECOND, Range, show

HABIT_S = 60
"""So far may times go back within a file: rows are put in order over so many seconds."""


class Sorter:
    """Puts a file's rows in order as they come; holds back those that others may still precede."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._carry = no_rows()
        self._latest = -1
        self.steps_back = 0
        """How often times went back."""
        self.farthest_back_ns = 0
        self.repeats = Count()
        """Rows with an id that equal another one in every field: the same trade again."""

    def check(self, parsed: Parsed) -> list[BadRow]:
        """Take rows out of a block whose times go back farther than a file's may; returns them."""
        stamps = times(parsed.rows)
        if len(stamps) == 0:
            return []
        before = np.maximum.accumulate(np.concatenate(([self._latest], stamps[:-1])))
        back = before - stamps
        if back.max() <= 0:
            self._latest = int(stamps[-1])
            return []
        far = back > HABIT_S * SECOND
        if far.any():
            # One row far ahead makes all behind it go back: the blame falls on the first of them.
            return self._without(parsed, far, before)
        self.steps_back += int((back > 0).sum())
        self.farthest_back_ns = max(self.farthest_back_ns, int(back.max()))
        self._latest = max(self._latest, int(stamps.max()))
        return []

    def _without(self, parsed: Parsed, far: NDArray[np.bool_], before: Int64s) -> list[BadRow]:
        stamps = times(parsed.rows)
        bad = [
            BadRow(
                parsed.line_of(int(place)),
                show(int(stamps[place])),
                f"its time lies more than {HABIT_S} s before {show(int(before[place]))}, which "
                "was reached above it",
            )
            for place in far.nonzero()[0]
        ]
        kept = (~far).nonzero()[0]
        parsed.lines = [parsed.line_of(int(place)) for place in kept]
        parsed.rows = parsed.rows.take(pa.array(kept))
        self.check(parsed)
        return bad

    def push(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Take the next rows; returns those that none can precede any more, in order."""
        # One that goes back by the whole of it may still come: its second is not sure yet.
        return self._sorted(rows, Range(-1, self._latest - HABIT_S * SECOND - 1))

    def finish(self) -> pa.RecordBatch:
        """What was held back."""
        return self._sorted(no_rows(), Range(-1, self._latest))

    def _sorted(self, rows: pa.RecordBatch, sure: Range) -> pa.RecordBatch:
        rows = joined([batch for batch in (self._carry, rows) if batch.num_rows])
        if rows.num_rows == 0:
            return rows
        stamps = times(rows)
        if not (stamps[1:] >= stamps[:-1]).all():
            rows = rows.take(pa.array(np.argsort(stamps, kind="stable")))
        done = clip(rows, sure)
        self._carry = rows.slice(done.num_rows)
        if done.num_rows and done.column("trade_id").null_count < done.num_rows:
            ordered = in_order(done)
            if ordered.num_rows < done.num_rows:
                self.repeats.add(done)
                self.repeats.take(ordered)
            return ordered
        return done
