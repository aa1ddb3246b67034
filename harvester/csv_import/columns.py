"""Detect the columns of a CSV file, from its content or its header."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from harvester.errors import BadFile
from harvester.times import BEGINNING_NS, END_OF_TIME, SECOND

SAMPLE_LINES = 1_000

SHORT = ("time", "price", "volume")
FULL = ("price", "volume", "time", "side", "order_type", "misc", "trade_id")
"""The usual order of the columns in Kraken's files. The content of a file goes before it."""

SIDES = {"b": "buy", "s": "sell", "buy": "buy", "sell": "sell"}
ORDER_TYPES = {"m": "market", "l": "limit", "market": "market", "limit": "limit"}

_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]*(?:[eE][-+]?[0-9]+)?", re.ASCII)
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


class Layout(NamedTuple):
    """The columns of a file.

    Attributes:
        columns: their names in `schema.ROWS`, in order; none if the file has no rows.
        has_header: whether the first line has names instead of a trade.
    """

    columns: tuple[str, ...]
    has_header: bool

    def __str__(self) -> str:
        """The layout as text: `time,price,volume without header`."""
        if not self.columns:
            return "no rows"
        return f"{','.join(self.columns)} with{'' if self.has_header else 'out'} header"


def number(text: str) -> Decimal | None:
    """Parse a number exactly; None if the text is not a number."""
    try:
        return Decimal(text) if text and _NUMBER.fullmatch(text) else None
    except InvalidOperation:
        return None


def is_time(text: str) -> bool:
    """Whether a text can be the time of a trade in UNIX seconds: from 2011 to 2262."""
    seconds = number(text)
    return seconds is not None and BEGINNING_NS <= seconds * SECOND <= END_OF_TIME


def detect(sample: bytes, name: str) -> Layout:
    """Detect the columns of a file from its first lines.

    A file without rows, with or without a header, is one of a pair that was not traded.

    Args:
        sample: complete lines from the beginning of the file.
        name: the name of the file, for messages.

    Raises:
        BadFile: it does not have the three, or the six or seven columns of a trade.
    """
    try:
        lines = [line for line in csv.reader(sample.decode().splitlines()[:SAMPLE_LINES]) if line]
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
    columns = _detect_three(regular) if width == len(SHORT) else _detect_seven(regular, width)
    named = _columns_by_header(header, width)
    if columns is None or (named and not _agree(named, columns)):
        raise BadFile(
            f"{name} begins {','.join(rows[0])!r}, which is neither time, price, volume nor price, "
            "volume, time, b/s, m/l, misc, trade id: give Kraken's files of trades"
        )
    return Layout(named or columns, header is not None)


def _is_header(line: Sequence[str], width: int) -> bool:
    """Whether a first line names columns, possibly all but the last. A bad row has some number."""
    is_named = _columns_by_header(line, len(line) + 1) is not None
    is_wide_enough = width - 1 <= len(line) <= width or is_named
    return is_wide_enough and not any(_is_number(field.strip()) for field in line)


def _detect_three(rows: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    """The order of time, price and volume; None if the rows are something else."""
    time = _time_column(rows, SHORT)
    if time is None or not _nearly_all(rows, range(len(SHORT)), _is_number):
        return None
    rest = iter(("price", "volume"))
    return tuple("time" if at == time else next(rest) for at in range(len(SHORT)))


def _detect_seven(rows: Sequence[Sequence[str]], width: int) -> tuple[str, ...] | None:
    """The order of six or seven columns; None if the rows are something else."""
    if width not in (len(FULL) - 1, len(FULL)):
        return None
    found: dict[int, str] = {}
    for name, words in (("side", SIDES), ("order_type", ORDER_TYPES)):
        fitting = [at for at in range(width) if _nearly_all(rows, [at], words.__contains__)]
        if len(fitting) != 1:
            return None
        found[fitting[0]] = name
    time = _time_column(rows, FULL)
    if time is None:
        return None
    found[time] = "time"
    free = [at for at in range(width) if at not in found]
    numbers = [at for at in free if _nearly_all(rows, [at], _is_number)]
    if len(numbers) < width - 4 or len(free) != width - 3:
        return None
    names = ("price", "volume", "trade_id")[: width - 4]
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
    fitting = [at for at in range(len(rows[0])) if _nearly_all(rows, [at], is_time)]
    if len(fitting) > 1 and usual.index("time") in fitting:
        return usual.index("time")
    return fitting[0] if len(fitting) == 1 else None


def _nearly_all(
    rows: Iterable[Sequence[str]], columns: Iterable[int], test: Callable[[str], bool]
) -> bool:
    """Whether nearly all values of some columns pass a test; bad rows are reported later."""
    values = [row[at] for at in columns for row in rows]
    failed = len(values) - sum(map(test, values))
    # In a file of few rows, a single bad row is more than a tenth.
    return failed <= max(1, len(values) // 10) and 2 * failed < max(1, len(values))


def _is_number(text: str) -> bool:
    return number(text) is not None


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
