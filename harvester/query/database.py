"""A small database file with the views of an archive, which any DuckDB opens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from harvester import __version__
from harvester.errors import ArchiveUnwritable, UsageError
from harvester.query import views
from harvester.query.engine import quoted
from harvester.storage.export import replacing
from harvester.storage.filesystem import writing
from harvester.storage.trade_store import Archive

OLDEST_READER = "v1.2.0"
"""The file is written so that this DuckDB, and any later one, opens it."""

_VIEWS = {"trades", "archive"}
_MACROS = {"tape", "ohlc", "meant", "several", "exact", "any_case", "place", "altname", "opens"} | {
    "year_of",
    # Of files that older versions wrote.
    "named",
    "known",
}


def write_database(archive: Archive, file: str, *, names: Mapping[str, str] | None = None) -> None:
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


def _fill(archive: Archive, file: str, names: Mapping[str, str]) -> None:
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
