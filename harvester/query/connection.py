"""DuckDB connections, SQL literals, and translation of DuckDB's errors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from uuid import uuid4

import duckdb

from harvester.errors import ArchiveDamaged, BadSetting, HarvesterError, ValueDoesNotFit

MEMORY_LIMIT = "2GB"

Connection = duckdb.DuckDBPyConnection
"""For type annotations in packages that do not import DuckDB."""


def connect(
    memory_limit: str = MEMORY_LIMIT, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Open a new in-memory database that spills to the system's temporary folder.

    Args:
        memory_limit: what DuckDB may use, such as 2GB.
        threads: how many threads DuckDB may use; None for all cores.

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
    # In notebooks DuckDB enables its progress bar by default; the library never prints.
    _disable_progress_bar(connection)
    return connection


_databases: dict[tuple[int, str, int | None], duckdb.DuckDBPyConnection] = {}
_databases_lock = Lock()


def shared_connection(
    memory_limit: str = MEMORY_LIMIT, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Return a new connection to a database that all queries with the same limits share.

    It has temporary tables of its own. Opening a database takes longer than a short query.

    Args:
        memory_limit: what DuckDB may use, such as 2GB.
        threads: how many threads DuckDB may use; None for all cores.

    Raises:
        BadSetting: DuckDB rejects the memory limit or the number of threads.
    """
    # A forked process must not use its parent's database.
    key = (os.getpid(), memory_limit, threads)
    with _databases_lock:
        if key not in _databases:
            _databases[key] = connect(memory_limit, threads)
        connection = _databases[key].cursor()
    _disable_progress_bar(connection)
    return connection


def _disable_progress_bar(connection: duckdb.DuckDBPyConnection) -> None:
    """Disable the progress bar. In Jupyter without ipywidgets DuckDB has none and rejects this."""
    with suppress(duckdb.InvalidInputException):
        connection.execute("SET enable_progress_bar = false")


def text_literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def path_literal(path: str) -> str:
    """Return a path as an SQL literal in which DuckDB sees no wildcards."""
    return text_literal("".join(f"[{char}]" if char in "*?[" else char for char in path))


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
        yield
    except duckdb.OutOfMemoryException as error:
        raise HarvesterError(
            f"{what} needs more than {memory_limit} of memory: raise memory_limit, or choose "
            f"a shorter range ({_first_line(error)})"
        ) from error
    except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
        raise ValueDoesNotFit(
            f"{what}: a sum of price x volume reaches 10^20, more than fits 38 exact digits: "
            f"choose a shorter interval or range ({_first_line(error)})"
        ) from error
    except duckdb.Error as error:
        raise ArchiveDamaged(f"{what} can't be answered: {_first_line(error)}") from error


def _first_line(error: duckdb.Error) -> str:
    return str(error).partition("\n")[0]
