"""DuckDB connections, and SQL queries on the views of an archive."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from uuid import uuid4

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.sqltypes import DuckDBPyType

from harvester.config import CandleSettings
from harvester.errors import (
    AmbiguousPair,
    ArchiveDamaged,
    ArchiveError,
    BadQuery,
    BadSetting,
    HarvesterError,
    ValueDoesNotFit,
)
from harvester.query import views
from harvester.query.source_choice import (
    ALL_AGGREGATES,
    LAST_TIME,
    MERGE_AGGREGATES,
    no_rows_sql,
    path_literal,
    quoted_name,
    range_conditions,
)
from harvester.schema import SEGMENT_SCHEMA, TEXT_DICTIONARY, split_at, times
from harvester.storage.parquet_files import PARTIALS
from harvester.storage.trade_store import EVERYTHING, Piece, TradeStore, with_snapshot_retry
from harvester.times import Range, year_end

# --- connection -----------------------------------------------------------------------------------

MEMORY_LIMIT = CandleSettings().memory_limit

Connection = duckdb.DuckDBPyConnection
"""For type annotations in packages that do not import DuckDB."""


def connect(
    memory_limit: str = MEMORY_LIMIT,
    threads: int | None = None,
    files: Any = None,  # noqa: ANN401 - fsspec is optional
) -> duckdb.DuckDBPyConnection:
    """Open a new in-memory database that spills to the system's temporary folder.

    Args:
        memory_limit: what DuckDB may use, such as 2GB.
        threads: how many threads DuckDB may use; None for all cores.
        files: `duckdb_files` of the archive's store.

    Raises:
        BadSetting: DuckDB rejects the memory limit or the number of threads.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory_limit,
        # By default DuckDB spills into `.tmp` in the working directory.
        "temp_directory": str(Path(tempfile.gettempdir()) / f"harvester-{uuid4().hex}"),
        # A caller's .limit(10) on a relation must keep the order of time.
        "preserve_insertion_order": True,
    }
    if threads is not None:
        config["threads"] = threads
    try:
        connection = duckdb.connect(config=config)
    except duckdb.Error as error:
        raise BadSetting(
            f"memory_limit {memory_limit!r}, threads {threads}: DuckDB refuses them: {error}"
        ) from error
    if files is not None:
        connection.register_filesystem(files)
    # In notebooks DuckDB enables its progress bar by default; the library never prints.
    _disable_progress_bar(connection)
    return connection


_databases: dict[tuple[int, str, int | None, bool], duckdb.DuckDBPyConnection] = {}
_databases_lock = Lock()


def shared_connection(
    memory_limit: str = MEMORY_LIMIT,
    threads: int | None = None,
    files: Any = None,  # noqa: ANN401 - fsspec is optional
) -> duckdb.DuckDBPyConnection:
    """Return a new connection to a database that all queries with the same limits share.

    It has temporary tables of its own. Opening a database takes longer than a short query.

    Args:
        memory_limit: what DuckDB may use, such as 2GB.
        threads: how many threads DuckDB may use; None for all cores.
        files: `duckdb_files` of the archive's store.

    Raises:
        BadSetting: DuckDB rejects the memory limit or the number of threads.
    """
    # A forked process must not use its parent's database.
    key = (os.getpid(), memory_limit, threads, files is not None)
    with _databases_lock:
        if key not in _databases:
            _databases[key] = connect(memory_limit, threads, files)
        connection = _databases[key].cursor()
    _disable_progress_bar(connection)
    return connection


def _disable_progress_bar(connection: duckdb.DuckDBPyConnection) -> None:
    """Disable the progress bar. In Jupyter without ipywidgets DuckDB has none and rejects this."""
    with suppress(duckdb.InvalidInputException):
        connection.execute("SET enable_progress_bar = false")


@contextmanager
def translate_errors(what: str, memory_limit: str) -> Iterator[None]:
    """Translate DuckDB's errors into harvester's.

    Args:
        what: names the query in the message.
        memory_limit: the limit of the connection, for the message.

    Raises:
        ValueDoesNotFit: a sum or a product has more digits than a decimal can hold.
        HarvesterError: the memory limit is too low.
        ArchiveDamaged: a file can't be read.
    """
    try:
        with _translate_common_errors(what, memory_limit):
            yield
    except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
        raise ValueDoesNotFit(
            f"{what}: a sum of price x volume reaches 10^20, more than fits 38 exact digits: "
            f"choose a shorter interval or range ({_first_line(error)})"
        ) from error
    except duckdb.Error as error:
        _raise_error_of_store(error)
        raise ArchiveDamaged(f"{what} can't be answered: {_first_line(error)}") from error


