"""Run SQL on the views of an archive; write a database file that any DuckDB opens."""

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
from harvester.query.connection import MEMORY_LIMIT, connect, quoted
from harvester.storage.export import replacing
from harvester.storage.filesystem import writing
from harvester.storage.trade_store import LISTINGS, Piece, TradeStore

# --- console --------------------------------------------------------------------------------------

BATCH_ROWS = 20_000

T = TypeVar("T")

# Arrow has no type for these, or Parquet and JSON have none; DuckDB's own text loses nothing.
_AS_TEXT = {
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
    """A connection with the view `trades` and the macros `tape` and `ohlc`; see docs/sql.md.

    It reads the files that stand now, each moment from one of them only, whoever writes. After a
    compaction make another.

    Args:
        archive: where the tape is; it may be empty, and then `trades` has no rows.
        names: altnames by exact spelling, that the macros take; another case will do where it
            fits one pair alone. The altnames of what is held unless given.
        memory_limit: what DuckDB may use, such as 2GB; beyond it, it spills to disk.
        threads: how many DuckDB may use; None for all cores.

    Raises:
        BadSetting: DuckDB does not take the memory limit or the number of threads.
    """
    asker = _Asker(archive, names, memory_limit, threads)
    return asker.ask(lambda connection: connection)


def sql(
    archive: TradeStore,
    query: str,
    params: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    names: Mapping[str, str] | None = None,
    memory_limit: str = MEMORY_LIMIT,
) -> duckdb.DuckDBPyRelation:
    """Ask an archive in SQL: a relation that runs when it is read, `.df()`, `.pl()` or in Arrow.

    Args:
        archive: where the tape is.
        query: any SQL of DuckDB's; `trades`, `tape(pair)` and `ohlc(pair, interval)` are there.
        params: values for `?`, or by name for `$name`: what a user types belongs there.
        names: altnames by exact spelling, that the macros take.
        memory_limit: what DuckDB may use.

    Raises:
        BadQuery: DuckDB can't make sense of the query, or there is none.
        HarvesterError: the memory allowed does not suffice for a statement that runs at once.
        ArchiveDamaged: a file of the archive can't be read.
        duckdb.Error: when read: a value can't be cast, memory ran out, a file is gone.
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

    def ask(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        for statement in statements[:-1]:
            connection.execute(statement)
        return connection.sql(statements[-1], params=params)

    return _Asker(archive, names, memory_limit).ask(ask, listings=_listings(statements))


def is_repeatable(statements: Sequence[duckdb.Statement]) -> bool:
    """Whether statements are one query that changes nothing, so that it may be run again."""
    return _listings(statements) > 1


def read_statements(query: str, memory_limit: str = MEMORY_LIMIT) -> list[duckdb.Statement]:
    """Parse SQL into statements, at least one.

    Args:
        query: any SQL of DuckDB.
        memory_limit: the memory that DuckDB may use.

    Raises:
        BadQuery: DuckDB can't parse it, or there is no statement.
    """
    with asking_sql(memory_limit):
        found = connect(memory_limit).extract_statements(query)
    if not found:
        raise BadQuery("there is no query in that text: give one such as FROM trades LIMIT 10")
    return found


def _listings(statements: Sequence[duckdb.Statement]) -> int:
    """How often statements may be run: what changes something only once."""
    is_question = [statement.type for statement in statements] == [duckdb.StatementType.SELECT]
    return LISTINGS if is_question else 1


@dataclass(frozen=True)
class _Asker:
    """Connections to an archive, made anew when a compaction took a file that one has listed."""

    archive: TradeStore
    names: Mapping[str, str] | None
    memory_limit: str
    threads: int | None = None

    def ask(
        self, question: Callable[[duckdb.DuckDBPyConnection], T], *, listings: int = LISTINGS
    ) -> T:
        for _ in range(listings):
            pieces = [piece for pair in self.archive.held() for piece in self.archive.pieces(pair)]
            try:
                with asking_sql(self.memory_limit):
                    return question(self._connection(pieces))
            except ArchiveDamaged:
                if not self._vanished(pieces):
                    raise
        raise HarvesterError(
            "files of the archive were merged into others while they were read: run it again"
        )

    def _vanished(self, pieces: list[Piece]) -> bool:
        held = self.archive.held()
        standing = {segment for pair in held for segment in self.archive.segments(pair)}
        return any(piece.segment not in standing for piece in pieces)

    def _connection(self, pieces: list[Piece]) -> duckdb.DuckDBPyConnection:
        connection = connect(self.memory_limit, self.threads)
        # A name that no table has must not find a variable of ours.
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET TimeZone = 'UTC'")
        held = self.archive.held()
        known = {name: name for name in held} | dict(self.names or {})
        more = f" and {len(held) - 8} more" if len(held) > 8 else ""
        holds = f"it holds {', '.join(held[:8])}{more}" if held else "it is empty"
        unknown = f"the archive holds no trades of {{}}; {holds}"
        trades = views.listed_trades(self.archive, pieces)
        for statement in views.statements(trades, views.Spelled(known, held), unknown):
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
        cast = "::VARCHAR" if _is_odd(kind) else ""
        columns.append(f'#{number}{cast} AS "{free.replace(chr(34), chr(34) * 2)}"')
    return relation.project(", ".join(columns))


def _is_odd(kind: DuckDBPyType) -> bool:
    if kind.id in _AS_TEXT:
        return True
    if kind.id not in ("array", "list", "map", "struct"):
        return False
    return any(isinstance(one, DuckDBPyType) and _is_odd(one) for _, one in kind.children)


@contextmanager
def asking_sql(memory_limit: str) -> Iterator[None]:
    """Turn DuckDB's errors into ours, its own words and its arrow under the query kept.

    Raises:
        BadQuery: DuckDB can't make sense of the query, or of a value in it.
        HarvesterError: the memory allowed does not suffice.
        ArchiveDamaged: a file of the archive can't be read.
    """
    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except duckdb.OutOfMemoryException as error:
        brief = str(error).partition("\n")[0]
        raise HarvesterError(
            f"the query needs more than {memory_limit} of memory: raise memory_limit, or ask for "
            f"a shorter span ({brief})"
        ) from error
    except duckdb.Error as error:
        text = str(error)
        if "/trades/pair=" in text or "/candles/interval=" in text:
            raise ArchiveDamaged(f"the query can't be answered: {text}") from error
        # The arrow points into the line above it, so that nothing may stand before that line. The
        # words before it can hold values, whose own lines must not look like lines of ours.
        words, at, arrow = text.rpartition("\n\nLINE ")
        if not at:
            words, arrow = text, ""
        words = words.replace("\n\n", "\n").replace("\n", "\n    ").expandtabs(4)
        at = at.replace("\n\n", "\n")
        raise BadQuery(f"the query can't be run\n{words}{at}{arrow}") from error


# --- database -------------------------------------------------------------------------------------

OLDEST_READER = "v1.2.0"
"""The file is written so that this DuckDB, and any later one, opens it."""

_VIEWS = {"trades", "archive"}
_MACROS = {"tape", "ohlc", "meant", "several", "exact", "any_case", "place", "altname", "opens"} | {
    "year_of",
    # Of files that older versions wrote.
    "named",
    "known",
}


def write_database(
    archive: TradeStore, file: str, *, names: Mapping[str, str] | None = None
) -> None:
    """Write a database that holds no trades, only the views and macros of docs/sql.md.

    They look for the archive's files anew at each query, so the file stays right as the archive
    grows. It stands at its place only once it is whole; one that was written before is replaced.

    Args:
        archive: where the tape is; its views name it by its absolute path.
        file: where to.
        names: altnames by exact spelling, that the macros take besides altnames.

    Raises:
        UsageError: something stands there that is no such database, or holds more than one, or has
            changes beside it that were not written into it; or it lies in an archive.
        ArchiveUnwritable: the machine refused.
    """
    target = Path(os.path.realpath(file))
    with writing(file, "place"):
        _check_replaceable(target, file)
        with (
            replacing(Path(file)) as staged,
            TemporaryDirectory(prefix=".", suffix=".tmp", dir=target.parent) as folder,
        ):
            # DuckDB names what it writes after the file, so that is called as it will be.
            made = Path(folder) / target.name
            with _duckdb_writing(file):
                _fill(archive, str(made), names or {})
            made.rename(staged)


def _fill(archive: TradeStore, file: str, names: Mapping[str, str]) -> None:
    with duckdb.connect(file, config={"storage_compatibility_version": OLDEST_READER}) as one:
        known = {name: name for name in archive.held()} | dict(names)
        trades = views.standing_trades(archive)
        for statement in views.statements(trades, views.Spelled(known), None):
            one.execute(statement)
        one.execute(
            f"CREATE VIEW harvester.archive AS SELECT {quoted(str(archive.root))} AS path, "
            f"{quoted(__version__)} AS made_by"
        )


@contextmanager
def _duckdb_writing(file: str) -> Iterator[None]:
    try:
        yield
    except duckdb.IOException as error:
        raise ArchiveUnwritable(f"can't write {file}: {error}") from error


def _check_replaceable(target: Path, file: str) -> None:
    """Refuse to write over anything but a database of ours that holds nothing else."""
    log = target.with_name(f"{target.name}.wal")
    if log.exists():
        raise UsageError(
            f"{log} holds changes to a database of that name: open that one with DuckDB, which "
            "writes them into it, or remove the file; or choose another name"
        )
    if not target.exists():
        return
    if not target.is_file() or not _is_duckdb(target) or not _is_ours(target):
        raise UsageError(
            f"{file} is there already and is not, or not only, a database of such views: "
            "choose another name, or remove it first"
        )


def _is_duckdb(target: Path) -> bool:
    # DuckDB itself would take other files, such as SQLite's, for databases too.
    with target.open("rb") as file:
        return file.read(12)[8:] == b"DUCK"


def _is_ours(target: Path) -> bool:
    try:
        with duckdb.connect(str(target), read_only=True) as one:
            others = one.execute(
                "SELECT (SELECT count(*) FROM duckdb_tables()), "
                "(SELECT count(*) FROM duckdb_sequences()), "
                "(SELECT count(*) FROM duckdb_types() WHERE NOT internal), "
                "(SELECT count(*) FROM duckdb_schemas() "
                "WHERE NOT internal AND schema_name <> 'harvester')"
            ).fetchall()
            held = one.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal")
            found = {name for (name,) in held.fetchall()}
            held = one.execute("SELECT function_name FROM duckdb_functions() WHERE NOT internal")
            macros = {name for (name,) in held.fetchall()}
    except duckdb.Error:
        return False
    return others == [(0, 0, 0, 0)] and found == _VIEWS and macros <= _MACROS
