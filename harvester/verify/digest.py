"""Digest of a trade history: a checksum that is equal for two users who have the same trades."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

from harvester.download.events import Listener, Step, ignore
from harvester.schema import RowsChecksum
from harvester.storage.trade_store import EVERYTHING, TradeStore, retry_on_new_listing
from harvester.times import SECOND, Range, covers

# docs/format.md says how to compute it without harvester.


class Month(NamedTuple):
    """The number of trades of one calendar month (UTC), and the checksum of their rows."""

    month: str
    rows: int
    sha256: str


class Digest(NamedTuple):
    """The digest of a pair's trades over a range of whole months without a gap.

    Attributes:
        pair: altname.
        first: the first month, such as 2024-01.
        last: the last month; it is included.
        rows: number of trades.
        sha256: the checksum.
        months: the checksum of each month.
    """

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
    wanted: Range = EVERYTHING,
    *,
    workers: int | None = None,
    listener: Listener = ignore,
) -> list[Digest]:
    """Compute the digests of a pair: one for each range of consecutive whole months.

    A digest depends on the trades alone, not on how they were downloaded, flushed or compacted.
    The first month is that of the first stored trade.

    Args:
        archive: the archive to read.
        pair: altname.
        wanted: only months that lie completely in this range are counted.
        workers: months read at a time; None for the number of processors.
        listener: receives a `Step` after each month.

    Raises:
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """
    whole = _whole_months(archive, pair, wanted)
    found: dict[int, Month] = {}
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        months = pool.map(lambda number: _month(archive, pair, number), whole)
        for number, month in zip(whole, months, strict=True):
            found[number] = month
            listener(Step(pair, len(found), len(whole), "months"))
    # Consecutive months have consecutive numbers, so number minus index is constant.
    ranges = groupby(enumerate(whole), key=lambda item: item[1] - item[0])
    return [_digest(pair, [found[number] for _, number in numbers]) for _, numbers in ranges]


@retry_on_new_listing
def _whole_months(archive: TradeStore, pair: str, wanted: Range) -> list[int]:
    """The numbers of the months that lie completely in the coverage and in `wanted`."""
    bounds = (archive.bounds(piece.segment) for piece in archive.pieces(pair))
    first_ns = next((found[0] for found in bounds if found), None)
    if first_ns is None:
        return []
    coverage = archive.coverage(pair)
    end_ns = min(coverage[-1].through, wanted.through)
    number, whole = _number(max(first_ns, wanted.after)), []
    while (month := _range(number)).through <= end_ns:
        if month.after >= wanted.after and covers(coverage, month):
            whole.append(number)
        number += 1
    return whole


def _month(archive: TradeStore, pair: str, number: int) -> Month:
    checksum = RowsChecksum()
    for batch in archive.scan(pair, _range(number)):
        checksum.update(batch)
    return Month(_name(number), checksum.rows, checksum.hexdigest())


def _digest(pair: str, months: list[Month]) -> Digest:
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
    """The number of the month that a time lies in, counted from year 0."""
    moment = datetime.fromtimestamp(stamp_ns // SECOND, UTC)
    return moment.year * 12 + moment.month - 1


def _name(number: int) -> str:
    return f"{number // 12:04d}-{number % 12 + 1:02d}"


def _range(number: int) -> Range:
    return Range(_opens_ns(number) - 1, _opens_ns(number + 1) - 1)


def _opens_ns(number: int) -> int:
    opens = datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return int(opens.timestamp()) * SECOND
