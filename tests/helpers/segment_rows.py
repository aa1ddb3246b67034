"""Rows as Arrow batches, and their checksum as docs/format.md specifies it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from harvester.schema import SEGMENT_SCHEMA

# (id, time, tie, price, volume, side, order type, misc), as `exchange.expected()` has it.
Row = tuple[Any, ...]


NAMES = ("trade_id", "time", "tie", "price", "volume", "side", "order_type", "misc")


def batch(rows: Iterable[Row], schema: pa.Schema = SEGMENT_SCHEMA) -> pa.RecordBatch:
    """Rows as an Arrow batch."""
    dicts = [{name: row[NAMES.index(name)] for name in schema.names} for row in rows]
    return pa.RecordBatch.from_pylist(dicts, schema=schema)


def checksum(rows: Iterable[Row]) -> str:
    """The checksum by the words of its documentation, with nothing of the product."""
    total = hashlib.sha256()
    for trade_id, time, tie, price, volume, side, kind, misc in rows:
        text = None if misc is None else misc.encode()
        total.update(struct.pack("<Bqqi", trade_id is not None, trade_id or 0, time, tie))
        total.update(struct.pack("<q", int(price.scaleb(10))))
        total.update(int(volume.scaleb(8)).to_bytes(16, "little", signed=True))
        total.update(struct.pack("<B", {None: 0, "buy": 1, "sell": 2}[side]))
        total.update(struct.pack("<B", {None: 0, "market": 1, "limit": 2}[kind]))
        total.update(struct.pack("<I", 2**32 - 1 if text is None else len(text)))
        total.update(text or b"")
    return total.hexdigest()
