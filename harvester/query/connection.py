"""DuckDB connections, quoting of names and values, and translation of its errors."""

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

# --- engine ---------------------------------------------------------------------------------------

MEMORY_LIMIT = "2GB"

Connection = duckdb.DuckDBPyConnection
"""What rooms above hand on, who need no DuckDB of their own."""


def connect(
    memory_limit: str = MEMORY_LIMIT, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """A connection of its own, in memory, that spills to the machine's temporary folder.

    Raises:
        BadSetting: DuckDB does not take the limit or the number of threads.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory_limit,
        # Left alone, DuckDB spills into `.tmp` of the folder that the user happens to stand in.
        "temp_directory": str(Path(tempfile.gettempdir()) / f"harvester-{uuid4().hex}"),
        # What a caller builds upon the relation, such as .limit(10), must keep the order of time.
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
    # In notebooks DuckDB turns the bar on by itself; the library never prints.
    _no_progress_bar(connection)
    return connection


_databases: dict[tuple[int, str, int | None], duckdb.DuckDBPyConnection] = {}
_making = Lock()


def session(
    memory_limit: str = MEMORY_LIMIT, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """A connection to a database that questions of the same limits share: made in no time.

    Its temporary tables are its own. Making the database takes longer than a short question.

    Raises:
        BadSetting: DuckDB does not take the limit or the number of threads.
    """
    # A fork must not go on with its parent's.
    key = (os.getpid(), memory_limit, threads)
    with _making:
        if key not in _databases:
            _databases[key] = connect(memory_limit, threads)
        one = _databases[key].cursor()
    _no_progress_bar(one)
    return one


def _no_progress_bar(connection: duckdb.DuckDBPyConnection) -> None:
    """Keep DuckDB from drawing. In Jupyter without ipywidgets it never does, nor may it be told."""
    with suppress(duckdb.InvalidInputException):
        connection.execute("SET enable_progress_bar = false")


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def quoted_path(path: str) -> str:
    """A file's name as an SQL literal that means this very file, whatever it is called."""
    return quoted("".join(f"[{one}]" if one in "*?[" else one for one in path))


@contextmanager
def asking(what: str, memory_limit: str) -> Iterator[None]:
    """Turn DuckDB's errors into ours; `what` names the question in the message.

    Raises:
        ValueDoesNotFit: a sum or a product has more digits than a decimal can hold.
        HarvesterError: the memory allowed does not suffice.
        ArchiveDamaged: a file can't be read.
    """
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise HarvesterError(
            f"{what} needs more than {memory_limit} of memory: raise memory_limit, or ask for a "
            f"shorter span ({_brief(error)})"
        ) from error
    except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
        raise ValueDoesNotFit(
            f"{what}: a sum of price x volume reaches 10^20, more than fits 38 exact digits: "
            f"ask for a shorter interval or span ({_brief(error)})"
        ) from error
    except duckdb.Error as error:
        raise ArchiveDamaged(f"{what} can't be answered: {_brief(error)}") from error


def _brief(error: duckdb.Error) -> str:
    return str(error).partition("\n")[0]
