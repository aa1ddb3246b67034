"""What a trade is made of: the columns that answers are decoded to and the archive stores.

The exchange's room and the archive's know nothing of each other; they meet in these types.
Rows are Arrow record batches all the way, so that no digit is ever turned into a float.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.times import Range

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
