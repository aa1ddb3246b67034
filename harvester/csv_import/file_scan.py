"""First pass over files: columns, row count, order, times in doubt."""

from __future__ import annotations

import csv
import re
import time
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import pyarrow as pa

from harvester.csv_import.csv_files import (
    NO_KNOWN_PERIOD,
    BadRow,
    Member,
    blocks,
    checksum,
    head,
    pieces,
)
from harvester.csv_import.missing_trades import NO_RUNS, IdRunFinder, SilenceFinder, UnreadableTimes
from harvester.csv_import.parse import ORDER_TYPES, SIDES, Layout, Parsed, parse, parse_number
from harvester.csv_import.row_order import check_order
from harvester.errors import BadFile, DamagedFile, Interrupted
from harvester.events import CancelToken
from harvester.schema import Int64s, times
from harvester.storage.trade_store import CLOCK_TOLERANCE_NS, EVERYTHING
from harvester.times import BEGINNING_NS, END_OF_TIME, SECOND, Range

# --- columns of a file ----------------------------------------------------------------------------

SAMPLE_LINES = 1_000

SHORT = ("time", "price", "volume")
FULL = ("price", "volume", "time", "side", "order_type", "misc", "trade_id")
"""The usual order of the columns in Kraken's files. The content of a file goes before it."""

_NAMES = {
    "time": "time",
    "timestamp": "time",
    "price": "price",
    "volume": "volume",
    "amount": "volume",
    "b/s": "side",
    "side": "side",
    "m/l": "order_type",
    "misc": "misc",
    "trade id": "trade_id",
    "trade_id": "trade_id",
    "tradeid": "trade_id",
}


def is_time(text: str) -> bool:
    """Whether a text can be the time of a trade in UNIX seconds: from 2011 to 2262."""
    seconds = parse_number(text)
    return seconds is not None and BEGINNING_NS <= seconds * SECOND <= END_OF_TIME


