"""Bars that are not of time: of so many trades, so much volume or so much value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from harvester.errors import ArchiveDamaged, NothingHeld, ValueDoesNotFit
from harvester.query import cuts, sums
from harvester.query.bar_columns import (
    Columns,
    Ticks,
    as_batch,
    carry_on,
    grouped,
    part,
    schema_of,
)
from harvester.query.bar_size import BarSize
from harvester.schema import Int64s
from harvester.storage.trade_store import EVERYTHING, Archive
from harvester.times import Range, show

BATCH_ROWS = 100_000
STEP_ROWS = 32_768
MOST_WAITING = 64
"""Of few bars, those of about two million trades make a batch, so that they need not pile up."""


@dataclass(frozen=True, slots=True)
class BarQuestion:
    """Bars of one pair, of one size.

    Attributes:
        pair: the altname.
        size: what ends a bar.
        span: bars whose first trade was published in it are shown; it does not move any bar.
        anchor_ns: counting begins with the first trade at or after it.
        all_columns: the columns between `count` and `last_time` as well.
        complete_only: leave out bars that ended before their size, at a gap or at the end.
    """

    pair: str
    size: BarSize
    span: Range = EVERYTHING
    anchor_ns: int = 0
    all_columns: bool = False
    complete_only: bool = False

    @property
    def title(self) -> str:
        """The question in a few words, for messages."""
        return f"{self.pair} in bars of {self.size.by} {self.size.text}"


def bar_batches(
    archive: Archive,
    question: BarQuestion,
    *,
    batch_rows: int = BATCH_ROWS,
    step_rows: int = STEP_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Bars as Arrow batches in the tape's order, at least one; docs/bars.md tells the columns.

    The tape is read once, from where counting begins, and never held: memory does not grow
    with it. The answer is right whoever writes the archive meanwhile.

    Args:
        archive: where the tape is.
        question: what is asked.
        batch_rows: about how many bars a batch holds.
        step_rows: how many trades are counted at a time; makes no difference to the bars.

    Raises:
        NothingHeld: the archive holds nothing of the pair.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
        ValueDoesNotFit: a bar's sum has more than 38 digits.
    """
    runs = _runs(archive, question)
    schema = schema_of(all_columns=question.all_columns)
    # A batch without rows, so that there is one at least, and its columns are known.
    waiting, rows = [pa.RecordBatch.from_pylist([], schema=schema)], 0
    for batch in _shown(archive, question, runs, min(step_rows, sums.MOST)):
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= batch_rows or len(waiting) == MOST_WAITING:
            yield pa.concat_batches(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_batches(waiting)


def counted_spans(question: BarQuestion) -> list[Range]:
    """The ranges in which a gap matters: bars are counted from the anchor on, anew after a gap."""
    from_anchor = Range(max(0, question.anchor_ns - 1), question.span.through)
    return [question.span, *([from_anchor] if from_anchor.after < from_anchor.through else [])]


def _runs(archive: Archive, question: BarQuestion) -> list[Range]:
    """The stretches of coverage to count through, each anew; those before the span are left out."""
    covered = archive.coverage(question.pair)
    if not covered:
        held = archive.held()
        raise NothingHeld(
            f"the archive at {archive.path} holds no trades of {question.pair}; "
            + (f"it holds {', '.join(held)}. " if held else "it is empty. ")
            + f"`harvester backfill {question.pair}` fetches them"
        )
    begin = max(0, question.anchor_ns - 1)
    return [
        Range(max(run.after, begin), run.through)
        for run in covered
        if run.through > max(begin, question.span.after)
    ]


def _shown(
    archive: Archive, question: BarQuestion, runs: list[Range], step_rows: int
) -> Iterator[pa.RecordBatch]:
    """The bars that begin in the span, batch by batch."""
    for run in runs:
        if run.after >= question.span.through:
            return
        under_way: Columns | None = None
        for batch in archive.scan(question.pair, run):
            for start in range(0, batch.num_rows, step_rows):
                full, under_way = _cut(question, batch.slice(start, step_rows), under_way)
                yield from _in_span(question, full, is_complete=True)
                newest = full if under_way is None else under_way
                if newest["time"][-1] > question.span.through:
                    return
        # At a hole, as at the end, the bar under way is as far as anybody knows.
        if under_way is not None and not question.complete_only:
            yield from _in_span(question, under_way, is_complete=False)


def _cut(
    question: BarQuestion, batch: pa.RecordBatch, under_way: Columns | None
) -> tuple[Columns, Columns | None]:
    """The bars that end in a batch, and the one that is under way behind it."""
    ticks = Ticks.of(batch)
    if ticks.price.min() < 0 or ticks.volume.min() < 0:
        raise ArchiveDamaged(
            f"{question.title}: a price or a volume below 0 was published between "
            f"{show(int(ticks.time[0]))} and {show(int(ticks.time[-1]))}: nothing can be counted"
        )
    ends = _ends(question.size, ticks, under_way)
    last = batch.num_rows - 1
    starts = np.append(0, ends[ends < last] + 1)
    bars = grouped(batch, ticks, starts, all_columns=question.all_columns)
    if under_way is not None:
        carry_on(under_way, bars)
    _hold_to_decimals(question, bars)
    rest = part(bars, len(ends)) if len(ends) < len(starts) else None
    return part(bars, 0, len(ends)), rest


def _ends(size: BarSize, ticks: Ticks, under_way: Columns | None) -> Int64s:
    if size.by == "trades":
        got = 0 if under_way is None else int(under_way["count"][0])
        return cuts.every(size.units, len(ticks.time), got)
    got = 0 if under_way is None else sums.number(under_way[size.by][:, 0])
    return cuts.reaching(size.units, ticks.volume if size.by == "volume" else ticks.value, got)


def _hold_to_decimals(question: BarQuestion, bars: Columns) -> None:
    """Refuse a sum that no decimal can hold."""
    for name in ("value", "volume"):
        for place in sums.too_large(bars[name])[:1]:
            raise ValueDoesNotFit(
                f"{question.title}: the {name} of the bar that begins at "
                f"{show(int(bars['time'][place]))} does not fit 38 exact digits: "
                "ask for smaller bars"
            )


def _in_span(
    question: BarQuestion, bars: Columns, *, is_complete: bool
) -> Iterator[pa.RecordBatch]:
    """Those bars that begin in the span, as a batch; none where there are none."""
    start, stop = bars["time"].searchsorted(question.span, side="right").tolist()
    if start < stop:
        chosen = part(bars, start, stop)
        yield as_batch(chosen, is_complete=is_complete, all_columns=question.all_columns)
