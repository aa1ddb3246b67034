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

# --- layout ---------------------------------------------------------------------------------------

SAMPLE_LINES = 1_000

PLAIN = ("time", "price", "volume")
WHOLE = ("price", "volume", "time", "side", "order_type", "misc", "trade_id")
"""The columns in the places that the exchange gives them; content decides before that."""

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
    """The columns of a file in their order, by the names of `columns.ROWS`; none: it is empty."""

    columns: tuple[str, ...]
    has_header: bool

    def __str__(self) -> str:
        """The layout for people: `time,price,volume without header`."""
        if not self.columns:
            return "no rows"
        return f"{','.join(self.columns)} with{'' if self.has_header else 'out'} header"


def number(text: str) -> Decimal | None:
    """The number that a text is, exactly; None for anything else."""
    try:
        return Decimal(text) if text and _NUMBER.fullmatch(text) else None
    except InvalidOperation:
        return None


def is_time(text: str) -> bool:
    """Whether a text can be UNIX seconds of a trade: from 2011, before 2262."""
    seconds = number(text)
    return seconds is not None and BEGINNING_NS <= seconds * SECOND <= END_OF_TIME


def detect(sample: bytes, name: str) -> Layout:
    """Find out what a file's columns are from its first lines.

    Args:
        sample: whole lines from the file's beginning.
        name: the file's, for messages.

    A file without a row is one of a pair that was not traded, a header or not.

    Raises:
        BadFile: it is neither of three nor of six or seven columns that can be a trade.
    """
    try:
        lines = [line for line in csv.reader(sample.decode().splitlines()[:SAMPLE_LINES]) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFile(f"{name} is no CSV text ({error}): nothing of it was imported") from error
    width = Counter(map(len, lines)).most_common(1)[0][0] if lines else 0
    header = lines[0] if lines and _is_header(lines[0], width) else None
    rows = lines[1:] if header else lines
    if not rows:
        if header and not (_named(header, len(header)) or _named(header, len(header) + 1)):
            raise BadFile(f"{name} holds no trades: nothing of it was imported")
        return Layout((), header is not None)
    width = Counter(map(len, rows)).most_common(1)[0][0]
    # A broken row is told with its line where rows are read; here the sound ones count.
    sound = [row for row in rows if len(row) == width]
    columns = _of_three(sound) if width == len(PLAIN) else _of_seven(sound, width)
    named = _named(header, width)
    if columns is None or (named and not _agree(named, columns)):
        raise BadFile(
            f"{name} begins {','.join(rows[0])!r}, which is neither time, price, volume nor price, "
            "volume, time, b/s, m/l, misc, trade id: give Kraken's files of trades"
        )
    return Layout(named or columns, header is not None)


def _is_header(line: Sequence[str], width: int) -> bool:
    """Whether a first line names columns, maybe all but the last; a broken row has some number."""
    is_wide_enough = width - 1 <= len(line) <= width or _named(line, len(line) + 1) is not None
    return is_wide_enough and not any(_is_number(field.strip()) for field in line)


def _of_three(rows: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    place = _time_place(rows, PLAIN)
    if place is None or not _hold(rows, range(len(PLAIN)), _is_number):
        return None
    rest = iter(("price", "volume"))
    return tuple("time" if at == place else next(rest) for at in range(len(PLAIN)))


def _of_seven(rows: Sequence[Sequence[str]], width: int) -> tuple[str, ...] | None:
    if width not in (len(WHOLE) - 1, len(WHOLE)):
        return None
    found: dict[int, str] = {}
    for name, words in (("side", SIDES), ("order_type", ORDER_TYPES)):
        places = [at for at in range(width) if _hold(rows, [at], words.__contains__)]
        if len(places) != 1:
            return None
        found[places[0]] = name
    time = _time_place(rows, WHOLE)
    if time is None:
        return None
    found[time] = "time"
    free = [at for at in range(width) if at not in found]
    numbers = [at for at in free if _hold(rows, [at], _is_number)]
    if len(numbers) < width - 4 or len(free) != width - 3:
        return None
    names = ("price", "volume", "trade_id")[: width - 4]
    found |= dict(zip(numbers, names, strict=False))
    found |= {at: "misc" for at in free if at not in found}
    whole = all(
        _is_whole(row[at]) for at, name in found.items() if name == "trade_id" for row in rows
    )
    return tuple(found[at] for at in range(width)) if whole else None


def _time_place(rows: Sequence[Sequence[str]], usual: Sequence[str]) -> int | None:
    """Where times stand: the one column that can be times, or of several the usual one."""
    places = [at for at in range(len(rows[0])) if _hold(rows, [at], is_time)]
    if len(places) > 1 and usual.index("time") in places:
        return usual.index("time")
    return places[0] if len(places) == 1 else None


def _hold(
    rows: Iterable[Sequence[str]], places: Iterable[int], test: Callable[[str], bool]
) -> bool:
    """Whether nearly all values of some columns pass a test: a broken row is told later."""
    values = [row[at] for at in places for row in rows]
    failed = len(values) - sum(map(test, values))
    # In a file of few rows a single broken one is more than a tenth.
    return failed <= max(1, len(values) // 10) and 2 * failed < max(1, len(values))


def _is_number(text: str) -> bool:
    return number(text) is not None


def _is_whole(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit())


def _named(header: Sequence[str] | None, width: int) -> tuple[str, ...] | None:
    """The columns by a header that names each of them once; None for any other header."""
    names = [_NAMES.get(field.strip().lower(), "") for field in header or ()]
    if len(names) == width - 1 and "trade_id" not in names and width == len(WHOLE):
        names.append("trade_id")
    known = len(names) == width and len(set(names)) == width and "" not in names
    return tuple(names) if known else None


def _agree(named: Sequence[str], found: Sequence[str]) -> bool:
    """Whether a header says what the content does; price and volume look alike."""
    alike = {"price": "number", "volume": "number"}
    return [alike.get(one, one) for one in named] == [alike.get(one, one) for one in found]
