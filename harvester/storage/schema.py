"""The format of a segment: its columns, how they are encoded, and the checksum of its rows.

docs/format.md tells the same in words, for whoever writes another reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.columns import (
    ORDER_TYPES,
    ROWS,
    SIDES,
    WORD,
    Int64s,
    decimal_words,
    joined,
    times,
    trade_ids,
)

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