@contextmanager
def _translate_common_errors(what: str, memory_limit: str | None) -> Iterator[None]:
    """Translate what means the same in any query; raise the rest as `duckdb.Error`.

    While rows are read, DuckDB's errors come as Arrow's, with the same text.
    """
    try:
        yield
    except (duckdb.Error, OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            # The operating system's: a listing of files that are gone is made again.
            raise
        kind = str(error).partition(":")[0]
        if kind == "INTERRUPT Error":
            raise KeyboardInterrupt from error
        if kind == "Out of Memory Error":
            limit, advice = "it may use", ""
            if memory_limit is not None:
                limit, advice = memory_limit, "raise memory_limit, or "
            raise HarvesterError(
                f"{what} needs more memory than {limit}: {advice}choose a shorter range "
                f"({_first_line(error)})"
            ) from error
        if isinstance(error, duckdb.Error):
            raise
        raise duckdb.Error(str(error)) from error


def _first_line(error: Exception) -> str:
    """What went wrong; of an error in Python code, such as a file's, without the traceback."""
    lines = str(error).split("\n")
    if lines[0].startswith("Traceback "):
        lines = [line for line in lines[1:] if not line.startswith(" ")]
    return lines[0] if lines else ""


def _raise_error_of_store(error: duckdb.Error) -> None:
    """Raise the error of the object store that DuckDB passes on as text, if it is one."""
    kind, _, message = _first_line(error).partition(": ")
    if kind.rpartition(".")[2] == ArchiveError.__name__:
        raise ArchiveError(message) from error


# --- run SQL --------------------------------------------------------------------------------------

BATCH_ROWS = 20_000

T = TypeVar("T")

# Arrow, Parquet or JSON has no type for these; DuckDB's own text loses nothing.
_TEXT_TYPES = {
    "bignum",
    "bit",
    "geometry",
    "interval",
    "time with time zone",
    "type",
    "uhugeint",
    "union",
    "variant",
}


def connect_views(
    archive: TradeStore,
    *,
    names: Mapping[str, str] | None = None,
    memory_limit: str = MEMORY_LIMIT,
) -> duckdb.DuckDBPyConnection:
    """Return a connection with the view `trades` and the macros `tape` and `ohlc`; see docs/sql.md.

    It reads the files of this moment, each moment of trading from one file only. After a
    compaction open another connection.

    Args:
        archive: where the trades are; if it is empty, `trades` has no rows.
        names: altnames by exact spelling, which the macros accept; another case is accepted if it
            fits one pair only. By default the altnames of the stored pairs.
        memory_limit: what DuckDB may use, such as 2GB; beyond it, DuckDB spills to disk.

    Raises:
        BadSetting: DuckDB rejects the memory limit.
    """
    return _run_on_views(archive, lambda connection: connection, names or {}, memory_limit)


def read_statements(query: str, memory_limit: str = MEMORY_LIMIT) -> list[duckdb.Statement]:
    """Parse SQL into statements, at least one.

    Args:
        query: any SQL of DuckDB.
        memory_limit: the memory that DuckDB may use.

    Raises:
        BadQuery: DuckDB can't parse it, or there is no statement.
    """
    with translate_sql_errors(memory_limit):
        return parse_statements(shared_connection(memory_limit), query)


def parse_statements(connection: Connection, query: str) -> list[duckdb.Statement]:
    """Parse SQL into statements, at least one, on a connection.

    Raises:
        BadQuery: there is no statement.
        duckdb.Error: DuckDB can't parse it.
    """
    statements = connection.extract_statements(query)
    if not statements:
        raise BadQuery("there is no query in that text: give one such as FROM trades LIMIT 10")
    return statements


def is_repeatable(statements: Sequence[duckdb.Statement]) -> bool:
    """Whether statements are one query that changes nothing, so that it may be run again."""
    return [statement.type for statement in statements] == [duckdb.StatementType.SELECT]


_COMPARED_PAIRS = re.compile(
    r"""\bpair\s*(?:==?|<>|!=|(?:NOT\s+)?IN\s*\()\s*('[^']*'(?:\s*,\s*'[^']*')*)""", re.IGNORECASE
)


def spelling_notes(query: str, altname_of: Callable[[str], str | None]) -> tuple[str, ...]:
    """Note each name that a query compares with the column `pair` although it is no altname.

    `pair = 'XBT/USD'` matches no row. The macros accept any spelling.

    Args:
        query: one or several statements.
        altname_of: the altname of the pair that a spelling means; None if there is none.
    """
    notes = []
    for text in (name for part in _COMPARED_PAIRS.findall(query) for name in part.split("'")[1::2]):
        with suppress(AmbiguousPair):
            altname = altname_of(text)
            if altname not in (None, text):
                notes.append(
                    f"the column pair has {altname!r} and never {text!r}: compare it with the "
                    "former"
                )
    return tuple(dict.fromkeys(notes))


def run_statements(
    archive: TradeStore,
    statements: Sequence[duckdb.Statement],
    params: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    names: Mapping[str, str] | None = None,
    memory_limit: str = MEMORY_LIMIT,
) -> duckdb.DuckDBPyRelation:
    """Run all statements but the last, and return the last one as a relation.

    Args:
        archive: the trades.
        statements: at least one, of `read_statements`.
        params: values for `?`, or by name for `$name`, of the last statement: pass what a user
            typed here.
        names: altnames by exact spelling, that the macros take.
        memory_limit: the memory that DuckDB may use.

    Raises:
        BadQuery: DuckDB refuses a statement.
        HarvesterError: the memory allowed does not suffice; or a compaction removed files while
            statements ran that may change something, and so are not run again.
        ArchiveDamaged: a file of the archive can't be read.
        duckdb.Error: when the relation is read: a value can't be cast, a file was removed.
    """

    def run(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        for statement in statements[:-1]:
            connection.execute(statement)
        return connection.sql(statements[-1], params=params)

    may_repeat = is_repeatable(statements)
    return _run_on_views(archive, run, names or {}, memory_limit, may_repeat=may_repeat)


def _run_on_views(
    archive: TradeStore,
    fn: Callable[[duckdb.DuckDBPyConnection], T],
    names: Mapping[str, str],
    memory_limit: str,
    *,
    may_repeat: bool = True,
) -> T:
    """Run `fn` on a connection with the views; again if compaction removed a file meanwhile."""
    pieces: list[Piece] = []

    def run() -> T:
        pairs = archive.stored_pairs()
        pieces[:] = [piece for pair in pairs for piece in archive.pieces(pair)]
        unknown = f"the archive holds no trades of {{}}; {archive.stored_pairs_text(pairs)}"
        known = {pair: pair for pair in pairs} | dict(names)
        trades = views.fixed_trades_sql(archive, pieces)
        with translate_sql_errors(memory_limit):
            connection = connect(memory_limit, files=archive.store.duckdb_files)
            # Otherwise DuckDB would look up unknown table names among the Python variables.
            connection.execute("SET python_enable_replacements = false")
            connection.execute("SET TimeZone = 'UTC'")
            for statement in views.create_statements(trades, known, pairs, unknown):
                connection.execute(statement)
            return fn(connection)

    def has_lost_a_file() -> bool:
        existing = set(archive.all_segments())
        is_lost = any(piece.segment not in existing for piece in pieces)
        if is_lost and not may_repeat:
            raise HarvesterError(MERGED_MEANWHILE)
        return is_lost

    return with_snapshot_retry(run, "the archive", is_stale=has_lost_a_file)


MERGED_MEANWHILE = "files of the archive were merged into others while they were read: run it again"


def file_relation(
    statement: duckdb.Statement, relation: duckdb.DuckDBPyRelation
) -> duckdb.DuckDBPyRelation | None:
    """The rows of a statement with types that files can hold; None if it gives no rows.

    Columns of one name get different names; types that Arrow, Parquet or JSON do not have become
    DuckDB's text, which loses nothing.

    Args:
        statement: the last statement that was run.
        relation: what DuckDB returned for it. For CREATE or COPY this is a status, not rows.
    """
    has_rows = statement.expected_result_type == [duckdb.ExpectedResultType.QUERY_RESULT]
    if not has_rows and relation.columns in (["Count"], ["Success"]):
        return None
    taken: set[str] = set()
    columns = []
    for number, (name, kind) in enumerate(zip(relation.columns, relation.types, strict=True), 1):
        free = name
        while free.lower() in taken:
            free += "_"
        taken.add(free.lower())
        cast = "::VARCHAR" if _needs_text(kind) else ""
        columns.append(f"#{number}{cast} AS {quoted_name(free)}")
    return relation.project(", ".join(columns))


def _needs_text(kind: DuckDBPyType) -> bool:
    if kind.id in _TEXT_TYPES:
        return True
    if kind.id not in ("array", "list", "map", "struct"):
        return False
    return any(isinstance(child, DuckDBPyType) and _needs_text(child) for _, child in kind.children)


@contextmanager
def translate_sql_errors(memory_limit: str | None = None) -> Iterator[None]:
    """Translate DuckDB's errors on a user's SQL; its message and its arrow are kept.

    Args:
        memory_limit: of the connection, for the message; None if its user can't set it.

    Raises:
        BadQuery: DuckDB rejects the query, or a value in it.
        HarvesterError: the memory limit is too low.
        ArchiveDamaged: a file of the archive can't be read.
    """
    try:
        with _translate_common_errors("the query", memory_limit):
            yield
    except RecursionError as error:
        raise BadQuery("the query has values that are nested too deeply") from error
    except duckdb.Error as error:
        _raise_error_of_store(error)
        text = str(error)
        if "/trades/pair=" in text or "/candles/interval=" in text:
            raise ArchiveDamaged(f"the query can't be answered: {_first_line(error)}") from error
        # The arrow points into the line above it, so that line is not indented. The message before
        # it can contain values, whose lines must not look like lines of harvester's output.
        message, separator, arrow = text.rpartition("\n\nLINE ")
        if not separator:
            message, arrow = text, ""
        message = message.replace("\n\n", "\n").replace("\n", "\n    ").expandtabs(4)
        separator = separator.replace("\n\n", "\n")
        raise BadQuery(f"the query can't be run\n{message}{separator}{arrow}") from error


# --- trades ---------------------------------------------------------------------------------------

PLAIN_TRADES = pa.schema(
    [
        field.with_type(pa.string()) if field.type == TEXT_DICTIONARY else field
        for field in SEGMENT_SCHEMA
    ]
)
"""The columns of trades with plain strings instead of dictionaries, as DuckDB returns them."""


def trades_relation(
    archive: TradeStore,
    pair: str,
    time_range: Range = EVERYTHING,
    *,
    memory_limit: str = MEMORY_LIMIT,
) -> duckdb.DuckDBPyRelation:
    """Return the trades of a range in the exchange's order, with the columns of docs/format.md.

    It reads the files of this moment. With a condition on `time`, DuckDB does not open the files
    of other years, and skips row groups by their statistics.

    Args:
        archive: where the trades are.
        pair: the altname.
        time_range: the range of published time.
        memory_limit: what DuckDB may use, such as 2GB; beyond it, DuckDB spills to disk.

    Raises:
        BadSetting: DuckDB rejects the memory limit.
        duckdb.Error: the first file of a year can't be read; when read: any file.
    """
    parts = []
    pieces_by_year = groupby(archive.pieces(pair, time_range), lambda piece: piece.segment.year)
    for year, group in pieces_by_year:
        pieces = list(group)
        files = ", ".join(path_literal(archive.location(piece.segment)) for piece in pieces)
        # A segment has rows of its year only. These conditions let DuckDB know it, too.
        bounds = (
            f"time > make_timestamp_ns({year_end(year - 1)})",
            f"time <= make_timestamp_ns({year_end(year)})",
        )
        parts.append(
            f"SELECT {', '.join(views.COLUMNS)}\n"
            f"FROM read_parquet([{files}], hive_partitioning = false)\n"
            f"WHERE {' AND '.join([*bounds, *range_conditions(pieces)])}"
        )
    sql = "\nUNION ALL ".join(parts) or no_rows_sql(views.COLUMNS)
    files = archive.store.duckdb_files
    return shared_connection(memory_limit, files=files).sql(sql)


def trade_batches(archive: TradeStore, pair: str, time_range: Range) -> Iterator[pa.RecordBatch]:
    """Yield the same trades as batches, at least one, even while the archive is being written.

    Words are plain strings, as DuckDB returns them.

    Args:
        archive: where the trades are.
        pair: the altname.
        time_range: the range of published time.

    Raises:
        ArchiveDamaged: a file can't be read, or compaction removes files again and again.
    """
    yield pa.RecordBatch.from_pylist([], schema=PLAIN_TRADES)
    for batch in archive.scan(pair, time_range):
        yield batch.cast(PLAIN_TRADES)


# --- roll-ups, recomputed -------------------------------------------------------------------------

# Roll-ups are built with pyarrow (`rollups.PartialCandles`). `verify` recomputes them with
# DuckDB: two implementations without common code prove more than one.

TRADE_COLUMNS = ["trade_id", "time", "price", "volume", "side"]
_RECOMPUTE_MEMORY = "512MB"
_PART_ROWS = 200_000


def recompute_partials(
    batches: Iterable[pa.RecordBatch], width_ns: int, cut_ns: int, what: str
) -> Iterator[pa.Table]:
    """Compute the partial candles of a segment again, by the SQL that defines a candle.

    Args:
        batches: all trades of the segment in order, with `TRADE_COLUMNS`.
        width_ns: the length of the candles.
        cut_ns: parts begin at multiples of this time, itself a multiple of `width_ns`.
        what: names the work in messages.

    Yields tables of `PARTIALS`, part by part: all candles of a year would take much memory.

    Raises:
        ValueDoesNotFit: a sum has too many digits.
    """
    schema = pa.schema([SEGMENT_SCHEMA.field(name) for name in TRADE_COLUMNS])
    for part in _parts(batches, cut_ns):
        yield _aggregate_partials(part, schema, ALL_AGGREGATES | LAST_TIME, width_ns, what)


def _parts(batches: Iterable[pa.RecordBatch], cut_ns: int) -> Iterator[list[pa.RecordBatch]]:
    """Join ordered batches to parts of some `_PART_ROWS`, which begin at multiples of a time."""
    part: list[pa.RecordBatch] = []
    for batch in batches:
        part.append(batch)
        if sum(len(rows) for rows in part) >= _PART_ROWS:
            last_cut_ns = int(times(batch)[-1]) // cut_ns * cut_ns
            complete, part = split_at(part, last_cut_ns - 1)
            if complete:
                yield complete
    yield part


def merge_partials(partials: pa.Table, width_ns: int, what: str) -> pa.Table:
    """Compute longer partial candles from shorter ones: as `recompute_partials`, without trades.

    Args:
        partials: of `recompute_partials`, for a width that divides the longer one.
        width_ns: the length of the longer candles.
        what: names the work in messages.

    Raises:
        ValueDoesNotFit: a sum has too many digits.
    """
    return _aggregate_partials(partials.to_batches(), PARTIALS, MERGE_AGGREGATES, width_ns, what)


def _aggregate_partials(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    formulas: Mapping[str, str],
    width_ns: int,
    what: str,
) -> pa.Table:
    columns = ", ".join(f"{formulas[name]} AS {name}" for name in PARTIALS.names[1:])
    number = f"epoch_ns(time) // {width_ns}"
    sql = (
        f"SELECT make_timestamp_ns({number} * {width_ns}) AS time, {columns}\n"
        f"FROM parts GROUP BY {number} ORDER BY {number}"
    )
    with_place = schema.append(pa.field("place", pa.int64()))
    reader = pa.RecordBatchReader.from_batches(with_place, _with_place(batches))
    connection = shared_connection(_RECOMPUTE_MEMORY, 1)
    with translate_errors(what, _RECOMPUTE_MEMORY):
        connection.register("parts", reader)
        return connection.sql(sql).to_arrow_table().cast(PARTIALS)


def _with_place(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the batches with the column `place`, the position of each row."""
    first = 0
    for batch in batches:
        place = np.arange(first, first + batch.num_rows)
        yield batch.append_column("place", pa.array(place))
        first += batch.num_rows
