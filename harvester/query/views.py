"""SQL views and macros of an archive, as the statements that create them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import NamedTuple

from harvester.query.candle_sql import with_vwap
from harvester.query.connection import quoted, quoted_path
from harvester.query.sources import BASE, MORE
from harvester.storage.trade_store import Piece, TradeStore
from harvester.times import DAY, MAX_COUNT, UNITS_NS

# --- views ----------------------------------------------------------------------------------------

# The view `trades` comes in two forms. `listed_trades` names the files that stand now, and so
# needs nothing at each query but to open them. `standing_trades` finds the files anew each time,
# for a database that is kept while the archive grows. Both take each moment from one file only.

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
"""The columns of docs/format.md, as DuckDB reads them."""

PARTITION = {"pair": "VARCHAR", "year": "BIGINT"}

_STAMP = "?" * 19
_SEGMENTS = f"trades/pair=*/year=????/{_STAMP}-{_STAMP}.parquet"
_NAME = r"pair=([^/]+)/year=([0-9]+)/([0-9]{19})-([0-9]{19})[.]parquet$"


class Spelled(NamedTuple):
    """What the macros take for the name of a pair.

    Attributes:
        names: altnames by exact spelling.
        held: the altnames that may be meant, the others being unknown; None for all.
    """

    names: Mapping[str, str]
    held: Collection[str] | None = None

    def in_any_case(self) -> dict[str, list[str]]:
        """The altnames of each spelling in capitals; several where only case tells them apart."""
        found: dict[str, set[str]] = {}
        for spelling, altname in self.names.items():
            found.setdefault(spelling.upper(), set()).add(altname)
        return {spelling: sorted(altnames) for spelling, altnames in found.items()}


def statements(trades: str, spelled: Spelled, unknown: str | None) -> Iterator[str]:
    """What makes the views and macros, in order.

    Args:
        trades: the query behind the view `trades`.
        spelled: the names that the macros take; the exact spelling first, then any case.
        unknown: what to say of any other name, with `{}` where it stands; None takes it for an
            altname.
    """
    yield "CREATE SCHEMA harvester"
    yield f"CREATE VIEW trades AS {trades}"
    yield from _altname(spelled, unknown)
    yield _opens()
    yield _YEAR_OF
    yield _TAPE
    yield _OHLC


# --- trades --------------------------------------------------------------------------------------


def listed_trades(archive: TradeStore, pieces: Iterable[Piece]) -> str:
    """The query behind `trades` over the files of some pieces, of any pairs."""
    listed = [(archive.location(piece.segment), piece) for piece in pieces]
    if not listed:
        return f"SELECT {_nothing()} WHERE false"
    files = ", ".join(quoted_path(location) for location, _ in listed)
    # By name: when DuckDB leaves out the files of other pairs, it counts `file_index` anew.
    conditions = [
        f"(held.filename <> {quoted(location)} "
        f"OR held.time > make_timestamp_ns({piece.within.after}))"
        for location, piece in listed
        if piece.within.after > piece.segment.range.after
    ]
    source = _read_parquet(f"[{files}]", archive.root)
    where = f"\nWHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {_chosen(archive.root)}\nFROM {source} AS held{where}"


def standing_trades(archive: TradeStore) -> str:
    """The query behind `trades` over whatever files the archive holds when it runs.

    Of a file that reaches into what earlier ones hold, only the later rows are taken: the rule of
    docs/format.md, by the names of the files. That join has nothing to do but after a crash.
    """
    pattern = f"{quoted_path(str(archive.root))[:-1]}/{_SEGMENTS}'"
    # Of all pairs: the pattern would follow a link that the listing refuses.
    standing = [segment for pair in archive.held() for segment in archive.segments(pair)]
    source = _read_parquet(pattern, archive.root, ", filename = true")
    if not standing:
        # The rows of no file have no columns, so these are put beside them.
        rows = f"SELECT {_nothing()}, NULL::VARCHAR AS filename WHERE false"
        found = source.removesuffix(")") + ", allow_empty = true)"
        source = f"({rows} UNION ALL BY NAME SELECT * FROM {found})"  # noqa: S608
    return (
        f"SELECT {_chosen(archive.root)}\nFROM {source} AS held\n"
        f"LEFT JOIN ({_overlaps(pattern)}) AS cut ON held.filename = cut.file\n"
        "WHERE cut.reached IS NULL OR held.time > make_timestamp_ns(cut.reached)"
    )


def _overlaps(pattern: str) -> str:
    """The files that reach into earlier ones, and how far those reached."""
    parts = "\n    ".join(
        f"regexp_extract(file, '{_NAME}', {place})::BIGINT AS {name},"
        for place, name in ((3, '"after"'), (4, "through"))
    )
    return f"""
