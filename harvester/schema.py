"""The schema of trades in Arrow: columns, checks, order, merging, and the checksum of rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.times import Range

# --- columns --------------------------------------------------------------------------------------

# The exchange's room and the archive's know nothing of each other; they meet in these types. Rows
# are Arrow record batches all the way, so that no digit is ever turned into a float.

PRICE = pa.decimal128(18, 10)
VOLUME = pa.decimal128(22, 8)
WORD = pa.dictionary(pa.int32(), pa.string())
SUM_OF_VOLUMES = pa.decimal128(38, VOLUME.scale)
SUM_OF_VALUES = pa.decimal128(38, PRICE.scale + VOLUME.scale)
"""A value is a price times a volume: no digit of the product is lost."""

SIDES = pa.array(["buy", "sell"])
ORDER_TYPES = pa.array(["market", "limit"])

ROWS = pa.schema(
    [
        pa.field("trade_id", pa.int64()),
        pa.field("time", pa.timestamp("ns"), nullable=False),
        pa.field("price", PRICE, nullable=False),
        pa.field("volume", VOLUME, nullable=False),
        pa.field("side", WORD),
        pa.field("order_type", WORD),
        pa.field("misc", pa.string()),
    ]
)
"""The rows of a page: a trade without its place in the tape."""

Int64s = NDArray[np.int64]

_NO_ROWS = pa.RecordBatch.from_pylist([], schema=ROWS)


def no_rows() -> pa.RecordBatch:
    """A batch of no trades."""
    return _NO_ROWS


def times(batch: pa.RecordBatch) -> Int64s:
    """The published times in nanoseconds; shape (rows,), a view without a copy."""
    return _words(batch.column("time"))


def trade_ids(batch: pa.RecordBatch) -> Int64s:
    """The trade ids, 0 where there is none; shape (rows,)."""
    ids = batch.column("trade_id")
    return _words(ids.fill_null(0) if ids.null_count else ids)


def _words(values: pa.Array) -> Int64s:
    """Whole numbers of 64 bits as they lie in memory, in a quarter of pyarrow's own time."""
    if len(values) == 0:
        return np.empty(0, dtype=np.int64)
    words = np.frombuffer(values.buffers()[1], dtype=np.int64)
    return words[values.offset : values.offset + len(values)]


def decimal_words(values: pa.Array) -> tuple[Int64s, Int64s]:
    """A decimal128 array as its unscaled integers' low and high 64 bits; shapes (rows,)."""
    words = np.frombuffer(values.buffers()[1], dtype=np.int64)
    words = words[2 * values.offset : 2 * (values.offset + len(values))]
    return words[::2], words[1::2]


def decimals_of(kind: pa.Decimal128Type, unscaled: Int64s) -> pa.Array:
    """Decimals of unscaled integers of 64 bits, none of them below 0; no null."""
    words = np.zeros((len(unscaled), 2), dtype=np.int64)
    words[:, 0] = unscaled
    return pa.Array.from_buffers(kind, len(unscaled), [None, pa.py_buffer(words)])


def int64s_as(kind: pa.DataType, numbers: Int64s) -> pa.Array:
    """Integers of 64 bits as a type that is stored so, without a copy; no null."""
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def empty_texts(rows: int) -> pa.Array:
    """So many empty texts; none is null."""
    offsets = pa.py_buffer(np.zeros(rows + 1, dtype=np.int32))
    return pa.Array.from_buffers(pa.string(), rows, [None, offsets, pa.py_buffer(b"")])


def joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Several batches as one, in order; words of different dictionaries are unified."""
    if len(batches) == 1:
        return batches[0]
    if not batches:
        return no_rows()
    return pa.concat_batches(batches)


def clip(batch: pa.RecordBatch, within: Range) -> pa.RecordBatch:
    """The rows published in a range, of a batch ordered by time."""
    stamps = times(batch)
    start = int(stamps.searchsorted(within.after, side="right"))
    stop = int(stamps.searchsorted(within.through, side="right"))
    return batch.slice(start, stop - start)


def cut(
    batches: list[pa.RecordBatch], through: int
) -> tuple[list[pa.RecordBatch], list[pa.RecordBatch]]:
    """Rows in order as those published up to a time, and those after it; no batch is empty."""
    upto: list[pa.RecordBatch] = []
    behind: list[pa.RecordBatch] = []
    for batch in batches:
        count = int(times(batch).searchsorted(through, side="right"))
        if count:
            upto.append(batch.slice(0, count))
        if count < batch.num_rows:
            behind.append(batch.slice(count))
    return upto, behind


# --- schema ---------------------------------------------------------------------------------------

# docs/format.md tells the same in words, for whoever writes another reader.

FORMAT = 1

TRADES = pa.schema(
    [
        ROWS.field("trade_id"),
        ROWS.field("time"),
        pa.field("tie", pa.int32(), nullable=False),
        ROWS.field("price"),
        ROWS.field("volume"),
        ROWS.field("side"),
        ROWS.field("order_type"),
        pa.field("misc", WORD),
    ]
)
"""One row a trade, in the tape's order: by `time`, then `tie`."""

ROW_GROUP_ROWS = 122_880
STEP_ROWS = 32_768
"""So many rows are turned into records at a time: 1.7 MB of them."""

WRITER_OPTIONS: dict[str, Any] = {
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": ["side", "order_type", "misc"],
    "column_encoding": {
        "trade_id": "DELTA_BINARY_PACKED",
        "time": "DELTA_BINARY_PACKED",
        "tie": "DELTA_BINARY_PACKED",
        "price": "DELTA_BINARY_PACKED",
    },
    "store_decimal_as_integer": True,
    "write_statistics": True,
}

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


def ties(stamps: Int64s) -> Int64s:
    """Each row's place among its neighbours of equal time, from 0; shape (rows,)."""
    places = np.arange(len(stamps), dtype=np.int64)
    begins = np.ones(len(stamps), dtype=bool)
    begins[1:] = stamps[1:] != stamps[:-1]
    result: Int64s = places - np.maximum.accumulate(np.where(begins, places, 0))
    return result


