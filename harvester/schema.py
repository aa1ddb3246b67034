"""The Arrow schema of trades, and operations on batches of it: slicing, order, merging, checksum.

`kraken` produces and `storage` writes these batches, without knowing each other. Rows are Arrow
record batches all the way, so that no digit is ever turned into a float.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.times import Range

# --- Rows of a page -------------------------------------------------------------------------------

PRICE = pa.decimal128(18, 10)
VOLUME = pa.decimal128(22, 8)
TEXT_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
SUM_OF_VOLUMES = pa.decimal128(38, VOLUME.scale)
SUM_OF_VALUES = pa.decimal128(38, PRICE.scale + VOLUME.scale)
"""A value is a price times a volume: the scale keeps all digits of the product."""

SIDES = pa.array(["buy", "sell"], pa.string())
ORDER_TYPES = pa.array(["market", "limit"], pa.string())

PAGE_SCHEMA = pa.schema(
    [
        pa.field("trade_id", pa.int64()),
        pa.field("time", pa.timestamp("ns"), nullable=False),
        pa.field("price", PRICE, nullable=False),
        pa.field("volume", VOLUME, nullable=False),
        pa.field("side", TEXT_DICTIONARY),
        pa.field("order_type", TEXT_DICTIONARY),
        pa.field("misc", pa.string()),
    ]
)
"""The rows of a page: trades without the index `tie` among trades of equal time."""

Int64s = NDArray[np.int64]

NO_ROWS = pa.RecordBatch.from_pylist([], schema=PAGE_SCHEMA)


def times(batch: pa.RecordBatch) -> Int64s:
    """The published times in nanoseconds; shape (rows,), a view without a copy."""
    return int64_view(batch.column("time"))


def trade_ids(batch: pa.RecordBatch) -> Int64s:
    """The trade ids, 0 where there is none; shape (rows,)."""
    ids = batch.column("trade_id")
    return int64_view(ids.fill_null(0) if ids.null_count else ids)


def int64_view(values: pa.Array) -> Int64s:
    """A 64-bit column as a numpy view of its buffer; four times as fast as pyarrow's own way."""
    if len(values) == 0:
        return np.empty(0, dtype=np.int64)
    words = np.frombuffer(values.buffers()[1], dtype=np.int64)
    return words[values.offset : values.offset + len(values)]


def decimal_words(values: pa.Array) -> tuple[Int64s, Int64s]:
    """The low and high 64 bits of a decimal128 array's unscaled integers; shapes (rows,)."""
    words = np.frombuffer(values.buffers()[1], dtype=np.int64)
    words = words[2 * values.offset : 2 * (values.offset + len(values))]
    return words[::2], words[1::2]


def decimal_array(kind: pa.Decimal128Type, unscaled: Int64s) -> pa.Array:
    """A decimal array of type `kind` from unscaled 64-bit integers of 0 or more; no nulls."""
    words = np.zeros((len(unscaled), 2), dtype=np.int64)
    words[:, 0] = unscaled
    return pa.Array.from_buffers(kind, len(unscaled), [None, pa.py_buffer(words)])


def int64s_as(kind: pa.DataType, numbers: Int64s) -> pa.Array:
    """An array of a 64-bit type `kind` from integers, without a copy; no nulls."""
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def empty_strings(rows: int) -> pa.Array:
    """A string array of so many empty strings; no nulls."""
    offsets = pa.py_buffer(np.zeros(rows + 1, dtype=np.int32))
    return pa.Array.from_buffers(pa.string(), rows, [None, offsets, pa.py_buffer(b"")])


def joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Concatenate batches and unify their dictionaries; nothing is copied if only one has rows."""
    filled = [batch for batch in batches if batch.num_rows] or batches
    if len(filled) > 1:
        return pa.concat_batches(filled)
    return filled[0] if filled else NO_ROWS


def clip(batch: pa.RecordBatch, within: Range) -> pa.RecordBatch:
    """The rows of a batch that were published in a range; the batch must be ordered by time."""
    stamps = times(batch)
    start = int(stamps.searchsorted(within.after, side="right"))
    stop = int(stamps.searchsorted(within.through, side="right"))
    return batch.slice(start, stop - start)


def split_at(
    batches: list[pa.RecordBatch], through: int
) -> tuple[list[pa.RecordBatch], list[pa.RecordBatch]]:
    """Split ordered batches into the rows published up to `through` and those after it.

    Args:
        batches: rows in order of time.
        through: the last time of the first part, UNIX nanoseconds.

    Returns both parts; no batch in them is empty.
    """
    batches = [batch for batch in batches if batch.num_rows]
    at = bisect_right(batches, through, key=lambda batch: int(times(batch)[-1]))
    upto, after = batches[:at], batches[at:]
    if after:
        count = int(times(after[0]).searchsorted(through, side="right"))
        if count:
            upto.append(after[0].slice(0, count))
            after[0] = after[0].slice(count)
    return upto, after


# --- Trades of a segment --------------------------------------------------------------------------

# docs/format.md is the specification, for other readers.

FORMAT = 1

SEGMENT_SCHEMA = pa.schema(
    [
        PAGE_SCHEMA.field("trade_id"),
        PAGE_SCHEMA.field("time"),
        pa.field("tie", pa.int32(), nullable=False),
        PAGE_SCHEMA.field("price"),
        PAGE_SCHEMA.field("volume"),
        PAGE_SCHEMA.field("side"),
        PAGE_SCHEMA.field("order_type"),
        pa.field("misc", TEXT_DICTIONARY),
    ]
)
"""The rows of a segment: one per trade, in the trade history's order: by `time`, then `tie`."""