def detect(sample: bytes, name: str) -> Layout:
    """Detect the columns of a file from its first lines.

    A file without rows, with or without a header, is one of a pair that was not traded.

    Args:
        sample: complete lines from the beginning of the file.
        name: the name of the file, for messages.

    Raises:
        BadFile: it does not have the three, or the six or seven columns of a trade, or a header
            names them otherwise: price and volume can't be told apart without it.
    """
    try:
        # Lines end as `parse` ends them: not with a carriage return alone.
        text = sample.decode("utf-8-sig").replace("\r\n", "\n").split("\n")[:SAMPLE_LINES]
        if "\r" in text[0]:
            raise BadFile(f"{name} has lines that end with CR alone: nothing of it was imported")
        lines = [line for line in csv.reader(line for line in text if "\r" not in line) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFile(f"{name} is no CSV text ({error}): nothing of it was imported") from error
    width = Counter(map(len, lines)).most_common(1)[0][0] if lines else 0
    header = lines[0] if lines and _is_header(lines[0], width) else None
    rows = lines[1:] if header else lines
    if not rows:
        widths = (len(header), len(header) + 1) if header else ()
        if header and not any(_columns_by_header(header, count) for count in widths):
            raise BadFile(f"{name} has no trades: nothing of it was imported")
        return Layout((), header is not None)
    width = Counter(map(len, rows)).most_common(1)[0][0]
    # Rows with another number of fields are reported later, with their line.
    regular = [row for row in rows if len(row) == width]
    columns = _columns_by_content(regular, width)
    named = _columns_by_header(header, width)
    if columns is None or (named and not _agree(named, columns)):
        raise BadFile(
            f"{name} begins {','.join(rows[0])!r}, which is neither time, price, volume nor price, "
            "volume, time, b/s, m/l, misc, trade id: give Kraken's files of trades"
        )
    if header and not named:
        raise BadFile(
            f"{name} has the header {','.join(header)!r}, whose names are not all known: call the "
            f"columns {'time, price and volume' if width == len(SHORT) else ', '.join(FULL)}"
        )
    return Layout(named or columns, header is not None)


_COLUMN_NAME = re.compile(r"[^\d]*[^\W\d_][^\d]*")
"""A name that a file of another origin may give a column: a word without digits."""


def _is_header(line: Sequence[str], width: int) -> bool:
    """Whether a first line names columns, possibly all but the last, and is not a damaged row."""
    is_named = _columns_by_header(line, len(line) + 1) is not None
    is_wide_enough = width - 1 <= len(line) <= width or is_named
    return is_named or (is_wide_enough and all(_COLUMN_NAME.fullmatch(field) for field in line))


def _columns_by_content(rows: Sequence[Sequence[str]], width: int) -> tuple[str, ...] | None:
    """The order of three, six or seven columns; None if the rows are something else."""
    usual = SHORT if width == len(SHORT) else FULL
    if width not in (len(SHORT), len(FULL) - 1, len(FULL)):
        return None
    found: dict[int, str] = {}
    for name, words in (("side", SIDES), ("order_type", ORDER_TYPES)):
        fitting = [at for at in range(width) if _nearly_all(rows, at, words.__contains__)]
        if name in usual and len(fitting) != 1:
            return None
        found |= dict.fromkeys(fitting, name)
    time = _time_column(rows, usual)
    if time is None:
        return None
    found[time] = "time"
    free = [at for at in range(width) if at not in found]
    numbers = [at for at in free if _nearly_all(rows, at, _is_number)]
    if width == len(FULL) and len(numbers) == 2 and all(_is_whole(row[free[-1]]) for row in rows):
        numbers.append(free[-1])  # some or all ids are left out
    names = ("price", "volume", "trade_id")[: width - 4 if usual == FULL else 2]
    if len(numbers) < len(names) or len(free) > len(names) + (usual == FULL):
        return None
    found |= dict(zip(numbers, names, strict=False))
    found |= {at: "misc" for at in free if at not in found}
    has_whole_ids = all(
        _is_whole(row[at]) for at, name in found.items() if name == "trade_id" for row in rows
    )
    return tuple(found[at] for at in range(width)) if has_whole_ids else None


def _time_column(rows: Sequence[Sequence[str]], usual: Sequence[str]) -> int | None:
    """The index of the only column that can be times, or the usual index if there are several.

    Args:
        rows: rows with the same number of fields.
        usual: the usual order of the columns.
    """
    fitting = [at for at in range(len(rows[0])) if _nearly_all(rows, at, is_time)]
    if len(fitting) > 1 and usual.index("time") in fitting:
        return usual.index("time")
    return fitting[0] if len(fitting) == 1 else None


def _nearly_all(rows: Sequence[Sequence[str]], column: int, test: Callable[[str], bool]) -> bool:
    """Whether nearly all values of a column pass a test; bad rows are reported later."""
    # In a file of few rows, a single bad row is more than a tenth, and in none more than half are.
    most = min(max(1, len(rows) // 10), (max(1, len(rows)) - 1) // 2)
    failed = (row for row in rows if not test(row[column]))
    # Most columns fail, and most of these in all rows.
    return next(islice(failed, most, None), None) is None


def _is_number(text: str) -> bool:
    return parse_number(text) is not None


def _is_whole(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit())


def _columns_by_header(header: Sequence[str] | None, width: int) -> tuple[str, ...] | None:
    """The columns, if a header names each of them once; None for any other header."""
    names = [_NAMES.get(field.strip().lower(), "") for field in header or ()]
    if len(names) == width - 1 and "trade_id" not in names and width == len(FULL):
        names.append("trade_id")
    is_complete = len(names) == width and len(set(names)) == width and "" not in names
    return tuple(names) if is_complete else None


def _agree(named: Sequence[str], found: Sequence[str]) -> bool:
    """Whether a header agrees with the content, in which price and volume look alike."""
    alike = {"price": "number", "volume": "number"}
    return [alike.get(name, name) for name in named] == [alike.get(name, name) for name in found]


# --- scanning a file ------------------------------------------------------------------------------

MAX_BAD_ROWS_LISTED = 10_000
"""Up to this many bad rows are listed one by one."""


class ScannedFile(NamedTuple):
    """The result of reading a CSV file for the first time.

    Attributes:
        member: the file.
        checksum: of its bytes when it was read.
        layout: its columns; none if it has no rows.
        rows: number of readable rows.
        first_ns: the earliest time; None if there are no readable rows.
        last_ns: the latest time; None if there are no readable rows.
        bad: number of unreadable rows.
        bad_rows: the unreadable rows, up to `MAX_BAD_ROWS_LISTED`.
        bad_times: ranges in which the unreadable rows may have been traded.
        silences: long ranges without rows, in order; see `is_complete`.
        rows_with_id: number of readable rows with a trade id.
        id_runs: its runs of consecutive trade ids, see `IdRunFinder.found`.
        latest_ns: rows of a later time were still to come, by this machine's clock: unreadable.
        is_complete_by_user: whether the user said that it is complete between two times.
        kept: what `batches` returns; None if these rows were not kept in memory.
    """

    member: Member
    checksum: str
    layout: Layout
    rows: int
    first_ns: int | None
    last_ns: int | None
    bad: int
    bad_rows: list[BadRow]
    bad_times: list[Range]
    silences: list[Range]
    rows_with_id: int
    id_runs: Int64s | None
    latest_ns: int
    is_complete_by_user: bool = False
    kept: Sequence[tuple[pa.RecordBatch, int]] | None = None

    @property
    def has_ids(self) -> bool:
        """Whether each row has a trade id. Else the file counts as one without ids."""
        return self.rows_with_id == self.rows

    @property
    def has_ids_in_part(self) -> bool:
        """Whether only some rows have a trade id."""
        return 0 < self.rows_with_id < self.rows

    @property
    def is_complete(self) -> bool:
        """Whether it is known to have every trade of its time, so that its silences are true.

        The user gave both ends, or it is in a ZIP, whose checksum it has, with a name that says so.
        """
        has_name = self.member.period_by_name != NO_KNOWN_PERIOD
        within = _range_by_name(self.member, self.first_ns, self.last_ns)
        is_zipped = self.member.crc is not None and has_name and within != EVERYTHING
        return self.is_complete_by_user or is_zipped

    @property
    def unproved(self) -> list[Range]:
        """The ranges of which the file may lack trades, apart from its unreadable rows."""
        return [] if self.is_complete else self.silences

    @property
    def begins_ns(self) -> int | None:
        """Where the time that the file covers begins: its first row or earlier; None if unknown."""
        since_s = self.member.complete.since_s
        known = [self.first_ns, None if since_s is None else since_s * SECOND]
        return min((at for at in known if at is not None), default=None)

    @property
    def ends_ns(self) -> int:
        """Where the time that the file covers ends: its last row or later; -1 if unknown."""
        until_s, last_ns = self.member.complete.until_s, self.last_ns
        return max(-1 if last_ns is None else last_ns, (until_s or 0) * SECOND - 1)

    def batches(self) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Its rows, kept or read again, batch by batch, each with its bytes in the file.

        Raises:
            DamagedFile: the file can't be read again, or is another one than was scanned.
        """
        for rows, size in self._read() if self.kept is None else self.kept:
            yield _without_ids(rows) if self.has_ids_in_part else rows, size

    def _read(self) -> Iterator[tuple[pa.RecordBatch, int]]:
        for parsed, size in read_rows(self.member, self.layout, self.checksum, self.latest_ns):
            yield parsed.rows, size

    def notes(self) -> Iterator[str]:
        """A sentence about ids that are not imported, if there are any."""
        if self.has_ids_in_part:
            yield (
                f"{self.member}: {self.rows - self.rows_with_id:,} rows have no trade id, so the "
                "ids of the others can't show which trades are missing: none is imported"
            )

    def with_bounds(self, **bounds: int | None) -> ScannedFile:
        """The same file with another `since_s` or `until_s` of the time that it has completely."""
        complete = self.member.complete._replace(**bounds)
        return self._replace(member=self.member._replace(complete=complete))


def _without_ids(rows: pa.RecordBatch) -> pa.RecordBatch:
    at = rows.schema.get_field_index("trade_id")
    return rows.set_column(at, rows.schema.field(at), pa.nulls(rows.num_rows, pa.int64()))


def scan_file(
    member: Member,
    *,
    skip_bad_rows: bool = False,
    keep_rows: bool = False,
    on_bytes: Callable[[int], None] = lambda _bytes: None,
    cancel: CancelToken | None = None,
) -> ScannedFile:
    """Read a file completely: detect its columns, its first and last time, and its bad rows.

    Args:
        member: the file.
        skip_bad_rows: count unreadable rows, instead of failing at the first one.
        keep_rows: keep the rows in memory, to be imported without reading the file again.
        on_bytes: called with the number of bytes read since the last call.
        cancel: cancelled to end the scan.

    Raises:
        DamagedFile: its bytes do not match its checksum.
        BadFile: it contains something else than trades.
        Interrupted: `cancel` was cancelled.
    """
    try:
        return _read_whole(member, skip_bad_rows, keep_rows, on_bytes, cancel)
    except DamagedFile:
        raise
    except BadFile:
        # If a flipped byte made the row unreadable, the error must say so.
        for _ in pieces(member):
            pass
        raise


def _read_whole(
    member: Member,
    skip_bad_rows: bool,
    keep_rows: bool,
    on_bytes: Callable[[int], None],
    cancel: CancelToken | None,
) -> ScannedFile:
    name = str(member)
    check_cancelled(cancel)
    sum_ = checksum(member)
    layout = detect(head(member), name)
    # Coverage up to a later row would hide what is traded until then.
    latest_ns = time.time_ns() + CLOCK_TOLERANCE_NS
    bad_times, silences = UnreadableTimes(layout.columns), SilenceFinder()
    id_runs = IdRunFinder()
    rows_with_id = bad = 0
    bad_rows: list[BadRow] = []
    kept: list[tuple[pa.RecordBatch, int]] = []
    for parsed, size in read_rows(member, layout, sum_, latest_ns):
        check_cancelled(cancel)
        if parsed.bad and not skip_bad_rows:
            raise parsed.bad[0].error(name)
        bad += len(parsed.bad)
        bad_rows += [
            row._replace(file=name) for row in parsed.bad[: MAX_BAD_ROWS_LISTED - len(bad_rows)]
        ]
        bad_times.add(parsed)
        stamps = times(parsed.rows)
        if len(stamps):
            silences.add(stamps)
            rows_with_id += len(stamps) - parsed.rows.column("trade_id").null_count
            if rows_with_id == silences.rows:
                id_runs.add(parsed.rows)
        if keep_rows:
            kept.append((parsed.rows, size))
        on_bytes(size)
    rows, ends = silences.rows, (silences.first_ns, silences.latest_ns)
    first_ns, last_ns = ends if rows else (None, None)
    within = _range_by_name(member, first_ns, last_ns)
    return ScannedFile(
        member,
        sum_,
        layout,
        rows,
        first_ns,
        last_ns,
        bad,
        bad_rows,
        bad_times.ranges(within),
        silences.found(within),
        rows_with_id,
        id_runs.found() if rows_with_id == rows else NO_RUNS,
        latest_ns,
        kept=kept if keep_rows else None,
    )


def read_rows(
    member: Member, layout: Layout, sum_: str, latest_ns: int
) -> Iterator[tuple[Parsed, int]]:
    """Read the rows of a file block by block, each with the block's size in bytes.

    Args:
        member: the file.
        layout: its columns.
        sum_: its checksum.
        latest_ns: rows of a later time are unreadable.

    Raises:
        DamagedFile: it can't be read, or does not match its checksum.
        BadFile: its rows are not in order of time.
    """
    name, line, reached_ns = str(member), 1, -1
    for block in blocks(member, sum_):
        text = block.removeprefix(BOM_UTF8) if line == 1 else block
        if line == 1 and layout.has_header:
            text, line = text.partition(b"\n")[2], 2
        parsed = parse(text, layout, line, latest_ns)
        reached_ns = check_order(name, parsed, line, reached_ns)
        line += parsed.line_count
        yield parsed, len(block)


def check_cancelled(cancel: CancelToken | None) -> None:
    """Raise Interrupted if `cancel` is set."""
    if cancel is not None and cancel.is_cancelled:
        raise Interrupted


def _range_by_name(member: Member, first_ns: int | None, last_ns: int | None) -> Range:
    """The range that all rows of a file are in by its name; everything if a row is outside."""
    since_s, until_s = member.complete
    after = 0 if since_s is None else since_s * SECOND - 1
    through = END_OF_TIME if until_s is None else until_s * SECOND - 1
    is_right = first_ns is None or last_ns is None or after < first_ns <= last_ns <= through
    return Range(after, through) if is_right else EVERYTHING
