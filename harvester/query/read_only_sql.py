"""SQL of other people on an archive: one query, read only, with limits, that can be cancelled.

DuckDB refuses every file outside the archive's folder `trades`, extensions, and changes of its
settings. It would still write into that folder, as a COPY may stand in a WITH clause. So a text
must be a single query, and it runs as a subquery, where DuckDB refuses all that changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Timer
from typing import NamedTuple

import duckdb
import pyarrow as pa

from harvester.errors import BadQuery
from harvester.query.source_choice import path_literal, text_literal
from harvester.query.sql import Connection, file_relation, translate_sql_errors

BATCH_ROWS = 500
MAX_TEXT = 100_000
"""Most characters of a query."""
MAX_CELL_TEXT = 4_000
"""Most characters of a value that is text; a longer one is cut."""


class QueryLimits(NamedTuple):
    """What a query may return and take.

    Attributes:
        rows: most rows.
        size: most bytes of the rows in memory; the rows that do not fit are left out.
        seconds: the longest time.
    """

    rows: int = 10_000
    size: int = 8_000_000
    seconds: float = 30.0


class LimitedRows(NamedTuple):
    """The first rows of a query.

    Attributes:
        table: the rows, with types that files can hold.
        is_cut: whether there are more rows.
    """

    table: pa.Table
    is_cut: bool


class ReadOnlyQuery:
    """One query on a connection of its own, which another thread may cancel."""

    def __init__(self, connection: Connection, root: str, limits: QueryLimits) -> None:
        """Restrict the connection; it is closed after the query.

        Args:
            connection: with the views of an archive, as `connect_views` returns it.
            root: the archive's folder.
            limits: of the query.
        """
        self._connection = connection
        self._limits = limits
        self._is_cancelled = Event()
        folder = f"{Path(root).absolute() / 'trades'}/"
        # DuckDB compares the path as the views have it: with wildcards in brackets, if there are.
        folders = ", ".join(sorted({text_literal(folder), path_literal(folder)}))
        for statement in (
            f"SET allowed_directories = [{folders}]",
            "SET autoinstall_known_extensions = false",
            "SET autoload_known_extensions = false",
            "SET enable_external_access = false",
            "SET lock_configuration = true",
        ):
            connection.execute(statement)

    def cancel(self) -> None:
        """End the query as soon as possible; `run` raises BadQuery."""
        self._is_cancelled.set()
        self._interrupt()

    def _interrupt(self) -> None:
        # The query may have ended meanwhile, which closes its connection.
        with suppress(duckdb.ConnectionException):
            self._connection.interrupt()

    def run(self, text: str) -> LimitedRows:
        """Run a query and return its first rows.

        Args:
            text: a single query: SELECT, FROM, WITH, VALUES, DESCRIBE, SUMMARIZE or SHOW.

        Raises:
            BadQuery: it is not one query, would change something, reads another file, took too
                long, or was cancelled; or DuckDB refuses it.
            HarvesterError: the memory allowed does not suffice.
            ArchiveDamaged: a file of the archive can't be read.
        """
        if len(text) > MAX_TEXT:
            raise BadQuery(f"the query has {len(text):,} characters: give {MAX_TEXT:,} at most")
        timer = Timer(self._limits.seconds, self._interrupt)
        with self._connection, self._ending(timer), translate_sql_errors("the limit"):
            statement = self._single_query(text)
            # The line ends close comments. Every SQL text that is complete by itself stays one
            # expression between parentheses.
            rows = self._connection.sql(
                f"SELECT * FROM (\n{statement.query.strip().rstrip(';')}\n) "  # noqa: S608
                f"LIMIT {self._limits.rows + 1}"
            )
            return self._read(file_relation(statement, rows) or rows)

    def _single_query(self, text: str) -> duckdb.Statement:
        statements = self._connection.extract_statements(text)
        if not statements:
            raise BadQuery("there is no query in that text: give one such as FROM trades LIMIT 10")
        if len(statements) > 1:
            raise BadQuery(f"these are {len(statements)} statements: give one query at a time")
        [statement] = statements
        if statement.type != duckdb.StatementType.SELECT:
            raise BadQuery(
                f"{statement.type.name} is not allowed here: only queries are, which change "
                "nothing; the command `sql` runs any statement"
            )
        return statement

    def _read(self, rows: duckdb.DuckDBPyRelation) -> LimitedRows:
        """Read batch by batch until a limit is reached."""
        texts = [
            f"left(#{number}, {MAX_CELL_TEXT})" if kind.id == "varchar" else f"#{number}"
            for number, kind in enumerate(rows.types, 1)
        ]
        named = (
            f'{sql} AS "{name.replace(chr(34), chr(34) * 2)}"'
            for sql, name in zip(texts, rows.columns, strict=True)
        )
        reader = rows.project(", ".join(named)).to_arrow_reader(BATCH_ROWS)
        batches: list[pa.RecordBatch] = []
        count = size = 0
        for batch in reader:
            size += batch.nbytes
            if batches and size > self._limits.size:
                return LimitedRows(pa.Table.from_batches(batches, reader.schema), is_cut=True)
            batches.append(batch)
            count += batch.num_rows
        table = pa.Table.from_batches(batches, reader.schema)
        return LimitedRows(table.slice(0, self._limits.rows), is_cut=count > self._limits.rows)

    @contextmanager
    def _ending(self, timer: Timer) -> Iterator[None]:
        """Interrupt the query when its time is up; turn DuckDB's interruption into an error."""
        timer.daemon = True
        timer.start()
        try:
            yield
        except (KeyboardInterrupt, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "nterrupt" not in str(error):
                raise
            if self._is_cancelled.is_set():
                raise BadQuery("the query was cancelled") from error
            raise BadQuery(
                f"the query took longer than {self._limits.seconds:g} seconds: choose a shorter "
                "range of time, or run it by the command `sql`"
            ) from error
        finally:
            timer.cancel()