ROW_GROUP_ROWS = 122_880
STEP_ROWS = 32_768
"""Rows that are processed at a time: 1.7 MB of checksum records."""

_RECORD = np.dtype(
    [
        ("has_id", "u1"),
        ("trade_id", "<i8"),
        ("time", "<i8"),
        ("tie", "<i4"),
        ("price", "<i8"),
        ("volume_low", "<i8"),
        ("volume_high", "<i8"),
        ("side", "u1"),
        ("order_type", "u1"),
        ("misc_bytes", "<u4"),
    ]
)
_NULL_MISC = 0xFFFF_FFFF
_KNOWN = {"side": SIDES, "order_type": ORDER_TYPES}


def tie_indexes(stamps: Int64s) -> Int64s:
    """Each row's index among its neighbours of equal time, from 0; shape (rows,)."""
    indexes = np.arange(len(stamps), dtype=np.int64)
    is_first = np.ones(len(stamps), dtype=bool)
    is_first[1:] = stamps[1:] != stamps[:-1]
    result: Int64s = indexes - np.maximum.accumulate(np.where(is_first, indexes, 0))
    return result


def with_ties(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn ordered batches of `PAGE_SCHEMA` into batches of `SEGMENT_SCHEMA`: add the column `tie`.

    Trades of equal time may be spread over several batches. Results have at most `STEP_ROWS` rows.
    One batch of 250,000 rows takes twice as long, nearly all of it for new memory pages.
    """
    last_ns, last_tie = None, 0
    for rows in map(joined, regrouped(batches, STEP_ROWS)):
        stamps = times(rows)
        indexes = tie_indexes(stamps)
        if stamps[0] == last_ns:
            indexes[: stamps.searchsorted(stamps[0], side="right")] += last_tie + 1
        last_ns, last_tie = stamps[-1], int(indexes[-1])
        tie = pa.array(indexes.astype(np.int32))
        columns = [tie if name == "tie" else rows.column(name) for name in SEGMENT_SCHEMA.names]
        columns[-1] = columns[-1].dictionary_encode()
        yield pa.RecordBatch.from_arrays(columns, schema=SEGMENT_SCHEMA)


def regrouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[list[pa.RecordBatch]]:
    """Yield lists of batches with `rows` rows in total; the last list may have fewer.

    Rows are sliced, not copied. No list is empty, and no batch in one is.
    """
    waiting: list[pa.RecordBatch] = []
    left = rows
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            waiting.append(batch.slice(start, left))
            start += waiting[-1].num_rows
            left -= waiting[-1].num_rows
            if not left:
                yield waiting
                waiting, left = [], rows
    if waiting:
        yield waiting


class RowsChecksum:
    """SHA-256 of trades, independent of how they are encoded, split into files or downloaded.

    Each row is hashed as one record of 51 bytes, little-endian: a byte that says whether there is
    an id, the id (int64, 0 if none), time (int64, ns), tie (int32), price (int64, units of 1e-10),
    volume (int128, units of 1e-8), side (byte: 0 null, 1 buy, 2 sell), order type (byte: 0 null,
    1 market, 2 limit), misc's length in bytes (uint32, all ones for null), then misc's UTF-8.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch] = ()) -> None:
        """Start with the rows of some batches of `SEGMENT_SCHEMA`."""
        self._hash = hashlib.sha256()
        self.rows = 0
        for batch in batches:
            self.update(batch)

    def update(self, trades: pa.RecordBatch) -> None:
        """Add the next rows, a batch of `SEGMENT_SCHEMA`."""
        for start in range(0, trades.num_rows, STEP_ROWS):
            part = trades.slice(start, STEP_ROWS)
            records, has_texts = _records(part)
            self.rows += len(records)
            if has_texts:
                for record, misc in zip(records, part.column("misc").to_pylist(), strict=True):
                    self._hash.update(record.tobytes() + (misc or "").encode())
            else:
                self._hash.update(records.data)

    def hexdigest(self) -> str:
        """The checksum of all rows that were added, in hexadecimal."""
        return self._hash.hexdigest()


