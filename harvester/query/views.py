"""SQL statements that create the view `trades` and the macros `tape` and `ohlc`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

import duckdb

from harvester import __version__
from harvester.errors import ArchiveUnwritable, UsageError
from harvester.query.calendar import FIRST_MONDAY_NS
from harvester.query.candle_sql import with_vwap
from harvester.query.source_choice import ALL_AGGREGATES, no_rows_sql, path_literal, text_literal
from harvester.storage.filesystem import writing
from harvester.storage.output_files import replacing
from harvester.storage.trade_store import Piece, TradeStore
from harvester.times import DAY, MAX_COUNT, MONTHS, UNITS_NS

# --- views ----------------------------------------------------------------------------------------

# The view `trades` has two forms. `fixed_trades_sql` names the files of this moment, so a query
# only opens them. `current_trades_sql` lists the files at each query, for a database file that is
# kept while the archive grows. Both read each moment from one file only.

COLUMNS = {
    "trade_id": "BIGINT",
    "time": "TIMESTAMP_NS",
    "tie": "INTEGER",
    "price": "DECIMAL(18, 10)",
    "volume": "DECIMAL(22, 8)",
    "side": "VARCHAR",
    "order_type": "VARCHAR",
    "misc": "VARCHAR",
}
"""The columns of docs/format.md and their DuckDB types."""

PARTITION = {"pair": "VARCHAR", "year": "BIGINT"}

_DIGITS = "?" * 19
_SEGMENT_PATTERN = f"trades/pair=*/year=????/{_DIGITS}-{_DIGITS}.*parquet"
"""It also matches the files of a few other names, which `_PATH_REGEX` excludes."""
_PATH_REGEX = r"pair=([^/]+)/year=([0-9]+)/([0-9]{19})-([0-9]{19})([.]csv)?[.]parquet$"


def create_statements(
    trades: str,
    names: Mapping[str, str],
    stored: Collection[str] | None = None,
    unknown: str | None = None,
    *,
    is_kept: bool = False,
) -> Iterator[str]:
    """Yield the statements that create the view and the macros, in order.

    Args:
        trades: the query behind the view `trades`.
        names: altnames by exact spelling, which the macros accept; after it, in any case.
        stored: the altnames that are accepted, all others being unknown; None accepts all.
        unknown: the error message for any other name, with `{}` for it; None takes it as altname.
        is_kept: for a file, which other versions of DuckDB open: `ohlc` takes one pair only.
    """
    yield "CREATE SCHEMA harvester"
    yield f"CREATE VIEW trades AS {trades}"
    yield from _altname_macros(names, stored, unknown)
    yield _opens_macro()
    yield _YEAR_OF_MACRO
    yield _TRADE_HISTORY_MACRO
    yield _OHLC_MACRO if is_kept else _OHLC_MACROS


# --- the view `trades` ----------------------------------------------------------------------------


def fixed_trades_sql(archive: TradeStore, pieces: Iterable[Piece]) -> str:
    """Return the query behind `trades` over a fixed list of files.

    Args:
        archive: where the files are.
        pieces: the trades to read, of any pairs.
    """
    located = [(archive.location(piece.segment), piece) for piece in pieces]
    if not located:
        return no_rows_sql(COLUMNS | PARTITION)
    files = ", ".join(path_literal(location) for location, _ in located)
    # By file name: if DuckDB skips the files of other pairs, its `file_index` changes.
    conditions = [
        f"(held.filename <> {text_literal(location)} "
        f"OR held.time > make_timestamp_ns({piece.within.after}))"
        for location, piece in located
        if piece.within.after > piece.segment.range.after
    ]
    root = PurePath(archive.store.location(""))
    source = _read_parquet(f"[{files}]", root)
    where = f"\nWHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {_view_columns(root)}\nFROM {source} AS held{where}"


def current_trades_sql(archive: TradeStore) -> str:
    """Return the query behind `trades` over the files that the archive has when the query runs.

    If a file overlaps earlier ones, only its rows after them are read: the read rule of
    docs/format.md, by the names of the files. Files overlap only after a crash.
    """
    pattern = f"{path_literal(str(archive.root))[:-1]}/{_SEGMENT_PATTERN}'"
    # The segments of all pairs are listed here: it refuses links, which the pattern would follow.
    segments = archive.all_segments()
    source = _read_parquet(pattern, archive.root, ", filename = true")
    if not segments:
        # Without files there are no columns, so an empty result with the columns is added.
        rows = no_rows_sql(COLUMNS | PARTITION | {"filename": "VARCHAR"})
        files = source.removesuffix(")") + ", allow_empty = true)"
        source = f"({rows} UNION ALL BY NAME SELECT * FROM {files})"  # noqa: S608
    return (
        f"SELECT {_view_columns(archive.root)}\nFROM {source} AS held\n"
        f"LEFT JOIN ({_overlaps_sql(pattern)}) AS cut ON held.filename = cut.file\n"
        f"WHERE regexp_matches(held.filename, '{_PATH_REGEX}')\n"
        "AND (cut.reached IS NULL OR held.time > make_timestamp_ns(cut.reached))"
    )


def _overlaps_sql(pattern: str) -> str:
    """Return a query for the files that overlap earlier ones, and where the earlier ones end."""
    parts = "\n    ".join(
        f"regexp_extract(file, '{_PATH_REGEX}', {group})::BIGINT AS {name},"
        for group, name in ((3, '"after"'), (4, "through"))
    )
    return f"""
