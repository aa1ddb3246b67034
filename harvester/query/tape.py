"""The tape of a pair as one relation: nothing is sorted, as the files stand in its order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import duckdb
import pyarrow as pa

from harvester.query.engine import MEMORY_LIMIT, quoted_path, session
from harvester.query.ticks import conditions
from harvester.query.views import COLUMNS
from harvester.schema import TRADES, WORD
from harvester.storage.trade_store import EVERYTHING, Archive, Piece
from harvester.times import Range, year_end

PLAIN = pa.schema([one.with_type(pa.string()) if one.type == WORD else one for one in TRADES])


def tape(
    archive: Archive, pair: str, span: Range = EVERYTHING, *, memory_limit: str = MEMORY_LIMIT
) -> duckdb.DuckDBPyRelation:
    """The trades of a span, in the tape's order, with the columns of docs/format.md.

    It reads the files that stand now. A condition on `time` upon it leaves the files of other
    years unopened, and row groups by their statistics.

    Raises:
        BadSetting: DuckDB does not take the memory limit.
        duckdb.Error: the first file of a year can't be read; when read: any file.
    """
    pieces = archive.pieces(pair, span)
    years = groupby(pieces, key=lambda piece: piece.segment.year)
    parts = [_year(archive, year, list(some)) for year, some in years]
    return session(memory_limit).sql("\nUNION ALL ".join(parts) or _no_trades())


def plain_batches(archive: Archive, pair: str, span: Range) -> Iterator[pa.RecordBatch]:
    """The same trades as a stream, at least one batch, whoever writes the archive meanwhile.

    Words are plain strings, as DuckDB gives them.

    Raises:
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """
    yield pa.RecordBatch.from_pylist([], schema=PLAIN)
    for batch in archive.scan(pair, span):
        yield batch.cast(PLAIN)


def _year(archive: Archive, year: int, pieces: Sequence[Piece]) -> str:
    files = ", ".join(quoted_path(archive.location(piece.segment)) for piece in pieces)
    # A segment lies in the year of its rows. So that DuckDB knows it too:
    bounds = (
        f"time > make_timestamp_ns({year_end(year - 1)})",
        f"time <= make_timestamp_ns({year_end(year)})",
    )
    return (
        f"SELECT {', '.join(COLUMNS)}\n"
        f"FROM read_parquet([{files}], hive_partitioning = false)\n"
        f"WHERE {' AND '.join([*bounds, *conditions(pieces)])}"
    )


def _no_trades() -> str:
    columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in COLUMNS.items())
    return f"SELECT {columns} WHERE false"
