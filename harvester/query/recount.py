"""A segment's partial candles once more, by DuckDB: what `verify` holds its roll-ups against.

Roll-ups are made by numpy (`partials.py`); two ways that share no code prove more than one.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa

from harvester.query.engine import asking, session
from harvester.query.measures import BASE, COMBINED, LAST_TIME, MORE
from harvester.query.rollups import width_of
from harvester.schema import joined, times
from harvester.storage.rollup_files import PARTIALS
from harvester.times import Interval

CHUNK_ROWS = 500_000
MEMORY_LIMIT = "512MB"

TICKS = ["trade_id", "time", "price", "volume", "side"]


class Recount:
    """Partial candles at several levels from the batches of one segment, in its order.

    Memory holds some chunks of ticks, and the partial candles.
    """

    def __init__(self, levels: Sequence[Interval], what: str) -> None:
        """`levels`: from the finest on; `what` names the work in messages."""
        self._what = what
        self._connection = session(MEMORY_LIMIT, 1)
        self._formulas = BASE | MORE | LAST_TIME
        self._levels: list[tuple[Interval, _Buckets, _Buckets | None]] = []
        for level in levels:
            below = [one for _, one, _ in self._levels if not width_of(level) % one.width_ns]
            formulas = COMBINED if below else self._formulas
            buckets = _Buckets(self._connection, width_of(level), formulas)
            self._levels.append((level, buckets, below[-1] if below else None))

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the next ticks, a batch of `TRADES`.

        Raises:
            ValueDoesNotFit: a sum has too many digits.
        """
        with asking(self._what, MEMORY_LIMIT):
            for _, buckets, below in self._levels:
                if below is None:
                    buckets.add(batch.select(TICKS))

    def finish(self) -> dict[str, list[pa.RecordBatch]]:
        """Batches of `PARTIALS` by the level's name, of all that was counted."""
        with asking(self._what, MEMORY_LIMIT):
            for _, buckets, below in self._levels:
                for batch in below.made if below else []:
                    buckets.add(batch)
                buckets.close()
        return {level.text: buckets.made for level, buckets, _ in self._levels}


class _Buckets:
    """Rows in order, grouped into buckets of one width, a chunk of whole buckets at a time."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, width_ns: int, formulas: dict[str, str]
    ) -> None:
        self.width_ns = width_ns
        self.made: list[pa.RecordBatch] = []
        self._connection = connection
        columns = ", ".join(f"{formulas[name]} AS {name}" for name in PARTIALS.names[1:])
        number = f"epoch_ns(time) // {width_ns}"
        self._sql = (
            f"SELECT make_timestamp_ns({number} * {width_ns}) AS time, {columns}\n"
            f"FROM chunk GROUP BY {number} ORDER BY {number}"
        )
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._due = CHUNK_ROWS

    def add(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if self._rows < self._due:
            return
        rows = joined(self._waiting)
        numbers = times(rows) // self.width_ns
        whole = int(numbers.searchsorted(numbers[-1]))
        if whole:
            self._group(rows.slice(0, whole))
        self._waiting = [rows.slice(whole)]
        self._rows -= whole
        self._due = max(CHUNK_ROWS, 2 * self._rows)

    def close(self) -> None:
        if self._rows:
            self._group(joined(self._waiting))
        self._waiting, self._rows = [], 0

    def _group(self, rows: pa.RecordBatch) -> None:
        place = pa.array(np.arange(rows.num_rows, dtype=np.int64))
        self._connection.register("chunk", pa.table(rows.append_column("place", place)))
        found = self._connection.sql(self._sql).to_arrow_table()
        self._connection.unregister("chunk")
        self.made += found.cast(PARTIALS).combine_chunks().to_batches()