def _records(trades: pa.RecordBatch) -> tuple[np.ndarray[Any, np.dtype[np.void]], bool]:
    """The records of rows, and whether the text of any misc is to be hashed after its record."""
    # Columns that are null in all rows stay zero: imported trades have no ids and no sides.
    records = np.zeros(trades.num_rows, dtype=_RECORD)
    ids = trades.column("trade_id")
    if ids.null_count < len(ids):
        records["trade_id"] = trade_ids(trades)
        records["has_id"] = ids.is_valid().to_numpy(zero_copy_only=False) if ids.null_count else 1
    records["time"] = times(trades)
    records["tie"] = trades.column("tie").to_numpy()
    # A decimal of 18 digits fits in its low word, including the sign.
    records["price"] = decimal_words(trades.column("price"))[0]
    records["volume_low"], high = decimal_words(trades.column("volume"))
    if high.any():
        records["volume_high"] = high
    for name, known in _KNOWN.items():
        words = trades.column(name)
        if words.null_count < len(words):
            records[name] = _codes(words, known)
    misc = trades.column("misc")
    lengths = pc.binary_length(misc.dictionary).cast(pa.uint32())
    has_texts = bool(pc.max(lengths).as_py())
    if misc.null_count == len(misc):
        records["misc_bytes"] = _NULL_MISC
    elif misc.null_count or has_texts:
        sizes = lengths.take(misc.indices).fill_null(_NULL_MISC)
        records["misc_bytes"] = sizes.to_numpy(zero_copy_only=False)
    return records, has_texts


def check_texts(trades: pa.RecordBatch) -> None:
    """Check that the columns of texts have values that a trade can have; a few microseconds.

    Args:
        trades: rows of a file that may be damaged, with all columns of `SEGMENT_SCHEMA` or some.

    Raises:
        pyarrow.ArrowInvalid: a text is not UTF-8, or is no side or order type.
    """
    for name in ("side", "order_type", "misc"):
        if name not in trades.schema.names:
            continue
        words = trades.column(name)
        words.validate(full=True)
        for text in words.dictionary.to_pylist() if name in _KNOWN else ():
            if text not in _KNOWN[name].to_pylist():
                raise pa.ArrowInvalid(f"{name} has the unknown value {text!r}")


def _codes(words: pa.DictionaryArray, known: pa.Array) -> Int64s:
    """The index of each value in `known`, from 1; 0 for null."""
    positions = pc.add(pc.index_in(words.dictionary, value_set=known), 1)
    if positions.null_count:
        raise ValueError(f"unknown values among {words.dictionary}")
    codes: Int64s
    if words.null_count:
        codes = positions.take(words.indices).fill_null(0).to_numpy(zero_copy_only=False)
    else:
        codes = positions.to_numpy()[words.indices.to_numpy()]
    return codes


# --- Order and merging ----------------------------------------------------------------------------


