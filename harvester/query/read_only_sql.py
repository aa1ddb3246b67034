"""SQL of other people on an archive: one query, read only, with limits, that can be cancelled.

DuckDB refuses every file outside the archive's folder `trades`, extensions, and changes of its
settings. It would still write into that folder, as a COPY may stand in a WITH clause. So a text
must be a single query, and it runs as a subquery, where DuckDB refuses all that changes anything.

DuckDB looks at interrupts and at its memory between steps only, and a few queries crash it. So
each query runs in a process of its own, which the system ends when it exceeds a limit.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import BadQuery, HarvesterError
from harvester.query.source_choice import path_literal, quoted_name, text_literal
from harvester.query.sql import Connection, file_relation, parse_statements, translate_sql_errors

BATCH_ROWS = 500
MAX_TEXT = 100_000
"""Most characters of a query."""
MAX_CELL_TEXT = 4_000
"""Most characters of a value as text; a longer one is cut. Bytes are text of two digits each."""
MIN_CELL_SIZE = 16
"""Least bytes counted per value: as text, even a null takes some."""
SPARE_MEMORY = 1_000_000_000
"""Bytes that a query's process may use beyond DuckDB's memory limit."""

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
    """One query in a process of its own, which another thread may cancel."""

    def __init__(
        self, connect: Callable[[], Connection], root: str, limits: QueryLimits, as_text: AsText
    ) -> None:
        """Nothing is run yet.

        Args:
            connect: opens a connection with the views of an archive, such as `Archive.connect`. It
                is pickled, as the process of the query calls it.
            root: the archive's folder or URL.
            limits: of the query.
            as_text: a batch with its nested values as text; a function of a module.
        """
        self._connect = connect
        self._root = root
        self._limits = limits
        self._as_text = as_text
        self._lock = Lock()
        self._is_cancelled = False
        self._process: subprocess.Popen[bytes] | None = None

    def cancel(self) -> None:
        """End the query at once; `run` raises BadQuery."""
        with self._lock:
            self._is_cancelled = True
            if self._process is not None:
                self._process.kill()

    def run(self, text: str) -> LimitedRows:
        """Run a query and return its first rows.

        Args:
            text: a single query: SELECT, FROM, WITH, VALUES, DESCRIBE, SUMMARIZE or SHOW.

        Raises:
            BadQuery: it is not one query, would change something, reads another file, took too
                long, was cancelled, or crashed DuckDB; or DuckDB refuses it.
            HarvesterError: the memory allowed does not suffice, or no process can be started.
            ArchiveDamaged: a file of the archive can't be read.
        """
        if len(text) > MAX_TEXT:
            raise BadQuery(f"the query has {len(text):,} characters: give {MAX_TEXT:,} at most")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadQuery("the query is no text: it has half of a character") from error
        request = (self._connect, self._root, self._limits, self._as_text, text)
        try:
            # A process that is ended leaves what DuckDB spilled.
            with TemporaryDirectory(prefix="harvester-", ignore_cleanup_errors=True) as folder:
                output = self._answer(pickle.dumps(request), folder)
        except OSError as error:
            raise HarvesterError(f"the query's process can't be started: {error}") from error
        if output is None:
            raise self._unanswered()
        answer = pickle.loads(output)  # noqa: S301 - written by our own code
        if isinstance(answer, Exception):
            raise answer
        found: LimitedRows = answer
        return found

    def _answer(self, request: bytes, folder: str) -> bytes | None:
        """What a new process answers, whose temporary files are in a folder."""
        with self._lock:
            if self._is_cancelled:
                return None
            self._process = _start_process(folder)
        output, _ = self._process.communicate(request)
        # Of a process that is ended while it writes, a part arrives.
        return output if self._process.returncode == 0 else None

    def _unanswered(self) -> BadQuery:
        """Why the process did not answer."""
        if self._is_cancelled or self._process is None:
            return BadQuery("the query was cancelled")
        if self._process.returncode == -signal.SIGALRM:
            return BadQuery(
                f"the query took longer than {self._limits.seconds:g} seconds: choose a shorter "
                "range of time, or run it by the command `sql`"
            )
        return BadQuery(
            "the query ended DuckDB, as a very large or deeply nested value can "
            f"(exit status {self._process.returncode}): choose other values"
        )


# --- the process of a query -----------------------------------------------------------------------


def _start_process(folder: str) -> subprocess.Popen[bytes]:
    """Start Python, which runs `answer_request`. Nobody's `__main__` is imported again."""
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return subprocess.Popen(  # noqa: S603 - Python itself
        [sys.executable, "-P", "-c", f"import {__name__} as module; module.answer_request()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths, "TMPDIR": folder},
        # Ctrl-C in the terminal is for the parent, which then cancels its queries.
        start_new_session=True,
    )


def answer_request() -> None:
    """Run the query on stdin, within its limits; write its rows or the error to stdout."""
    connect, root, limits, as_text, text = pickle.load(sys.stdin.buffer)  # noqa: S301 - by `run`
    # The default action of the signal ends the process wherever it is, also without its parent.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.seconds)
    answer: LimitedRows | Exception
    try:
        with connect() as connection, translate_sql_errors():
            _limit_memory(connection)
            _restrict(connection, root)
            answer = _run_query(connection, text, limits, as_text)
    except MemoryError:
        answer = HarvesterError("the query needs more memory than it may use")
    except Exception as error:  # noqa: BLE001 - raised again by the parent
        answer = error
    pickle.dump(answer, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    os._exit(0)  # without the cleaning up of all modules, which takes a while


def _limit_memory(connection: Connection) -> None:
    """Let Linux refuse memory far beyond DuckDB's limit, which a single value can exceed."""
    if sys.platform == "linux":
        sql = "SELECT parse_formatted_bytes(current_setting('memory_limit'))"
        [[allowed]] = connection.sql(sql).fetchall()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + allowed + SPARE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _restrict(connection: Connection, root: str) -> None:
    """Refuse other files, extensions and further settings on a connection."""
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


def _run_query(
    connection: Connection, text: str, limits: QueryLimits, as_text: AsText
) -> LimitedRows:
    statement = _single_query(connection, text)
    # The line ends close comments. Every SQL text that is complete by itself stays one expression
    # between parentheses.
    rows = connection.sql(
        f"SELECT * FROM (\n{_without_end(statement.query)}\n) "  # noqa: S608
        f"LIMIT {limits.rows + 1}"
    )
    return _read_rows(file_relation(statement, rows) or rows, limits, as_text)


def _single_query(connection: Connection, text: str) -> duckdb.Statement:
    statements = parse_statements(connection, text)
    if len(statements) > 1:
        raise BadQuery(f"these are {len(statements)} statements: give one query at a time")
    [statement] = statements
    if statement.type != duckdb.StatementType.SELECT:
        raise BadQuery(
            f"{statement.type.name} is not allowed here: only queries are, which change "
            "nothing; the command `sql` runs any statement"
        )
    return statement


def _without_end(query: str) -> str:
    """One statement without the semicolon at its end and what follows: comments."""
    text = query.encode()
    operators = (
        offset for offset, kind in duckdb.tokenize(query) if kind == duckdb.token_type.operator
    )
    end = next((offset for offset in operators if text[offset : offset + 1] == b";"), len(text))
    return text[:end].decode()


def _read_rows(rows: duckdb.DuckDBPyRelation, limits: QueryLimits, as_text: AsText) -> LimitedRows:
    """Read batch by batch until a limit is reached."""
    named = [
        f"{sql} AS {quoted_name(name)}"
        for number, (name, kind) in enumerate(zip(rows.columns, rows.types, strict=True), 1)
        for sql in _limited_sql(number, kind.id)
    ]
    reader = rows.project(", ".join(named)).to_arrow_reader(BATCH_ROWS)
    batches: list[pa.RecordBatch] = []
    left, is_cut = limits.size, False
    for batch in reader:
        part = _fitting_part(batch, left)
        batches.append(part)
        left -= _size(part)
        if part.num_rows < batch.num_rows:
            is_cut = True
            break
    table = pa.Table.from_batches(batches, reader.schema)
    if is_cut and not table.num_rows:
        raise BadQuery("a single row of the query is too large: choose fewer columns")
    is_cut = is_cut or table.num_rows > limits.rows
    kinds = [kind.id for kind in rows.types]
    return _cut_values(table.slice(0, limits.rows), kinds, as_text, is_cut=is_cut)


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