SELECT file, reached FROM (
    SELECT file, "after", max(through) OVER (
        PARTITION BY held ORDER BY "after", through DESC, is_imported
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS reached
    FROM (SELECT file,
    {parts}
    regexp_extract(file, '{_PATH_REGEX}', 5) <> '' AS is_imported,
    regexp_extract(file, '{_PATH_REGEX}', 1) AS held
    FROM glob({pattern}) WHERE regexp_matches(file, '{_PATH_REGEX}'))
) WHERE reached > "after"
"""  # noqa: S608


def _read_parquet(files: str, root: PurePath, more_options: str = "") -> str:
    if _has_partition_name(root):
        return f"read_parquet({files}, hive_partitioning = false{more_options})"
    types = ", ".join(f"{name}: {kind}" for name, kind in PARTITION.items())
    return (
        f"read_parquet({files}, hive_partitioning = true, hive_types = {{{types}}}{more_options})"
    )


def _has_partition_name(root: PurePath) -> bool:
    """Return whether DuckDB would mistake a folder above the archive for a partition."""
    return any(part.lower().startswith(("pair=", "year=")) for part in root.parts)


def _view_columns(root: PurePath) -> str:
    """Return the columns of the view, from the table alias `held`.

    All are qualified: if a macro's parameter has the name of a column, an unqualified name in a
    view that the macro reads is ambiguous to DuckDB ("Conflicting column names").
    """
    columns = [f"held.{name}" for name in COLUMNS]
    if _has_partition_name(root):
        columns += [
            f"regexp_extract(held.filename, '{_PATH_REGEX}', 1) AS pair",
            f"regexp_extract(held.filename, '{_PATH_REGEX}', 2)::BIGINT AS year",
        ]
    else:
        columns += [f"held.{name}" for name in PARTITION]
    return ", ".join(columns)


# --- macros ---------------------------------------------------------------------------------------

# The exchange's order in one number: as fast as a file's row number, which the view lacks.
_POSITION = "epoch_ns(t.time)::HUGEINT * 4294967296 + t.tie"

_AGGREGATES = {
    name: ALL_AGGREGATES[name]
    for name in (
        *("open", "high", "low", "close", "volume", "count", "value"),
        *("buy_volume", "sell_volume"),
    )
}

_TRADE_HISTORY_MACRO = """CREATE MACRO tape(pair) AS TABLE
SELECT * FROM trades AS t WHERE t.pair = harvester.altname(pair) ORDER BY t.time, t.tie"""

_SINCE, _UNTIL = "since::TIMESTAMP_NS", "until::TIMESTAMP_NS"


def _candles(condition: str, *, by_pair: bool = False) -> str:
    """Return the rows of `ohlc`, of the trades that meet a condition."""
    # Not `pair`, which is the macro's parameter.
    market = "market, " if by_pair else ""
    groups = f"""(
    SELECT {market}opens, {", ".join(f"{sql} AS {name}" for name, sql in _AGGREGATES.items())}
    FROM (
        SELECT {"t.pair AS market, " if by_pair else ""}harvester.opens(epoch_ns(t.time), interval)
            AS opens, {_POSITION} AS place, t.price AS price, t.volume AS volume, t.side AS side
        FROM trades AS t
        WHERE {condition}
            AND (since IS NULL OR t.time >= {_SINCE} AND t.year >= harvester.year_of({_SINCE}))
            AND (until IS NULL OR t.time < {_UNTIL} AND t.year <= harvester.year_of({_UNTIL}))
    ) GROUP BY {market}opens
)"""  # noqa: S608 - nothing in it comes from outside
    return f"""SELECT {"market AS pair, " if by_pair else ""}make_timestamp_ns(opens) AS time, open,
    high, low, close, vwap, volume, count, value, buy_volume, sell_volume
FROM {with_vwap(groups)}
ORDER BY {market}opens"""  # noqa: S608 - nothing in it comes from outside


# A join, as DuckDB opens the files of other pairs where the condition has a lambda.
_IS_LISTED = """t.pair IN (
            SELECT harvester.altname(spelling) FROM (SELECT unnest(pair) AS spelling))"""
_PAIR_CANDLES = _candles("t.pair = harvester.altname(pair)")
_OHLC_MACRO = f"""CREATE MACRO ohlc(pair, interval, since := NULL, until := NULL) AS TABLE
{_PAIR_CANDLES}"""

# DuckDB chooses by type. Files don't have it: DuckDB before 1.4 can't open one with such a macro.
_OHLC_MACROS = f"""CREATE MACRO ohlc(pair VARCHAR, interval, since := NULL, until := NULL) AS TABLE
({_PAIR_CANDLES}),
(pair VARCHAR[], interval, since := NULL, until := NULL) AS TABLE
{_candles(_IS_LISTED, by_pair=True)}"""

# DuckDB's `year` of a TIMESTAMP_NS rounds up: 23:59:59.9999999 would be in the next year.
_YEAR_OF_MACRO = (
    "CREATE MACRO harvester.year_of(moment) AS year(make_timestamp(epoch_ns(moment) // 1000))"
)


def _altname_macros(
    names: Mapping[str, str], stored: Collection[str] | None, unknown: str | None
) -> Iterator[str]:
    """Yield the macros that resolve any spelling to the altname, as `PairIndex` does."""
    # The altnames by upper-case spelling; several if they differ only by case.
    any_case: dict[str, list[str]] = {}
    for spelling, altname in sorted(names.items(), key=lambda name: name[1]):
        same = any_case.setdefault(spelling.upper(), [])
        if altname not in same:
            same.append(altname)
    altnames: list[str | None] = [
        altname if stored is None or altname in stored else None for altname in names.values()
    ]
    altnames += [same[0] if len(same) == 1 else None for same in any_case.values()]
    ambiguous_names: list[str | None] = [None] * len(names)
    ambiguous_names += [" and ".join(same) if len(same) > 1 else None for same in any_case.values()]
    yield _lookup_macro("meant", altnames)
    yield _lookup_macro("several", ambiguous_names)
    exact = f"list_position({_text_list(names)}, spelling)"
    yield f"CREATE MACRO harvester.exact(spelling) AS nullif({exact}, 0)"
    folded = f"list_position({_text_list(any_case)}, upper(spelling))"
    yield (f"CREATE MACRO harvester.any_case(spelling) AS nullif({folded}, 0) + {len(names)}")
    bare = "regexp_replace(trim(name), '[-/_: ]', '', 'g')"
    yield f"""CREATE MACRO harvester.place(name) AS coalesce(
    harvester.exact(trim(name)), harvester.exact({bare}),
    harvester.any_case(trim(name)), harvester.any_case({bare}))"""
    other = "trim(name)" if unknown is None else f"error({_message_sql(unknown, 'name')})"
    ambiguous = (
        f"{_message_sql('{} may mean ', 'name')} || harvester.several(harvester.place(name)) || "
        "', which differ by case: give the exact spelling'"
    )
    # DuckDB evaluates a CASE before it looks for files; for an `error` in a coalesce it would open
    # them all.
    yield f"""CREATE MACRO harvester.altname(name) AS CASE
    WHEN harvester.meant(harvester.place(name)) IS NOT NULL
    THEN harvester.meant(harvester.place(name))
    WHEN harvester.several(harvester.place(name)) IS NOT NULL THEN error({ambiguous})
    ELSE {other} END"""


def _lookup_macro(name: str, values: Iterable[str | None]) -> str:
    """Return a macro that returns the value at an index from 1; NULL if the index is NULL."""
    return f"CREATE MACRO harvester.{name}(place) AS (({_text_list(values)})[place])"


def _text_list(values: Iterable[str | None]) -> str:
    literals = ", ".join("NULL" if value is None else text_literal(value) for value in values)
    return f"[{literals}]::VARCHAR[]"


def _message_sql(message: str, parameter: str) -> str:
    """Return a message as SQL, with the quoted value of an SQL expression instead of `{}`."""
    before, _, after = message.partition("{}")
    return f"{text_literal(before)} || '''' || {parameter} || '''' || {text_literal(after)}"


# --- intervals ------------------------------------------------------------------------------------

_TEXT = "trim(interval::VARCHAR)"
_PARTS = f"'^([0-9]{{1,18}})({'|'.join(MAX_COUNT)})?$'"
_COUNT = f"regexp_extract({_TEXT}, {_PARTS}, 1)::BIGINT"
_UNIT = f"coalesce(nullif(regexp_extract({_TEXT}, {_PARTS}, 2), ''), 'm')"


def _opens_macro() -> str:
    """Return the macro for the start of the interval that contains a moment, in nanoseconds.

    Intervals are written as everywhere in harvester, with the same error messages.
    """
    day = f"(DATE '1970-01-01' + (ns // {DAY})::INTEGER)"
    month = f"((year({day}) - 1970) * 12 + month({day}) - 1)"
    first = f"({month} - {month} % ({_COUNT} * {_by_unit(MONTHS)}))"
    date = f"make_date(1970 + {first} // 12, {first} % 12 + 1, 1)"
    width = f"({_COUNT} * {_by_unit(UNITS_NS)})"
    return f"""CREATE MACRO harvester.opens(ns, interval) AS CASE
{_interval_errors()}
WHEN {_UNIT} = 'w' THEN ns - (ns + {width} - {FIRST_MONDAY_NS}) % {width}
WHEN {_UNIT} IN ('mo', 'q', 'y') THEN epoch_us({date}::TIMESTAMP) * 1000
ELSE ns - ns % {width} END"""


def _by_unit(values: Mapping[str, int]) -> str:
    whens = " ".join(f"WHEN '{unit}' THEN {value}" for unit, value in values.items())
    return f"(CASE {_UNIT} {whens} END)::BIGINT"


def _interval_errors() -> str:
    letters = f"left({_TEXT}, -1)"
    errors = {
        "interval IS NULL": "'interval is NULL: give one such as 7m or 4h'",
        f"regexp_full_match({_TEXT}, '[0-9]+M')": (
            f"'interval ''' || {_TEXT} || ''': is ' || {letters} || 'm (minutes) meant, or ' "
            f"|| {letters} || 'mo (months)?'"
        ),
        f"NOT regexp_matches({_TEXT}, {_PARTS})": _message_sql(
            "{} is no interval: give a number and one of ms, s, m, h, d, w, mo, q, y, such as 7m "
            "or 4h; a bare number is minutes",
            _TEXT,
        ),
        f"{_COUNT} = 0": _message_sql("interval {} has no length: give 1 or more", _TEXT),
        f"{_COUNT} > {_by_unit(MAX_COUNT)}": _message_sql(
            "interval {} is longer than a century: give a shorter one", _TEXT
        ),
    }
    return "\n".join(f"WHEN {when} THEN error({text})" for when, text in errors.items())


# --- database file --------------------------------------------------------------------------------

OLDEST_READER = "v1.2.0"
"""This version of DuckDB, and any later one, can open the file."""


_VIEWS = {"trades", "archive"}


_MACROS = {
    *("tape", "ohlc", "meant", "several", "exact", "any_case", "place", "altname", "opens"),
    "year_of",
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
        all_names = {pair: pair for pair in archive.stored_pairs()} | dict(names)
        trades = current_trades_sql(archive)
        for statement in create_statements(trades, all_names, is_kept=True):
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
    is_such = target.is_file() and _is_duckdb(target) and _has_only_views(target)
    if target.exists() and not is_such:
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
            [(*others, view_names, macros)] = connection.execute(
                "SELECT (SELECT count(*) FROM duckdb_tables()), "
                "(SELECT count(*) FROM duckdb_sequences()), "
                "(SELECT count(*) FROM duckdb_types() WHERE NOT internal), "
                "(SELECT count(*) FROM duckdb_schemas() "
                "WHERE NOT internal AND schema_name <> 'harvester'), "
                "(SELECT list(view_name) FROM duckdb_views() WHERE NOT internal), "
                "(SELECT list(function_name) FROM duckdb_functions() WHERE NOT internal)"
            ).fetchall()
    except duckdb.Error:
        return False
    return not any(others) and {*(view_names or ())} == _VIEWS and {*(macros or ())} <= _MACROS
