"""Digest of a trade history: one line that is equal for two users who have the same trades."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

from harvester.schema import RowsChecksum
from harvester.storage.trade_store import EVERYTHING, TradeStore, retry_on_new_listing
from harvester.times import SECOND, Range, covers

# --- digest ---------------------------------------------------------------------------------------

# docs/format.md tells how to compute it without harvester.


class Month(NamedTuple):
    """The trades of one calendar month, in UTC: how many, and the checksum of their rows."""

    month: str
    rows: int
    sha256: str


class Digest(NamedTuple):
    """A tape's digest over whole months without a gap, both included."""

    pair: str
    first: str
    last: str
    rows: int
    sha256: str
    months: list[Month]

    def __str__(self) -> str:
        """One line for people to compare."""
        return f"{self.pair} {self.first} to {self.last}: {self.rows:,} trades, {self.sha256}"


def digests(
    archive: TradeStore,
    pair: str,
    span: Range = EVERYTHING,
    *,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] = lambda _pair, _done, _all: None,
) -> list[Digest]:
    """The digests of what an archive holds of a pair, one for each stretch of whole months.

    It depends on the logical trades alone: not on how they were fetched, flushed or compacted.
    Counting begins with the month of the first trade held.

    Args:
        archive: what to read.
        pair: altname.
        span: only months that lie in it whole.
        workers: months read at a time; None for as many as there are processors.
        progress: told the pair, its months that are done, and its months in all.

    Raises:
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """
    whole = _whole_months(archive, pair, span)
    found: dict[int, Month] = {}
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        months = pool.map(lambda one: _digest(archive, pair, one), whole)
        for number, month in zip(whole, months, strict=True):
            found[number] = month
            progress(pair, len(found), len(whole))
    # Months in a row have numbers in a row.
    runs = groupby(enumerate(whole), key=lambda placed: placed[1] - placed[0])
    return [_joined(pair, [found[number] for _, number in run]) for _, run in runs]


@retry_on_new_listing
def _whole_months(archive: TradeStore, pair: str, span: Range) -> list[int]:
    """The numbers of the months that coverage and span hold whole."""
    bounds = (archive.bounds(piece.segment) for piece in archive.pieces(pair))
    first_ns = next((found[0] for found in bounds if found), None)
    if first_ns is None:
        return []
    coverage = archive.coverage(pair)
    end_ns = min(coverage[-1].through, span.through)
    number, whole = _number(max(first_ns, span.after)), []
    while (month := _span(number)).through <= end_ns:
        if month.after >= span.after and covers(coverage, month):
            whole.append(number)
        number += 1
    return whole


def _digest(archive: TradeStore, pair: str, number: int) -> Month:
    checksum = RowsChecksum()
    for batch in archive.scan(pair, _span(number)):
        checksum.update(batch)
    return Month(_name(number), checksum.rows, checksum.hexdigest())


def _joined(pair: str, months: list[Month]) -> Digest:
    text = "".join(f"{month.month} {month.rows} {month.sha256}\n" for month in months)
    return Digest(
        pair,
        months[0].month,
        months[-1].month,
        sum(month.rows for month in months),
        hashlib.sha256(text.encode()).hexdigest(),
        months,
    )


def _number(stamp_ns: int) -> int:
    """The month that a stamp lies in, counted from the year 0."""
    moment = datetime.fromtimestamp(stamp_ns // SECOND, UTC)
    return moment.year * 12 + moment.month - 1


def _name(number: int) -> str:
    return f"{number // 12:04d}-{number % 12 + 1:02d}"


def _span(number: int) -> Range:
    return Range(_opens_ns(number) - 1, _opens_ns(number + 1) - 1)


def _opens_ns(number: int) -> int:
    opens = datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return int(opens.timestamp()) * SECOND
