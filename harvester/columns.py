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


def no_rows() -> pa.RecordBatch:
    """A batch of no trades."""
    return pa.RecordBatch.from_pylist([], schema=ROWS)


def times(batch: pa.RecordBatch) -> Int64s:
    """The published times in nanoseconds; shape (rows,), a view without a copy."""
    stamps = batch.column("time")
    numbers: Int64s = stamps.cast(pa.int64()).to_numpy(zero_copy_only=True)
    return numbers


def trade_ids(batch: pa.RecordBatch) -> Int64s:
    """The trade ids, 0 where there is none; shape (rows,)."""
    ids: Int64s = batch.column("trade_id").fill_null(0).to_numpy(zero_copy_only=False)
    return ids


def decimal_words(values: pa.Array) -> tuple[Int64s, Int64s]:
    """A decimal128 array as its unscaled integers' low and high 64 bits; shapes (rows,)."""
    words = np.frombuffer(values.buffers()[1], dtype=np.int64)
    words = words[2 * values.offset : 2 * (values.offset + len(values))]
    return words[::2], words[1::2]


def joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Several batches as one, in order; words of different dictionaries are unified."""
    if len(batches) == 1:
        return batches[0]
    if not batches:
        return no_rows()
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    return table.to_batches()[0] if table.num_rows else no_rows()


def clip(batch: pa.RecordBatch, within: Range) -> pa.RecordBatch:
    """The rows published in a range, of a batch ordered by time."""
    stamps = times(batch)
    start = int(stamps.searchsorted(within.after, side="right"))
    stop = int(stamps.searchsorted(within.through, side="right"))
    return batch.slice(start, stop - start)
