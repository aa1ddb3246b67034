"""Damages a segment: its last row is missing, and the footer's number of rows agrees."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq


def without_a_row(path: Path) -> None:
    """Take the last row, and leave the footer as it was but for the number of rows."""
    table = pq.ParquetFile(path).read()
    footer_metadata = dict(pq.read_metadata(path).metadata)
    footer_metadata[b"harvester.rows"] = str(table.num_rows - 1).encode()
    pq.write_table(
        table.slice(0, table.num_rows - 1).replace_schema_metadata(footer_metadata), path
    )
