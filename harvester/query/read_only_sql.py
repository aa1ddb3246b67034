"""SQL of other people on an archive: one query, read only, with limits, that can be cancelled.

DuckDB refuses every file outside the archive's folder `trades`, extensions, and changes of its
settings. It would still write into that folder, as a COPY may stand in a WITH clause. So a text
must be a single query, and it runs as a subquery, where DuckDB refuses all that changes anything.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import BadQuery
from harvester.query.source_choice import path_literal, quoted_name, text_literal
from harvester.query.sql import Connection, file_relation, parse_statements, translate_sql_errors

BATCH_ROWS = 500
MAX_TEXT = 100_000
"""Most characters of a query."""
MAX_CELL_TEXT = 4_000
"""Most characters of a value as text; a longer one is cut. Bytes are text of two digits each."""
MIN_CELL_SIZE = 16
"""Least bytes counted per value: as text, even a null takes some."""
REPEAT_S = 0.05
"""Seconds between repeated interrupts; between two of DuckDB's calls, one has no effect."""

AsText = Callable[[pa.RecordBatch], pa.RecordBatch]


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
        has_cut_values: whether values are cut, as they were too long.
    """

    table: pa.Table
    is_cut: bool
    has_cut_values: bool = False

    @property
    def notes(self) -> list[str]:
        """What is missing, as sentences."""
        notes = []
        if self.is_cut:
            notes.append(f"these are the first {self.table.num_rows:,} rows, and there are more")
        if self.has_cut_values:
            notes.append(f"values are cut to {MAX_CELL_TEXT:,} characters")
        return notes


class ReadOnlyQuery:
    """One query on a connection of its own, which another thread may cancel."""

    def __init__(
        self, connection: Connection, root: str, limits: QueryLimits, as_text: AsText
    ) -> None:
        """Restrict the connection; it is closed after the query.

        Args:
            connection: with the views of an archive, as `connect_views` returns it.
            root: the archive's folder or URL.
            limits: of the query.
            as_text: a batch with its nested values as text.
        """
        self._as_text = as_text
        self._connection = connection
        self._limits = limits
        self._is_cancelled = Event()
        self._is_late = False
        folder = f"{root if '://' in root else Path(root).absolute()}/trades/"
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
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadQuery("the query is no text: it has half of a character") from error
        with self._connection, self._ending(), translate_sql_errors():
            self._check()
            statement = self._single_query(text)
            self._check()
            # The line ends close comments. Every SQL text that is complete by itself stays one
            # expression between parentheses.
            rows = self._connection.sql(
                f"SELECT * FROM (\n{statement.query.strip().rstrip(';')}\n) "  # noqa: S608
                f"LIMIT {self._limits.rows + 1}"
            )
            return self._read(file_relation(statement, rows) or rows)

    def _single_query(self, text: str) -> duckdb.Statement:
        statements = parse_statements(self._connection, text)
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
        named = [
            f"{sql} AS {quoted_name(name)}"
            for number, (name, kind) in enumerate(zip(rows.columns, rows.types, strict=True), 1)
            for sql in _limited_sql(number, kind.id)
        ]
        self._check()
        reader = rows.project(", ".join(named)).to_arrow_reader(BATCH_ROWS)
        batches: list[pa.RecordBatch] = []
        left, is_cut = self._limits.size, False
        for batch in reader:
            self._check()
            part = _fitting_part(batch, left)
            batches.append(part)
            left -= _size(part)
            if part.num_rows < batch.num_rows:
                is_cut = True
                break
        table = pa.Table.from_batches(batches, reader.schema)
        if is_cut and not table.num_rows:
            raise BadQuery("a single row of the query is too large: choose fewer columns")
        is_cut = is_cut or table.num_rows > self._limits.rows
        kinds = [kind.id for kind in rows.types]
        first = table.slice(0, self._limits.rows)
        return _cut_values(first, kinds, self._as_text, is_cut=is_cut)

    def _check(self) -> None:
        if self._is_late or self._is_cancelled.is_set():
            raise KeyboardInterrupt  # as DuckDB's interruption is translated

    def _interrupt_in_time(self, ended: Event) -> None:
        """Interrupt the query when it is cancelled or its time is up, until it has ended."""
        self._is_late = not self._is_cancelled.wait(self._limits.seconds)
        while not ended.is_set():
            # The query may end meanwhile, which closes its connection.
            with suppress(duckdb.ConnectionException):
                self._connection.interrupt()
            ended.wait(REPEAT_S)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Interrupt the query when its time is up; turn DuckDB's interruption into an error."""
        ended = Event()
        Thread(target=self._interrupt_in_time, args=(ended,), daemon=True).start()
        try:
            yield
        except (KeyboardInterrupt, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "nterrupt" not in str(error):
                raise
            if self._is_cancelled.is_set() and not self._is_late:
                raise BadQuery("the query was cancelled") from error
            raise BadQuery(
                f"the query took longer than {self._limits.seconds:g} seconds: choose a shorter "
                "range of time, or run it by the command `sql`"
            ) from error
        finally:
            ended.set()
            # This ends the thread at once, if the query was in time.
            self._is_cancelled.set()


# --- limited values -------------------------------------------------------------------------------

NESTED = ("array", "list", "map", "struct")


def _limited_sql(number: int, kind: str) -> list[str]:
    """A column with its values cut shortly after the limit, so that it shows that they are cut.

    Lists and the like become two columns: those that are short, and the others as text.
    """
    if kind == "varchar":
        return [f"left(#{number}, {MAX_CELL_TEXT + 1})"]
    if kind == "blob":
        return [f"#{number}[1:{MAX_CELL_TEXT // 2 + 1}]"]
    if kind in NESTED:
        text = f"#{number}::VARCHAR"
        is_long = f"length({text}) > {MAX_CELL_TEXT}"
        return [
            f"CASE WHEN {is_long} THEN NULL ELSE #{number} END",
            f"CASE WHEN {is_long} THEN left({text}, {MAX_CELL_TEXT}) END",
        ]
    return [f"#{number}"]


def _cut_values(
    table: pa.Table, kinds: Sequence[str], as_text: AsText, *, is_cut: bool
) -> LimitedRows:
    """Cut the values of the columns that `_limited_sql` describes."""
    read = iter(zip(table.columns, table.schema, strict=True))
    columns, fields, has_cut_values = [], [], False
    for kind in kinds:
        column, field = next(read)
        if kind == "varchar":
            has_cut_values |= bool(
                pc.any(pc.greater(pc.utf8_length(column), MAX_CELL_TEXT)).as_py()
            )
            column = pc.utf8_slice_codeunits(column, 0, MAX_CELL_TEXT)
        elif kind == "blob":
            most = MAX_CELL_TEXT // 2
            has_cut_values |= bool(pc.any(pc.greater(pc.binary_length(column), most)).as_py())
            column = pc.binary_slice(column, 0, most)
        elif kind in NESTED:
            texts, _ = next(read)
            if texts.null_count < len(texts):
                has_cut_values = True
                flat = [
                    as_text(batch).column(0)
                    for batch in pa.Table.from_arrays([column], [field.name]).to_batches()
                ]
                column = pc.coalesce(texts, pa.chunked_array(flat, pa.string()))
                field = pa.field(field.name, pa.string())
        columns.append(column)
        fields.append(field)
    return LimitedRows(
        pa.Table.from_arrays(columns, schema=pa.schema(fields)), is_cut, has_cut_values
    )


def _size(batch: pa.RecordBatch) -> int:
    least: int = batch.num_rows * batch.num_columns * MIN_CELL_SIZE
    return max(int(batch.nbytes), least)


def _fitting_part(batch: pa.RecordBatch, size: int) -> pa.RecordBatch:
    """The first rows of a batch that fit into so many bytes."""
    if _size(batch) <= size:
        return batch
    rows: int = bisect_right(
        range(batch.num_rows), size, key=lambda row: _size(batch.slice(0, row + 1))
    )
    return batch.slice(0, rows)
