"""The tape as SQL: one `read_parquet` over the files of a plan, each row with its place."""

from __future__ import annotations

from collections.abc import Sequence

from harvester.query.engine import quoted_path
from harvester.storage.trade_store import Archive, Piece

NO_TICKS = """SELECT NULL::BIGINT AS trade_id, NULL::TIMESTAMP_NS AS time,
    NULL::DECIMAL(18, 10) AS price, NULL::DECIMAL(22, 8) AS volume, NULL::VARCHAR AS side,
    NULL::BIGINT AS place WHERE false"""


def place_sql(at: int) -> str:
    """A row's place along the tape, a BIGINT, where `at` files come before those that are read.

    Rows of a file number far below 2^40, and files below 2^23. DuckDB counts files without a
    sign and rows with one: left as they are, they would come to 128 bits.
    """
    return f"((file_index::BIGINT + {at}) << 40 | file_row_number)"


def ticks_sql(archive: Archive, pieces: Sequence[Piece], at: int = 0) -> str:
    """A query for the trades of some pieces, given in the tape's order, `at` files along it.

    Its columns: trade_id, time, price, volume, side and `place`, a BIGINT that grows along the
    tape. `file_index` counts along the list as it is given, whatever the files are called, and
    so does the place, even where ids are missing and several rows share one time.
    """
    if not pieces:
        return NO_TICKS
    files = ", ".join(quoted_path(archive.location(piece.segment)) for piece in pieces)
    within = " AND ".join(conditions(pieces)) or "true"
    return (
        f"SELECT trade_id, time, price, volume, side, {place_sql(at)} AS place\n"
        f"FROM read_parquet([{files}], hive_partitioning = false)\nWHERE {within}"
    )


def conditions(pieces: Sequence[Piece]) -> list[str]:
    """What cuts the pieces out of their files, where they are not whole files anyway.

    The pieces are given in the tape's order, and touch but for holes in the coverage.

    Comparisons of `time` with literals: row groups outside are not even read.
    """
    found = []
    first, last = pieces[0], pieces[-1]
    if first.within.after > first.segment.range.after:
        found.append(f"time > make_timestamp_ns({first.within.after})")
    if last.within.through < last.segment.range.through:
        found.append(f"time <= make_timestamp_ns({last.within.through})")
    # A merged file beside one that it reaches into: from each moment, one file's rows only.
    found += [
        f"(file_index <> {index} OR time > make_timestamp_ns({piece.within.after}))"
        for index, piece in enumerate(pieces)
        if index and piece.within.after > piece.segment.range.after
    ]
    return found
