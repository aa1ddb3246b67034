"""Run SQL on the views of an archive, and write the views to a DuckDB database file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import duckdb
from duckdb.sqltypes import DuckDBPyType

from harvester import __version__
from harvester.errors import ArchiveDamaged, ArchiveUnwritable, BadQuery, HarvesterError, UsageError
from harvester.query import views
from harvester.query.connection import MEMORY_LIMIT, connect, text_literal
from harvester.storage.filesystem import writing
from harvester.storage.output_files import replacing
from harvester.storage.trade_store import LISTINGS, Piece, TradeStore

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
    threads: int | None = None,
) -> duckdb.DuckDBPyConnection:
    """Return a connection with the view `trades` and the macros `tape` and `ohlc`; see docs/sql.md.

    It reads the files of this moment, each moment of trading from one file only. After a
    compaction open another connection.

    Args:
        archive: where the trades are; if it is empty, `trades` has no rows.
        names: altnames by exact spelling, which the macros accept; another case is accepted if it
            fits one pair only. By default the altnames of the stored pairs.
        memory_limit: what DuckDB may use, such as 2GB; beyond it, DuckDB spills to disk.
        threads: how many threads DuckDB may use; None for all cores.

    Raises:
        BadSetting: DuckDB rejects the memory limit or the number of threads.
    """
    runner = _SnapshotRunner(archive, names, memory_limit, threads)
    return runner.run(lambda connection: connection)


def sql(
    archive: TradeStore,
    query: str,
    params: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    names: Mapping[str, str] | None = None,
    memory_limit: str = MEMORY_LIMIT,
) -> duckdb.DuckDBPyRelation:
    """Run SQL on an archive; the result is a relation that runs when it is read.

    Of several statements, all but the last run at once.

    Args:
        archive: where the trades are.
        query: any SQL of DuckDB, with the view `trades` and the macros `tape(pair)` and
            `ohlc(pair, interval)`.
        params: values for `?`, or by name for `$name`: pass what a user typed here.
        names: altnames by exact spelling, which the macros accept.
        memory_limit: what DuckDB may use.

    Raises:
        BadQuery: DuckDB rejects the query, or there is none.
        HarvesterError: the memory limit is too low for a statement that runs at once.
        ArchiveDamaged: a file of the archive can't be read.
        duckdb.Error: when read: a value can't be cast, memory ran out, a file was removed.
    """
    statements = read_statements(query, memory_limit)
    return run_statements(archive, statements, params, names=names, memory_limit=memory_limit)


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
        params: values for `?`, or by name for `$name`, of the last statement.
        names: altnames by exact spelling, that the macros take.
        memory_limit: the memory that DuckDB may use.

    Raises:
        BadQuery: DuckDB refuses a statement.
        HarvesterError: the memory allowed does not suffice; or a compaction removed files while
            statements ran that may change something, and so are not run again.
        ArchiveDamaged: a file of the archive can't be read.
    """

    def run(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        for statement in statements[:-1]:
            connection.execute(statement)
        return connection.sql(statements[-1], params=params)

    runner = _SnapshotRunner(archive, names, memory_limit)
    return runner.run(run, tries=_max_tries(statements))


def is_repeatable(statements: Sequence[duckdb.Statement]) -> bool:
    """Whether statements are one query that changes nothing, so that it may be run again."""
    return _max_tries(statements) > 1


def read_statements(query: str, memory_limit: str = MEMORY_LIMIT) -> list[duckdb.Statement]:
    """Parse SQL into statements, at least one.

    Args:
        query: any SQL of DuckDB.
        memory_limit: the memory that DuckDB may use.

    Raises:
        BadQuery: DuckDB can't parse it, or there is no statement.
    """
    with translate_sql_errors(memory_limit):
        statements = connect(memory_limit).extract_statements(query)
    if not statements:
        raise BadQuery("there is no query in that text: give one such as FROM trades LIMIT 10")
    return statements


def _max_tries(statements: Sequence[duckdb.Statement]) -> int:
    """How often statements may run: once if they may change something."""
    is_single_select = [statement.type for statement in statements] == [duckdb.StatementType.SELECT]
    return LISTINGS if is_single_select else 1


@dataclass(frozen=True)
class _SnapshotRunner:
    """Runs a function on a connection to an archive; retries if compaction removed a file."""

    archive: TradeStore
    names: Mapping[str, str] | None
    memory_limit: str
    threads: int | None = None

    def run(self, fn: Callable[[duckdb.DuckDBPyConnection], T], *, tries: int = LISTINGS) -> T:
        for _ in range(tries):
            pieces = [piece for pair in self.archive.held() for piece in self.archive.pieces(pair)]
            try:
                with translate_sql_errors(self.memory_limit):
                    return fn(self._connect(pieces))
            except ArchiveDamaged:
                if not self._lost_a_file(pieces):
                    raise
        raise HarvesterError(
            "files of the archive were merged into others while they were read: run it again"
        )

    def _lost_a_file(self, pieces: list[Piece]) -> bool:
        pairs = self.archive.held()
        existing = {segment for pair in pairs for segment in self.archive.segments(pair)}
        return any(piece.segment not in existing for piece in pieces)

    def _connect(self, pieces: list[Piece]) -> duckdb.DuckDBPyConnection:
        connection = connect(self.memory_limit, self.threads)
        # Otherwise DuckDB would look up unknown table names among the Python variables.
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET TimeZone = 'UTC'")
        pairs = self.archive.held()
        names = {pair: pair for pair in pairs} | dict(self.names or {})
        more = f" and {len(pairs) - 8} more" if len(pairs) > 8 else ""
        holds = f"it holds {', '.join(pairs[:8])}{more}" if pairs else "it is empty"
        unknown = f"the archive holds no trades of {{}}; {holds}"
        trades = views.fixed_trades_sql(self.archive, pieces)
        for statement in views.create_statements(trades, views.PairNames(names, pairs), unknown):
            connection.execute(statement)
        return connection


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
        columns.append(f'#{number}{cast} AS "{free.replace(chr(34), chr(34) * 2)}"')
    return relation.project(", ".join(columns))


def _needs_text(kind: DuckDBPyType) -> bool:
    if kind.id in _TEXT_TYPES:
        return True
    if kind.id not in ("array", "list", "map", "struct"):
        return False
    return any(isinstance(child, DuckDBPyType) and _needs_text(child) for _, child in kind.children)


@contextmanager
def translate_sql_errors(memory_limit: str) -> Iterator[None]:
    """Translate DuckDB's errors on a user's SQL; its message and its arrow are kept.

    Raises:
        BadQuery: DuckDB rejects the query, or a value in it.
        HarvesterError: the memory limit is too low.
        ArchiveDamaged: a file of the archive can't be read.
    """
    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except duckdb.OutOfMemoryException as error:
        brief = str(error).partition("\n")[0]
        raise HarvesterError(
            f"the query needs more than {memory_limit} of memory: raise memory_limit, or choose "
            f"a shorter range ({brief})"
        ) from error
    except duckdb.Error as error:
        text = str(error)
        if "/trades/pair=" in text or "/candles/interval=" in text:
            raise ArchiveDamaged(f"the query can't be answered: {text}") from error
        # The arrow points into the line above it, so that line is not indented. The message before
        # it can contain values, whose lines must not look like lines of harvester's output.
        message, separator, arrow = text.rpartition("\n\nLINE ")
        if not separator:
            message, arrow = text, ""
        message = message.replace("\n\n", "\n").replace("\n", "\n    ").expandtabs(4)
        separator = separator.replace("\n\n", "\n")
        raise BadQuery(f"the query can't be run\n{message}{separator}{arrow}") from error


# --- database file --------------------------------------------------------------------------------

OLDEST_READER = "v1.2.0"
"""This version of DuckDB, and any later one, can open the file."""

_VIEWS = {"trades", "archive"}
_MACROS = {"tape", "ohlc", "meant", "several", "exact", "any_case", "place", "altname", "opens"} | {
    "year_of",
    # In files that older versions of harvester wrote.
    "named",
    "known",
}


def write_database(
    archive: TradeStore, file: str, *, names: Mapping[str, str] | None = None
) -> None:
    """Write a DuckDB database without trades, with the views and macros of docs/sql.md.

    They list the archive's files at each query, so the file stays valid as the archive grows. It
    appears under its name when it is complete, and replaces one that was written before.

    Args:
        archive: where the trades are; the views contain its absolute path.
        file: the path of the database file.
        names: altnames by exact spelling, which the macros accept in addition to altnames.

    Raises:
        UsageError: the path exists and is no such database, or contains more than that, or has a
            write-ahead log with changes; or it lies in an archive.
        ArchiveUnwritable: the system refused to write.
    """
    target = Path(os.path.realpath(file))
    with writing(file, "place"):
        _check_replaceable(target, file)
        with (
            replacing(Path(file)) as staged,
            TemporaryDirectory(prefix=".", suffix=".tmp", dir=target.parent) as folder,
        ):
            # DuckDB names the catalog after the file, so the temporary file has the final name.
            temporary = Path(folder) / target.name
            with _duckdb_writing(file):
                _create_views(archive, str(temporary), names or {})
            temporary.rename(staged)


def _create_views(archive: TradeStore, file: str, names: Mapping[str, str]) -> None:
    with duckdb.connect(
        file, config={"storage_compatibility_version": OLDEST_READER}
    ) as connection:
        all_names = {pair: pair for pair in archive.held()} | dict(names)
        trades = views.current_trades_sql(archive)
        for statement in views.create_statements(trades, views.PairNames(all_names), None):
            connection.execute(statement)
        connection.execute(
            f"CREATE VIEW harvester.archive AS SELECT {text_literal(str(archive.root))} AS path, "
            f"{text_literal(__version__)} AS made_by"
        )


@contextmanager
def _duckdb_writing(file: str) -> Iterator[None]:
    try:
        yield
    except duckdb.IOException as error:
        raise ArchiveUnwritable(f"can't write {file}: {error}") from error


def _check_replaceable(target: Path, file: str) -> None:
    """Refuse to replace anything but a database that `write_database` wrote, unchanged."""
    log = target.with_name(f"{target.name}.wal")
    if log.exists():
        raise UsageError(
            f"{log} holds changes to a database of that name: open that one with DuckDB, which "
            "writes them into it, or remove the file; or choose another name"
        )
    if not target.exists():
        return
    if not target.is_file() or not _is_duckdb(target) or not _has_only_views(target):
        raise UsageError(
            f"{file} is there already and is not, or not only, a database of such views: "
            "choose another name, or remove it first"
        )


def _is_duckdb(target: Path) -> bool:
    # DuckDB itself also opens other files, such as SQLite's.
    with target.open("rb") as file:
        return file.read(12)[8:] == b"DUCK"


def _has_only_views(target: Path) -> bool:
    try:
        with duckdb.connect(str(target), read_only=True) as connection:
            others = connection.execute(
                "SELECT (SELECT count(*) FROM duckdb_tables()), "
                "(SELECT count(*) FROM duckdb_sequences()), "
                "(SELECT count(*) FROM duckdb_types() WHERE NOT internal), "
                "(SELECT count(*) FROM duckdb_schemas() "
                "WHERE NOT internal AND schema_name <> 'harvester')"
            ).fetchall()
            rows = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal")
            view_names = {name for (name,) in rows.fetchall()}
            rows = connection.execute(
                "SELECT function_name FROM duckdb_functions() WHERE NOT internal"
            )
            macros = {name for (name,) in rows.fetchall()}
    except duckdb.Error:
        return False
    return others == [(0, 0, 0, 0)] and view_names == _VIEWS and macros <= _MACROS