def trades_of(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same of rows in several batches, a group cut or not; some thousands of rows at a time.

    Small pieces fit memory that was just used, and let go of what is not theirs alone sooner:
    one piece of 250,000 rows costs twice the time, nearly all of it for fresh pages of memory.
    """
    last_ns, last_tie = None, 0
    for rows in _in_steps(batches):
        stamps = times(rows)
        places = ties(stamps)
        if stamps[0] == last_ns:
            places[: stamps.searchsorted(stamps[0], side="right")] += last_tie + 1
        last_ns, last_tie = stamps[-1], int(places[-1])
        yield _with_ties(rows, places)


def _in_steps(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of about `STEP_ROWS`; none is empty."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        for start in range(0, batch.num_rows, STEP_ROWS):
            part = batch.slice(start, STEP_ROWS)
            if rows + part.num_rows > STEP_ROWS:
                yield joined(waiting)
                waiting, rows = [], 0
            waiting.append(part)
            rows += part.num_rows
    if rows:
        yield joined(waiting)


def _with_ties(rows: pa.RecordBatch, places: Int64s) -> pa.RecordBatch:
    tie = pa.array(places.astype(np.int32))
    columns = [tie if name == "tie" else rows.column(name) for name in TRADES.names]
    columns[-1] = columns[-1].dictionary_encode()
    return pa.RecordBatch.from_arrays(columns, schema=TRADES)


class RowsChecksum:
    """SHA-256 over the logical rows: the same however they are encoded, cut or fetched.

    Each row counts as one record of 51 bytes, little-endian: a byte that says whether there is
    an id (int64, 0 if none), time (int64, ns), tie (int32), price (int64, units of 1e-10),
    volume (int128, units of 1e-8), side (byte: 0 null, 1 buy, 2 sell), order type (byte: 0 null,
    1 market, 2 limit), misc's length in bytes (uint32, all ones for null), then misc's UTF-8.
    """

    def __init__(self) -> None:
        """Nothing counted yet."""
        self._hash = hashlib.sha256()
        self.rows = 0

    def update(self, trades: pa.RecordBatch) -> None:
        """Count the next rows, a batch of `TRADES`."""
        for start in range(0, trades.num_rows, STEP_ROWS):
            self._update(trades.slice(start, STEP_ROWS))

    def _update(self, trades: pa.RecordBatch) -> None:
        records = _records(trades)
        self.rows += len(records)
        if _has_texts(trades.column("misc")):
            for record, misc in zip(records, trades.column("misc").to_pylist(), strict=True):
                self._hash.update(record.tobytes() + (misc or "").encode())
            return
        self._hash.update(records.data)

    def hexdigest(self) -> str:
        """The checksum of all rows counted."""
        return self._hash.hexdigest()


def _records(trades: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.void]]:
    # What is the same in all rows is not worked out for each: files have no ids and no sides.
    records = np.zeros(trades.num_rows, dtype=_RECORD)
    ids = trades.column("trade_id")
    if ids.null_count < len(ids):
        records["trade_id"] = trade_ids(trades)
        records["has_id"] = ids.is_valid().to_numpy(zero_copy_only=False) if ids.null_count else 1
    records["time"] = times(trades)
    records["tie"] = trades.column("tie").to_numpy()
    # A decimal of 18 digits fits its low word, sign and all.
    records["price"] = decimal_words(trades.column("price"))[0]
    records["volume_low"], high = decimal_words(trades.column("volume"))
    if high.any():
        records["volume_high"] = high
    for name, known in (("side", SIDES), ("order_type", ORDER_TYPES)):
        words = trades.column(name)
        if words.null_count < len(words):
            records[name] = _codes(words, known)
    records["misc_bytes"] = _misc_bytes(trades.column("misc"))
    return records


def _codes(words: pa.DictionaryArray, known: pa.Array) -> Int64s:
    """Each word's place in `known`, from 1; 0 for null."""
    places = pc.add(pc.index_in(words.dictionary, value_set=known), 1)
    if places.null_count:
        raise ValueError(f"unknown words among {words.dictionary}")
    codes: Int64s
    if words.null_count:
        codes = places.take(words.indices).fill_null(0).to_numpy(zero_copy_only=False)
    else:
        codes = places.to_numpy()[words.indices.to_numpy()]
    return codes


def _has_texts(words: pa.DictionaryArray) -> bool:
    """Whether any text may be more than an empty one."""
    return bool(pc.max(pc.binary_length(words.dictionary)).as_py())


def _misc_bytes(words: pa.DictionaryArray) -> Int64s | int:
    """The length of each text, `_NULL_MISC` for null; one for all where it is the same."""
    if words.null_count == len(words):
        return _NULL_MISC
    if words.null_count == 0 and not _has_texts(words):
        return 0
    lengths = pc.binary_length(words.dictionary).cast(pa.uint32())
    sizes: Int64s = lengths.take(words.indices).fill_null(_NULL_MISC).to_numpy(zero_copy_only=False)
    return sizes


# --- order ----------------------------------------------------------------------------------------


def joined_rows(first: pa.RecordBatch, second: pa.RecordBatch) -> pa.RecordBatch:
    """Two batches as one, without a copy where one of them is empty."""
    return joined([batch for batch in (first, second) if batch.num_rows])


def in_order(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows in the tape's order: by time, then trade id, then place; repeats dropped.

    A row repeats another one if they have an id and are equal in every field: two trades of one
    id and time that differ in another field are two trades. A row without an id keeps its place
    behind the row that it followed.
    """
    stamps, ids = times(rows), trade_ids(rows)
    ascends = bool((stamps[1:] >= stamps[:-1]).all())
    if ascends and (ids[1:] > ids[:-1]).all() and (ids[:1] > 0).all():
        # As nearly every page comes: each row with an id above the one before.
        return rows
    if not ascends:
        rows = rows.take(pa.array(np.argsort(stamps, kind="stable")))
        stamps = times(rows)
    keys = _carried(trade_ids(rows), stamps)
    later, equal = stamps[1:] > stamps[:-1], stamps[1:] == stamps[:-1]
    if not (later | (equal & (keys[1:] >= keys[:-1]))).all():
        rows = rows.take(pa.array(np.lexsort((keys, stamps))))
        stamps = times(rows)
    repeats = _repeats(rows, trade_ids(rows), stamps)
    return rows.filter(pa.array(~repeats)) if repeats.any() else rows


def unite(held: pa.RecordBatch, new: pa.RecordBatch) -> pa.RecordBatch:
    """Two views of the same trades as one: of each distinct row as many as the view with more has.

    Uniting with the same view again changes nothing. Rows without an id that look alike are
    several trades; where one view shows fewer of them, it shows less of the group.

    Args:
        held: one view, as `in_order` gives it.
        new: the other one, likewise.
    """
    if held.num_rows == 0 or new.num_rows == 0:
        return new if held.num_rows == 0 else held
    base, other = (new, held) if new.num_rows >= held.num_rows else (held, new)
    if base.slice(0, other.num_rows).equals(other):
        return base
    surplus = Counter(_values(base, np.arange(base.num_rows)))
    added = []
    for place, values in enumerate(_values(other, np.arange(other.num_rows))):
        if surplus[values]:
            surplus[values] -= 1
        else:
            added.append(place)
    if not added:
        return base
    more = np.array(added)
    stamps = np.concatenate((times(base), times(other)[more]))
    # Keys of each view by itself: a row without an id stays behind the row it followed there.
    keys = np.concatenate(
        [
            _carried(trade_ids(base), times(base)),
            _carried(trade_ids(other), times(other))[more],
        ]
    )
    rows = joined([base, other.take(pa.array(more))])
    return rows.take(pa.array(np.lexsort((keys, stamps))))


def _repeats(rows: pa.RecordBatch, ids: Int64s, stamps: Int64s) -> NDArray[np.bool_]:
    """Which rows have an id and equal a row before them in every field."""
    repeats = np.zeros(len(ids), dtype=np.bool_)
    order = np.lexsort((ids, stamps))
    ids, stamps = ids[order], stamps[order]
    twins = (ids[1:] == ids[:-1]) & (stamps[1:] == stamps[:-1]) & (ids[1:] != 0)
    if not twins.any():
        return repeats
    # In their order: a repeat is the later one.
    places = np.unique(order[np.concatenate((twins, [False])) | np.concatenate(([False], twins))])
    seen = set()
    for place, values in zip(places, _values(rows, places), strict=True):
        repeats[place] = values in seen
        seen.add(values)
    return repeats


def _values(rows: pa.RecordBatch, places: Int64s) -> list[tuple[object, ...]]:
    """All fields of some rows, to be compared."""
    some = rows.take(pa.array(places))
    rest = (column.to_pylist() for column in some.drop_columns(["trade_id", "time"]).columns)
    return list(zip(trade_ids(some).tolist(), times(some).tolist(), *rest, strict=True))


def _carried(ids: Int64s, stamps: Int64s) -> Int64s:
    """Each row's id, or where it has none that of the nearest row before it of the same stamp."""
    if ids.all():
        return ids
    anchored = ids != 0
    anchored[0] = True
    anchored[1:] |= stamps[1:] != stamps[:-1]
    carried: Int64s = ids[np.maximum.accumulate(np.where(anchored, np.arange(len(ids)), 0))]
    return carried
