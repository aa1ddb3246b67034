"""Batches of rows of given times."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa

from harvester.schema import (
    PAGE_SCHEMA,
)


def batch(stamps: list[int], side: str = "buy") -> pa.RecordBatch:
    """Rows of these published times, with different ids."""
    rows = [
        {
            "trade_id": place + 1,
            "time": stamp,
            "price": Decimal("1.5"),
            "volume": Decimal("2.5"),
            "side": side,
            "order_type": "limit",
            "misc": "",
        }
        for place, stamp in enumerate(stamps)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=PAGE_SCHEMA)
