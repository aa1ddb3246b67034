"""How many rows, and how much of what was traded: what is held against itself on the way."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(slots=True)
class Count:
    """Rows, and the sum of their volumes."""

    rows: int = 0
    volume: Decimal = Decimal(0)

    def add(self, rows: pa.RecordBatch) -> None:
        """Count a batch of `columns.ROWS`."""
        if rows.num_rows:
            self.rows += rows.num_rows
            self.volume += pc.sum(rows.column("volume")).as_py()

    def take(self, rows: pa.RecordBatch) -> None:
        """Count a batch out again."""
        if rows.num_rows:
            self.rows -= rows.num_rows
            self.volume -= pc.sum(rows.column("volume")).as_py()