SELECT file, reached FROM (
    SELECT file, "after", max(through) OVER (
        PARTITION BY held ORDER BY "after", through DESC
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS reached
    FROM (SELECT file,
    {parts}
    regexp_extract(file, '{_NAME}', 1) AS held
    FROM glob({pattern}))
) WHERE reached > "after"
"""  # noqa: S608


def _read_parquet(files: str, root: PurePath, more: str = "") -> str:
    if _misleads(root):
        return f"read_parquet({files}, hive_partitioning = false{more})"
    types = ", ".join(f"{name}: {kind}" for name, kind in PARTITION.items())
    return f"read_parquet({files}, hive_partitioning = true, hive_types = {{{types}}}{more})"


def _misleads(root: PurePath) -> bool:
    """Whether a folder above the archive has a name that DuckDB would take for the partition's."""
    return any(part.lower().startswith(("pair=", "year=")) for part in root.parts)


def _chosen(root: PurePath) -> str:
    """The columns of the view, taken from `held`.

    All are qualified: where a macro's parameter is called as a column, an unqualified name in a
    view that the macro reads is ambiguous to DuckDB ("Conflicting column names").
    """
    columns = [f"held.{name}" for name in COLUMNS]
    if _misleads(root):
        columns += [
            f"regexp_extract(held.filename, '{_NAME}', 1) AS pair",
            f"regexp_extract(held.filename, '{_NAME}', 2)::BIGINT AS year",
        ]
    else:
        columns += [f"held.{name}" for name in PARTITION]
    return ", ".join(columns)


def _nothing() -> str:
    return ", ".join(f"NULL::{kind} AS {name}" for name, kind in (COLUMNS | PARTITION).items())


# --- macros --------------------------------------------------------------------------------------

# The tape's order in one number: as fast as a file's place, and known to the view.
_PLACE = "epoch_ns(t.time)::HUGEINT * 4294967296 + t.tie"

_MEASURES = {name: BASE[name] for name in ("open", "high", "low", "close")} | {
    "volume": BASE["volume"],
    "count": BASE["count"],
    "value": BASE["value"],
    "buy_volume": MORE["buy_volume"],
    "sell_volume": MORE["sell_volume"],
}

_TAPE = """CREATE MACRO tape(pair) AS TABLE
SELECT * FROM trades AS t WHERE t.pair = harvester.altname(pair) ORDER BY t.time, t.tie"""

_SINCE, _UNTIL = "since::TIMESTAMP_NS", "until::TIMESTAMP_NS"

_CANDLES = f"""(
    SELECT opens, {", ".join(f"{sql} AS {name}" for name, sql in _MEASURES.items())}
    FROM (
        SELECT harvester.opens(epoch_ns(t.time), interval) AS opens, {_PLACE} AS place,
            t.price AS price, t.volume AS volume, t.side AS side
        FROM trades AS t
        WHERE t.pair = harvester.altname(pair)
            AND (since IS NULL OR t.time >= {_SINCE} AND t.year >= harvester.year_of({_SINCE}))
            AND (until IS NULL OR t.time < {_UNTIL} AND t.year <= harvester.year_of({_UNTIL}))
    ) GROUP BY opens
)"""  # noqa: S608 - all of it is written here

_OHLC = f"""CREATE MACRO ohlc(pair, interval, since := NULL, until := NULL) AS TABLE
SELECT make_timestamp_ns(opens) AS time, open, high, low, close, vwap, volume, count,
    value, buy_volume, sell_volume
FROM {with_vwap(_CANDLES)}
ORDER BY opens"""  # noqa: S608 - all of it is written here

# `year` of a TIMESTAMP_NS rounds up, so that 23:59:59.9999999 falls into the next year.
_YEAR_OF = (
    "CREATE MACRO harvester.year_of(moment) AS year(make_timestamp(epoch_ns(moment) // 1000))"
)


def _altname(spelled: Spelled, unknown: str | None) -> Iterator[str]:
    """The macros that turn any spelling into the altname, by the rules of `PairIndex`."""
    any_case = spelled.in_any_case()
    altnames: list[str | None] = [
        name if spelled.held is None or name in spelled.held else None
        for name in spelled.names.values()
    ]
    altnames += [names[0] if len(names) == 1 else None for names in any_case.values()]
    several: list[str | None] = [None] * len(spelled.names)
    several += [" and ".join(names) if len(names) > 1 else None for names in any_case.values()]
    yield _entry("meant", altnames)
    yield _entry("several", several)
    exact = f"list_position({_texts(spelled.names)}, spelling)"
    yield f"CREATE MACRO harvester.exact(spelling) AS nullif({exact}, 0)"
    folded = f"list_position({_texts(any_case)}, upper(spelling))"
    yield (
        f"CREATE MACRO harvester.any_case(spelling) AS nullif({folded}, 0) + {len(spelled.names)}"
    )
    bare = "regexp_replace(trim(name), '[-/_: ]', '', 'g')"
    yield f"""CREATE MACRO harvester.place(name) AS coalesce(
    harvester.exact(trim(name)), harvester.exact({bare}),
    harvester.any_case(trim(name)), harvester.any_case({bare}))"""
    other = "trim(name)" if unknown is None else f"error({_said(unknown, 'name')})"
    ambiguous = (
        f"{_said('{} may mean ', 'name')} || harvester.several(harvester.place(name)) || "
        "', which differ by case: give the exact spelling'"
    )
    # A CASE, as DuckDB works it out before it looks for files; an `error` in a coalesce would make
    # it open them all.
    yield f"""CREATE MACRO harvester.altname(name) AS CASE
    WHEN harvester.meant(harvester.place(name)) IS NOT NULL
    THEN harvester.meant(harvester.place(name))
    WHEN harvester.several(harvester.place(name)) IS NOT NULL THEN error({ambiguous})
    ELSE {other} END"""


def _entry(name: str, values: Iterable[str | None]) -> str:
    """A macro that gives the value at a place, from 1; NULL where the place is NULL."""
    return f"CREATE MACRO harvester.{name}(place) AS (({_texts(values)})[place])"


def _texts(values: Iterable[str | None]) -> str:
    listed = ", ".join("NULL" if value is None else quoted(value) for value in values)
    return f"[{listed}]::VARCHAR[]"


def _said(message: str, parameter: str) -> str:
    """A message as SQL, with what was given in the place of `{}`."""
    before, _, after = message.partition("{}")
    return f"{quoted(before)} || '''' || {parameter} || '''' || {quoted(after)}"


# --- intervals -----------------------------------------------------------------------------------

_TEXT = "trim(interval::VARCHAR)"
_PARTS = f"'^([0-9]{{1,18}})({'|'.join(MAX_COUNT)})?$'"
_COUNT = f"regexp_extract({_TEXT}, {_PARTS}, 1)::BIGINT"
_UNIT = f"coalesce(nullif(regexp_extract({_TEXT}, {_PARTS}, 2), ''), 'm')"
_MONTHS = {"mo": 1, "q": 3, "y": 12}
# 1970 began on a Thursday: its first Monday was four days later.
_MONDAY = 4 * DAY


def _opens() -> str:
    """The macro that tells when the interval of a moment opens, both in nanoseconds.

    Intervals are written as everywhere in harvester, and refused in the same words.
    """
    day = f"(DATE '1970-01-01' + (ns // {DAY})::INTEGER)"
    month = f"((year({day}) - 1970) * 12 + month({day}) - 1)"
    first = f"({month} - {month} % ({_COUNT} * {_of_unit(_MONTHS)}))"
    date = f"make_date(1970 + {first} // 12, {first} % 12 + 1, 1)"
    width = f"({_COUNT} * {_of_unit(UNITS_NS)})"
    return f"""CREATE MACRO harvester.opens(ns, interval) AS CASE
{_refusals()}
WHEN {_UNIT} = 'w' THEN ns - (ns + {width} - {_MONDAY}) % {width}
WHEN {_UNIT} IN ('mo', 'q', 'y') THEN epoch_us({date}::TIMESTAMP) * 1000
ELSE ns - ns % {width} END"""


def _of_unit(values: Mapping[str, int]) -> str:
    whens = " ".join(f"WHEN '{unit}' THEN {value}" for unit, value in values.items())
    return f"(CASE {_UNIT} {whens} END)::BIGINT"


def _refusals() -> str:
    letters = f"left({_TEXT}, -1)"
    refused = {
        "interval IS NULL": "'interval is NULL: give one such as 7m or 4h'",
        f"regexp_full_match({_TEXT}, '[0-9]+M')": (
            f"'interval ''' || {_TEXT} || ''': is ' || {letters} || 'm (minutes) meant, or ' "
            f"|| {letters} || 'mo (months)?'"
        ),
        f"NOT regexp_matches({_TEXT}, {_PARTS})": _said(
            "{} is no interval: give a number and one of ms, s, m, h, d, w, mo, q, y, such as 7m "
            "or 4h; a bare number is minutes",
            _TEXT,
        ),
        f"{_COUNT} = 0": _said("interval {} has no length: give 1 or more", _TEXT),
        f"{_COUNT} > {_of_unit(MAX_COUNT)}": _said(
            "interval {} is longer than a century: give a shorter one", _TEXT
        ),
    }
    return "\n".join(f"WHEN {when} THEN error({text})" for when, text in refused.items())