def sort_rows(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Sort rows into the trade history's order (time, trade id, given order) and drop repeats.

    A row repeats another if both have an id and all fields are equal. Two rows of equal id and time
    that differ in another field are two trades. A row without an id stays after the row that it
    followed.
    """
    stamps, ids = times(rows), trade_ids(rows)
    is_ascending = bool((stamps[1:] >= stamps[:-1]).all())
    if is_ascending and (ids[1:] > ids[:-1]).all() and (ids[:1] > 0).all():
        # True for nearly every page: each id is above the one before.
        return rows
    if not is_ascending:
        rows = rows.take(pa.array(np.argsort(stamps, kind="stable")))
        stamps = times(rows)
    keys = _carry_ids(trade_ids(rows), stamps)
    later, equal = stamps[1:] > stamps[:-1], stamps[1:] == stamps[:-1]
    if not (later | (equal & (keys[1:] >= keys[:-1]))).all():
        rows = rows.take(pa.array(np.lexsort((keys, stamps))))
        stamps = times(rows)
    repeats = _repeats(rows, trade_ids(rows), stamps)
    return rows.filter(pa.array(~repeats)) if repeats.any() else rows


def merge_rows(known: pa.RecordBatch, new: pa.RecordBatch) -> pa.RecordBatch:
    """Merge two answers about the same trades: keep each distinct row as often as either has it.

    Merging with the same answer again changes nothing. Equal rows without an id are several trades;
    an answer with fewer of them shows a smaller part of their group. A row without an id is the row
    of the other answer that has one and equals it otherwise.

    Args:
        known: one answer's rows, sorted by `sort_rows`.
        new: the other answer's rows, sorted as well.
    """
    if known.num_rows == 0 or new.num_rows == 0:
        return new if known.num_rows == 0 else known
    if known.column("trade_id").null_count or new.column("trade_id").null_count:
        known, new = _with_ids_of(new, known), _with_ids_of(known, new)
    base, other = (new, known) if new.num_rows >= known.num_rows else (known, new)
    if base.slice(0, other.num_rows).equals(other):
        return base
    surplus = Counter(_values(base, np.arange(base.num_rows)))
    added = []
    for index, values in enumerate(_values(other, np.arange(other.num_rows))):
        if surplus[values]:
            surplus[values] -= 1
        else:
            added.append(index)
    if not added:
        return base
    more = np.array(added)
    stamps = np.concatenate((times(base), times(other)[more]))
    # Keys are computed per answer: a row without an id stays after the row it followed there.
    known_keys, new_keys = (_carry_ids(trade_ids(rows), times(rows)) for rows in (known, new))
    is_first = times(new) == times(new)[0]
    if not new_keys[is_first].any():
        # The later answer may have begun within a group of one time, after its rows with ids.
        new_keys = np.where(is_first, np.iinfo(np.int64).max, new_keys)
    base_keys, other_keys = (new_keys, known_keys) if base is new else (known_keys, new_keys)
    keys = np.concatenate([base_keys, other_keys[more]])
    rows = joined([base, other.take(pa.array(more))])
    return rows.take(pa.array(np.lexsort((keys, stamps))))


def _with_ids_of(other: pa.RecordBatch, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Give rows without an id the ids that equal rows of another answer have.

    Each id is given once, and only between the ids that the row's own answer shows at its time.
    """
    ids, stamps = trade_ids(rows), times(rows)
    if ids.all() or not trade_ids(other).any():
        return rows
    own, ids = set(zip(ids.tolist(), stamps.tolist(), strict=True)), ids.copy()
    free: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for trade_id, *fields in _values(other, np.arange(other.num_rows)):
        if trade_id and (trade_id, fields[0]) not in own:
            free[*fields].append(trade_id)
    lows, highs = _carry_ids(ids, stamps), _carry_ids(ids[::-1], stamps[::-1])[::-1]
    places = (ids == 0).nonzero()[0]
    for place, (_, *fields) in zip(places.tolist(), _values(rows, places), strict=True):
        low, high = lows[place], highs[place] or np.iinfo(np.int64).max
        found = next((trade_id for trade_id in free[*fields] if low < trade_id < high), 0)
        if found:
            free[*fields].remove(found)
            ids[place] = found
    return sort_rows(rows.set_column(0, rows.schema.field(0), pa.array(ids, mask=ids == 0)))


def _repeats(rows: pa.RecordBatch, ids: Int64s, stamps: Int64s) -> NDArray[np.bool_]:
    """Mark the rows that have an id and equal an earlier row in every field."""
    repeats = np.zeros(len(ids), dtype=np.bool_)
    order = np.lexsort((ids, stamps))
    ids, stamps = ids[order], stamps[order]
    twins = (ids[1:] == ids[:-1]) & (stamps[1:] == stamps[:-1]) & (ids[1:] != 0)
    if not twins.any():
        return repeats
    # In the given order: the later one is the repeat.
    indexes = np.unique(order[np.concatenate((twins, [False])) | np.concatenate(([False], twins))])
    seen = set()
    for index, values in zip(indexes, _values(rows, indexes), strict=True):
        repeats[index] = values in seen
        seen.add(values)
    return repeats


def _values(rows: pa.RecordBatch, indexes: Int64s) -> list[tuple[Any, ...]]:
    """All fields of the rows at some indexes, as comparable tuples."""
    some = rows.take(pa.array(indexes))
    rest = (column.to_pylist() for column in some.drop_columns(["trade_id", "time"]).columns)
    return list(zip(trade_ids(some).tolist(), times(some).tolist(), *rest, strict=True))


def _carry_ids(ids: Int64s, stamps: Int64s) -> Int64s:
    """Each row's id; without one, that of the nearest earlier row of the same time."""
    if ids.all():
        return ids
    is_anchor = ids != 0
    is_anchor[0] = True
    is_anchor[1:] |= stamps[1:] != stamps[:-1]
    carried: Int64s = ids[np.maximum.accumulate(np.where(is_anchor, np.arange(len(ids)), 0))]
    return carried
