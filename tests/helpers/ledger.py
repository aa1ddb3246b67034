"""Keeps the books of a torture: what was ever seen committed, compared with the exchange's trades.

Everything is read by plain pyarrow and the standard library; no code of harvester is used.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kraken_market import Market, TradeRows, expected

NAME = re.compile(r"(\d{19})-(\d{19})(\.csv)?\.parquet")
PLAIN = pa.schema(
    [
        ("trade_id", pa.int64()),
        ("time", pa.int64()),
        ("tie", pa.int32()),
        ("price", pa.decimal128(38, 10)),
        ("volume", pa.decimal128(38, 8)),
        ("side", pa.string()),
        ("order_type", pa.string()),
        ("misc", pa.string()),
    ]
)
"""The columns of a segment as any tool may read them: no code tables, times as nanoseconds."""

Span = tuple[int, int]


class Loss(AssertionError):
    """A promise was broken; the message says which, and where."""


class Seen(NamedTuple):
    """A segment in a listing: its span, and what identifies this file."""

    path: Path
    span: Span
    mark: tuple[int, int, int]


class Sound(NamedTuple):
    """A segment that was read and found to be correct, and what of it was imported."""

    mark: tuple[int, int, int]
    by_file: list[Span]


def merged(spans: Iterable[Span]) -> list[Span]:
    """The union of half-open spans, in order, as few as can be."""
    union: list[Span] = []
    for after, through in sorted(spans):
        if union and after <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], through))
        else:
            union.append((after, through))
    return union


def uncovered(wanted: Iterable[Span], covered: Iterable[Span]) -> list[Span]:
    """What of some spans no other covers."""
    left = merged(wanted)
    for after, through in merged(covered):
        cut = [(max(a, through), t) for a, t in left] + [(a, min(t, after)) for a, t in left]
        left = merged((a, t) for a, t in cut if a < t)
    return left


class Ledger:
    """What is known of one pair in an archive: the true trades, and all ranges ever committed.

    With `file`, the rows of a file that may be imported, a segment whose name ends with
    `.csv.parquet` has the rows of the file.
    """

    def __init__(self, folder: Path, market: Market, file: TradeRows | None = None) -> None:
        self.folder = folder
        self.pair = market.altname
        self.truth: TradeRows = expected(market)
        self._table = table_of(self.truth)
        self._stamps = np.array([row[1] for row in self.truth], dtype=np.int64)
        self._file = None if file is None else table_of(file)
        self.most_alike = 1 + max((row[2] for row in self.truth), default=0)
        self._sound: dict[Path, Sound] = {}
        self._committed: list[Span] = []

    def listing(self) -> list[Seen]:
        """The segments that stand there now; one that goes meanwhile is left out."""
        found: list[Seen] = []
        for year in self._scan(self.folder / "trades" / f"pair={self.pair}"):
            for entry in self._scan(Path(year.path)):
                match = NAME.fullmatch(entry.name)
                if match is None:
                    raise Loss(f"{entry.path} is a foreign file among the segments")
                try:
                    facts = entry.stat()
                except FileNotFoundError:
                    continue
                mark = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
                found.append(Seen(Path(entry.path), (int(match[1]), int(match[2])), mark))
        return found

    @staticmethod
    def _scan(folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []

    def glance(self) -> int:
        """Note what stands there while somebody writes; returns how many segments."""
        seen = self.listing()
        self._committed = merged([*self._committed, *(segment.span for segment in seen)])
        return len(seen)

    @property
    def committed(self) -> list[Span]:
        """All that was ever seen to be covered."""
        return self._committed

    def gaps(self) -> list[Span]:
        """What was wanted and was never seen to be covered."""
        path = self.folder / "wanted" / f"{self.pair}.json"
        spans = json.loads(path.read_text())["spans"] if path.exists() else []
        return uncovered([(after, through) for after, through in spans], self._committed)

    def rows_committed(self) -> int:
        """How many trades the exchange has in all that was ever seen to be covered."""
        ends = [
            [self._stamps.searchsorted(end, "right") for end in span] for span in self._committed
        ]
        return int(sum(stop - start for start, stop in ends))

    def check(self) -> int:
        """Compare the archive, while nobody writes, with the true trades and all seen so far.

        Returns how many segments stand inside of wider ones.

        Raises:
            Loss: something that was committed is gone, or was never true.
        """
        seen = sorted(
            self.listing(),
            key=lambda segment: (
                segment.span[0],
                -segment.span[1],
                segment.path.name.endswith(".csv.parquet"),
            ),
        )
        lost = uncovered(self._committed, (segment.span for segment in seen))
        if lost:
            raise Loss(f"{self.pair}: committed and gone: {lost}")
        for segment in seen:
            self._check_file(segment)
        self._committed = merged(segment.span for segment in seen)
        nested, reached = 0, -1
        for segment in seen:
            if segment.span[1] <= reached:
                nested += 1
            elif segment.span[0] < reached:
                raise Loss(f"{segment.path} overlaps with the segment before it")
            reached = max(reached, segment.span[1])
        return nested

    def _check_file(self, seen: Seen) -> None:
        before = self._sound.get(seen.path)
        if before is not None and before.mark == seen.mark:
            return
        try:
            kept, by_file = plain(seen.path), imported_ranges_of(seen.path)
        except (OSError, pa.ArrowException) as error:
            raise Loss(f"{seen.path} can't be read: {error}") from error
        if before is not None:
            raise Loss(f"{seen.path} was written again: segments never change")
        if by_file != ([seen.span] if seen.path.name.endswith(".csv.parquet") else []):
            raise Loss(f"{seen.path} says that {by_file} are imported")
        true = self._true(seen.span, by_file)
        if not kept.equals(true):
            raise Loss(
                f"{seen.path} holds {kept.num_rows} rows, and the exchange has other "
                f"{true.num_rows} in its span, of which {by_file} are imported"
            )
        self._sound[seen.path] = Sound(seen.mark, by_file)

    def _true(self, span: Span, by_file: list[Span]) -> pa.Table:
        """What a segment must hold."""
        if by_file and self._file is None:
            raise Loss(f"{self.pair}: a segment says that it was imported, and there is no file")
        parts = [(part, self._table) for part in uncovered([span], by_file)]
        parts += [(part, self._file) for part in by_file]
        slices = [between(table, part) for part, table in sorted(parts, key=lambda each: each[0])]
        return pa.concat_tables([PLAIN.empty_table(), *slices]).combine_chunks()

    def imported_ranges(self) -> list[Span]:
        """The imported ranges of the archive, while nobody writes."""
        return merged(
            span for segment in self.listing() for span in imported_ranges_of(segment.path)
        )

    def check_whole(self, through: int) -> None:
        """Compare the finished archive of this pair with the whole history, digit by digit.

        Raises:
            Loss: a row is missing, twice or other; a request is not covered; a file overlaps.
        """
        if self.check():
            raise Loss(f"{self.pair}: segments stand inside of wider ones at the end")
        gone = uncovered([(0, through)], self._committed)
        if gone:
            raise Loss(f"{self.pair}: asked for and not covered: {gone}")
        if gone := self.gaps():
            raise Loss(f"{self.pair}: wanted and not covered: {gone}")
        files = sorted(self.listing(), key=lambda segment: segment.path.name)
        rows = [tuple(row.values()) for file in files for row in plain(file.path).to_pylist()]
        if rows != self.truth:
            differing = next(
                (i for i, (a, b) in enumerate(zip(rows, self.truth, strict=False)) if a != b),
                min(len(rows), len(self.truth)),
            )
            raise Loss(
                f"{self.pair}: {len(rows)} rows, the exchange has {len(self.truth)}; "
                f"they differ from row {differing} on"
            )


def table_of(history: TradeRows) -> pa.Table:
    """Rows as a table of `PLAIN`."""
    names = list(PLAIN.names)
    columns = [list(column) for column in zip(*history, strict=True)] or [[]] * len(names)
    return pa.table(dict(zip(names, columns, strict=True)), schema=PLAIN)


def between(table: pa.Table, span: Span) -> pa.Table:
    """The rows of a table of `PLAIN` whose times lie in a span."""
    stamps = table.column("time").to_numpy()
    start, stop = (int(stamps.searchsorted(end, side="right")) for end in span)
    return table.slice(start, stop - start)


def imported_ranges_of(path: Path) -> list[Span]:
    """What of a segment came out of a file, as its footer says."""
    text = (pq.read_metadata(path).metadata or {}).get(b"harvester.imported", b"[]")
    return merged((after, through) for after, through, *_ in json.loads(text))


def plain(path: Path) -> pa.Table:
    """A segment's rows as `PLAIN`; the schema in the file may be any that casts without loss."""
    table = pq.ParquetFile(path).read()
    if table.column_names != PLAIN.names:
        raise Loss(f"{path} has the columns {table.column_names}")
    return table.cast(PLAIN).replace_schema_metadata(None).combine_chunks()


def misnamed_files(folder: Path) -> list[str]:
    """Files among the segments and roll-ups whose name is none of theirs."""
    found: list[str] = []
    for room in ("trades", "candles"):
        files = (path for path in (folder / room).rglob("*") if path.is_file())
        found += [str(path) for path in files if NAME.fullmatch(path.name) is None]
    return found


def staged(folder: Path) -> list[Path]:
    """Files that lie in staging."""
    found: list[Path] = []
    for here, _, names in os.walk(folder / "staging"):
        found += [Path(here) / name for name in names]
    return found


def check_nothing_left(folder: Path) -> None:
    """An archive at rest holds no leftovers, and nobody holds its locks.

    Raises:
        Loss: there are some, or somebody does.
    """
    left = [str(path) for path in staged(folder)] + misnamed_files(folder)
    left += [str(path) for path in (folder / "locks").glob("*.json")]
    if left:
        raise Loss(f"left over: {', '.join(left)}")
    for lock in (folder / "locks").glob("*.lock"):
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Loss(f"{lock} is held, and nobody runs") from error
