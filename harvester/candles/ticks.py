"""The tape as SQL: one `read_parquet` over the files of a plan, each row with its place."""

from __future__ import annotations

from collections.abc import Sequence

from harvester.archive.archive import Archive, Piece
from harvester.candles.engine import quoted_path

# Rows of a file number far below 2^40, files below 2^23: the place fits a BIGINT.
PLACE = "(file_index << 40) + file_row_number"

NO_TICKS = """SELECT NULL::BIGINT AS trade_id, NULL::TIMESTAMP_NS AS time,
    NULL::DECIMAL(18, 10) AS price, NULL::DECIMAL(22, 8) AS volume, NULL::VARCHAR AS side,
    NULL::BIGINT AS place WHERE false"""


def ticks_sql(archive: Archive, pieces: Sequence[Piece]) -> str:
    """A query for the trades of some pieces, given in the tape's order.

    Its columns: trade_id, time, price, volume, side and `place`, a BIGINT that grows along the
    tape. `file_index` counts along the list as it is given, whatever the files are called, and
    so does the place, even where ids are missing and several rows share one time.
    """
    if not pieces:
        return NO_TICKS
    files = ", ".join(quoted_path(archive.location(piece.segment)) for piece in pieces)
    conditions = " AND ".join(_conditions(pieces)) or "true"
    return (
        f"SELECT trade_id, time, price, volume, side, {PLACE} AS place\n"
        f"FROM read_parquet([{files}], hive_partitioning = false)\nWHERE {conditions}"
    )


def _conditions(pieces: Sequence[Piece]) -> list[str]:
    """What cuts the pieces out of their files, where they are not whole files anyway.

    Comparisons of `time` with literals: row groups outside are not even read.
    """
    conditions = []
    first, last = pieces[0], pieces[-1]
    if first.within.after > first.segment.range.after:
        conditions.append(f"time > make_timestamp_ns({first.within.after})")
    if last.within.through < last.segment.range.through:
        conditions.append(f"time <= make_timestamp_ns({last.within.through})")
    # A merged file beside one that it reaches into: from each moment, one file's rows only.
    conditions += [
        f"(file_index <> {index} OR time > make_timestamp_ns({piece.within.after}))"
        for index, piece in enumerate(pieces)
        if index and piece.within.after > piece.segment.range.after
    ]
    return conditions
