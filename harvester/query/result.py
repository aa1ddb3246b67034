"""`Result`: rows of a query that convert to pandas, Polars and Arrow and retry after compaction."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from html import escape
from itertools import chain
from operator import index
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, TypeVar, cast, overload

import duckdb
import pyarrow as pa

from harvester.argument_types import check_types, wrong_type
from harvester.errors import HarvesterError, ResultWarning, UsageError, not_installed
from harvester.query.source_choice import quoted_name
from harvester.query.sql import BATCH_ROWS as SQL_BATCH_ROWS
from harvester.query.sql import (
    MEMORY_LIMIT,
    MERGED_MEANWHILE,
    file_relation,
    is_repeatable,
    read_statements,
    run_statements,
    shared_connection,
    translate_errors,
    translate_sql_errors,
)
from harvester.storage.trade_store import PairFile, TradeStore, with_snapshot_retry

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


# --- result ---------------------------------------------------------------------------------------

BATCH_ROWS = 100_000
PREVIEW_ROWS = 10
MAX_TITLE_LENGTH = 60
INTERRUPTED = "Query interrupted"
"""DuckDB's RuntimeError for Ctrl-C."""

T = TypeVar("T")
Relation = duckdb.DuckDBPyRelation
_METHODS_THAT_KEEP_COLUMNS = {"filter", "limit", "order", "sort", "distinct"}


class BatchStream(NamedTuple):
    """Rows as a stream: their columns, and batches that are read one by one."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class ResultSource:
    """Where the rows of a result come from.

    Attributes:
        title: names the rows in a few words.
        files: lists the files that the relation may read.
        make: creates the relation from such a listing.
        memory_limit: what DuckDB may use.
        stream: returns the same rows as batches, at least one, of about the given number of rows,
            even while the archive is being written; None to use the relation's own batches.
        units: the units of columns, by name.
        is_internal: harvester wrote the query, so an error in it is not the caller's.
        is_repeatable: creating the relation again changes nothing.
        notes: see `Result.notes`.
        file_stream: the rows for files, if their types differ from those of `stream`.
        file_relation: changes the relation for files, whose types are fewer than DuckDB's; returns
            None if it has no rows but only the status of a statement. None for no change.
    """

    title: str
    files: Callable[[], frozenset[PairFile]]
    make: Callable[[frozenset[PairFile]], Relation]
    memory_limit: str = MEMORY_LIMIT
    stream: Callable[[int], Iterator[pa.RecordBatch]] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    is_internal: bool = True
    is_repeatable: bool = True
    notes: tuple[str, ...] = ()
    file_stream: Callable[[], BatchStream] | None = None
    file_relation: Callable[[Relation], Relation | None] | None = None


class Result:
    """Rows of a query; each conversion reads them again.

    It wraps a DuckDB relation: methods that are not listed here, such as `.aggregate(...)` or
    `.order(...)`, are the relation's own and return another `Result`. If compaction has removed
    files since the relation was created, it is created again from the current files.

    Any tool that accepts an Arrow stream accepts a result: `polars.DataFrame(result)`,
    `pyarrow.table(result)`, `duckdb.sql("FROM result")`.
    """

    def __init__(self, source: ResultSource) -> None:
        self._source = source
        self._relation: Relation | None = None
        self._files: frozenset[PairFile] = frozenset()

    # --- rows ------------------------------------------------------------------------------------

    @check_types
    def df(self, *, utc_index: bool = False) -> pd.DataFrame:
        """Return the rows as a pandas DataFrame; decimals become the nearest floats.

        Args:
            utc_index: use `time` as the index, with the time zone UTC. Otherwise it is a column
                without a zone, datetime64[ns], in UTC.

        Returns:
            A frame of shape (rows, columns) with the column names of the result.

        Warns:
            ResultWarning: for each of the `notes`, such as: part of the range was not downloaded.

        Raises:
            UsageError: `utc_index` is set, and there is no column `time`.
            ArchiveDamaged: a file can't be read, or compaction removes files again and again.
            HarvesterError: the memory limit is too low.

        Example:
            >>> candles = archive.ohlc("XBT/USD", "1d", since="2026-01-29").df(utc_index=True)
            >>> str(candles.index.dtype), str(candles["close"].dtype)
            ('datetime64[ns, UTC]', 'float64')
        """
        if utc_index and "time" not in self.columns:
            raise UsageError(
                f"utc_index needs a column `time`; there are {', '.join(self.columns)}"
            )
        self._warn_of_notes()
        frame = cast("pd.DataFrame", self._run(lambda relation: _with_floats(relation).df()))
        return frame.set_index("time").tz_localize("UTC") if utc_index else frame

    def pl(self) -> pl.DataFrame:
        """Return the rows as a Polars DataFrame, exact: decimals stay decimals.

        Returns:
            A frame of shape (rows, columns); `time` is Datetime("ns"), UTC, without a zone.

        Warns:
            ResultWarning: as for `df`.

        Raises:
            UsageError: Polars is not installed.
            ArchiveDamaged: a file can't be read, or compaction removes files again and again.
            HarvesterError: the memory limit is too low.

        Example:
            >>> archive.trades("XBT/USD", since="2026-01-30").pl()["price"].dtype
            Decimal(precision=18, scale=10)
        """
        try:
            import polars  # noqa: F401, ICN001, PLC0415 - reported before DuckDB reads anything
        except ImportError as error:
            raise not_installed(".pl() needs Polars", "polars") from error
        self._warn_of_notes()
        return cast("pl.DataFrame", self._run(lambda relation: relation.pl()))

    def to_arrow_table(self) -> pa.Table:
        """Return the rows as an Arrow table, exact: prices are decimal128(18, 10).

        Raises:
            ArchiveDamaged: a file can't be read, or compaction removes files again and again.
            HarvesterError: the memory limit is too low.

        Example:
            >>> archive.trades("XBT/USD").to_arrow_table().schema.field("price").type
            Decimal128Type(decimal128(18, 10))
        """
        return self._run(lambda relation: relation.to_arrow_table())

    @check_types
    def to_arrow_reader(self, batch_rows: int = BATCH_ROWS) -> pa.RecordBatchReader:
        """Return the rows as a stream of Arrow batches: memory does not grow with their number.

        A stream of trades, candles or bars is complete even if the archive is written meanwhile.
        A stream of SQL, or of a method's result, ends with an error if compaction removes its
        files.

        Args:
            batch_rows: about how many rows a batch has.

        Raises:
            UsageError: `batch_rows` is no whole number above 0.
            ArchiveDamaged: here or while it is read: a file can't be read, or compaction removes
                files again and again.
            HarvesterError: the memory limit is too low.

        Example:
            >>> sum(batch.num_rows for batch in archive.trades("XBT/USD").to_arrow_reader())
            20000
        """
        if batch_rows < 1:
            raise UsageError(f"batch_rows is {batch_rows}: give 1 or more")
        if self._source.stream is None:
            return self._run(lambda relation: relation.to_arrow_reader(batch_rows))
        return pa.RecordBatchReader.from_batches(*_begun(self._source.stream(batch_rows)))

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows as tuples, exact: a decimal is a `decimal.Decimal`.

        DuckDB returns times as `datetime`, which has microseconds only.

        Raises:
            ArchiveDamaged: a file can't be read, or compaction removes files again and again.
            HarvesterError: the memory limit is too low.

        Example:
            >>> archive.sql("SELECT count(*), min(trade_id) FROM trades").fetchall()
            [(20000, 1)]
        """
        return self._run(lambda relation: relation.fetchall())

    def filter(self, condition: str) -> Result:
        """Return the rows that meet a condition, in SQL.

        With a comparison of `time` and a literal, files of other years are not opened.

        Raises:
            BadQuery: DuckDB rejects it.

        Example:
            >>> archive.trades("XBT/USD").filter("trade_id <= 3").shape
            (3, 8)
        """
        return self._derive("filter", _sql_text("condition", condition))

    def select(self, columns: str) -> Result:
        """Return columns, or expressions of them, in SQL. Other columns are not read.

        Raises:
            BadQuery: DuckDB rejects it.

        Example:
            >>> archive.ohlc("XBT/USD", "1d").select("time, high - low AS spread").columns
            ['time', 'spread']
        """
        return self._derive("project", _sql_text("columns", columns))

    @check_types
    def limit(self, rows: int, offset: int = 0) -> Result:
        """Return the first rows, or the rows after an offset.

        Args:
            rows: how many rows.
            offset: how many rows are skipped before them.

        Example:
            >>> archive.trades("XBT/USD").limit(5).shape
            (5, 8)
        """
        return self._derive("limit", rows, offset)

    @check_types
    def pivot(self, values: str, *, utc_index: bool = False) -> pd.DataFrame:
        """Return one column of a panel as a pandas DataFrame: a row per time, a column per pair.

        Args:
            values: the name of the column, such as `close`; decimals become the nearest floats.
            utc_index: as for `df`.

        Returns:
            A frame with the index `time`, in order of time, and a column for each pair with rows,
            in the order of the result. NaN where a pair has no row of that time.

        Raises:
            UsageError: the result has no column `pair`, `time` or `values`, or two rows of a pair
                have one time.
            HarvesterError: as for `df`.

        Example:
            >>> archive.ohlc(["XBT/USD"], "1d").pivot("close").shape
            (10, 1)
        """
        lacking = [name for name in ("time", "pair", values) if name not in self.columns]
        if lacking:
            raise UsageError(
                f"pivot needs a column `{lacking[0]}`; there are {', '.join(self.columns)}"
            )
        frame = self.select(f"time, pair, {quoted_name(values)} AS value").df()
        if frame.duplicated(["time", "pair"]).any():
            raise UsageError("pivot needs one row for each time and pair; some have several")
        wide = frame.pivot(index="time", columns="pair", values="value")
        wide = wide[list(frame["pair"].unique())]
        return wide.tz_localize("UTC") if utc_index else wide

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the rows as dictionaries, exact, in bounded memory."""
        for batch in self.to_arrow_reader():
            yield from batch.to_pylist()

    @overload
    def __getitem__(self, key: str) -> pd.Series[Any]: ...

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, key: slice | list[str]) -> Result: ...

    def __getitem__(
        self, key: str | int | slice | list[str]
    ) -> pd.Series[Any] | dict[str, Any] | Result:
        """Return a column, as `df` has it; a row as a dictionary, exact; or some rows or columns.

        Args:
            key: a column's name; a row's number, from the end if negative; a slice of row numbers,
                or a list of column names, for another `Result`.

        Raises:
            KeyError: there is no such column.
            IndexError: there is no such row.
            UsageError: it is none of these, or a slice with a step.
        """
        if isinstance(key, str | list):
            names = [key] if isinstance(key, str) else key
            for name in names:
                if name not in self.columns:
                    raise KeyError(name)
            found = self.select(", ".join(map(quoted_name, names)))
            return found.df()[key] if isinstance(key, str) else found
        if isinstance(key, slice):
            if key.step not in (None, 1):
                raise UsageError("a slice of a result has no step: give result[start:stop]")
            is_counted = any(bound is not None and bound < 0 for bound in (key.start, key.stop))
            end = len(self) if is_counted or key.stop is None else key.stop
            start, stop, _ = key.indices(end)
            return self.limit(max(stop - start, 0), start)
        if not isinstance(key, SupportsIndex) or isinstance(key, bool):
            raise wrong_type("the index", "a column's name, a row's number or a slice", key)
        number = index(key)
        start = number + len(self) if number < 0 else number
        rows = self.limit(1, start).to_arrow_table().to_pylist() if start >= 0 else []
        if not rows:
            raise IndexError(f"there is no row {number}")
        return cast("dict[str, Any]", rows[0])

    # --- description -----------------------------------------------------------------------------

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the rows: gaps in the requested range, at the time of the query.

        Example:
            >>> archive.trades("XBT/USD", since="2026-01-20").notes
            ('not downloaded: 2026-01-20 to 2026-01-21',)
        """
        return self._source.notes

    @property
    def columns(self) -> list[str]:
        """The names of the columns, without reading rows."""
        return self._run(lambda relation: relation.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns; the rows are counted."""
        return self._run(lambda relation: relation.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<harvester.Result: {self._source.title}>"

    def _repr_html_(self) -> str:
        source = self._source
        return self._run(
            lambda relation: preview(
                source.title, relation, source.units, PREVIEW_ROWS, source.notes
            )
        )

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows by Arrow's C stream interface."""
        return self._run(lambda relation: relation.__arrow_c_stream__(requested_schema))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of a relation
        if name.startswith("_"):
            raise AttributeError(name)
        # First the columns: a relation has methods `close` and `count`, and candles such columns.
        if name in self.columns:
            return self[name]
        if not hasattr(Relation, name):
            raise AttributeError(
                f"a Result has no attribute {name!r}, nor has DuckDB's relation: .df() makes a "
                "pandas DataFrame of it"
            )
        if callable(getattr(Relation, name)):
            return partial(self._call, name)
        return self._run(lambda relation: getattr(relation, name))

    # --- running ---------------------------------------------------------------------------------

    def _warn_of_notes(self) -> None:
        """Give the notes as warnings: a frame that is made from the rows does not carry them.

        They name the line of the caller, outside of this package.
        """
        caller, level = inspect.currentframe(), 1
        while caller is not None and _is_own(caller):
            caller, level = caller.f_back, level + 1
        for note in self.notes:
            warnings.warn(f"{self._source.title}: {note}", ResultWarning, stacklevel=level)

    def _batch_stream(self) -> BatchStream | None:
        source = self._source
        if source.file_stream is not None:
            return source.file_stream()
        if source.stream is not None:
            return _begun(source.stream(BATCH_ROWS))

        def begin(relation: Relation) -> BatchStream | None:
            rows = relation if source.file_relation is None else source.file_relation(relation)
            if rows is None:
                return None
            reader = rows.to_arrow_reader(SQL_BATCH_ROWS)
            first = next(reader, pa.RecordBatch.from_pylist([], schema=reader.schema))
            return BatchStream(reader.schema, self._read_on(first, reader))

        return self._run(begin)

    def _read_on(
        self, first: pa.RecordBatch, reader: pa.RecordBatchReader
    ) -> Iterator[pa.RecordBatch]:
        yield first
        with self._translate_errors():
            yield from reader

    def _call(self, name: str, *args: object, **kwargs: object) -> object:
        value = self._run(lambda relation: _call_method(relation, name, *args, **kwargs))
        return self._derive(name, *args, **kwargs) if isinstance(value, Relation) else value

    def _derive(self, name: str, *args: object, **kwargs: object) -> Result:
        """Return the result of a relation's method; errors in its arguments are raised at once."""

        def make(_: frozenset[PairFile]) -> Relation:
            return cast("Relation", _call_method(self._current_relation(), name, *args, **kwargs))

        units = self._source.units if name in _METHODS_THAT_KEEP_COLUMNS else {}
        made = Result(
            replace(
                self._source,
                make=make,
                stream=None,
                units=units,
                is_internal=False,
                file_stream=None,
                file_relation=None,
            )
        )
        made._run(lambda relation: relation.columns)
        return made

    def _get_relation(self) -> Relation:
        if self._relation is None:
            self._files = self._source.files()
            self._relation = self._source.make(self._files)
        return self._relation

    def _current_relation(self) -> Relation:
        """Return the relation, created again if files were removed since."""
        if self._source.is_repeatable and not self._files <= self._source.files():
            self._relation = None
        return self._get_relation()

    def _run(self, fn: Callable[[Relation], T]) -> T:
        """Run `fn` on the relation; if compaction removed files, create it again and retry."""

        def run() -> T:
            try:
                with self._translate_errors():
                    return fn(self._get_relation())
            except RuntimeError as error:
                if str(error) == INTERRUPTED:
                    raise KeyboardInterrupt from error
                raise

        def has_lost_a_file() -> bool:
            if self._files <= self._source.files():
                return False
            if not self._source.is_repeatable:
                raise HarvesterError(MERGED_MEANWHILE)
            self._relation = None
            return True

        return with_snapshot_retry(run, self._source.title, is_stale=has_lost_a_file)

    def _translate_errors(self) -> AbstractContextManager[None]:
        if self._source.is_internal:
            return translate_errors(self._source.title, self._source.memory_limit)
        return translate_sql_errors(self._source.memory_limit)


def _is_own(frame: FrameType) -> bool:
    """Whether a frame is of this package."""
    return str(frame.f_globals.get("__name__")).partition(".")[0] == __name__.partition(".")[0]


def batch_stream(result: Result) -> BatchStream | None:
    """The rows of a result as a stream to write into files; memory does not grow with them.

    Unlike `Result.to_arrow_reader`, the words of trades stay dictionary-encoded as they are stored,
    and SQL types that files do not have are text. A stream of trades, candles or bars can be read
    to its end whoever writes the archive meanwhile. None if SQL gave no rows, as CREATE does.

    Raises:
        ArchiveDamaged: a file can't be read.
        HarvesterError: the memory allowed does not suffice.
    """
    return result._batch_stream()  # noqa: SLF001 - not for users of the Python API


def _with_floats(relation: Relation) -> Relation:
    """Turn the decimals of a relation into the floats nearest to them.

    DuckDB turns the unscaled integer into a float and divides: of an integer that a float can't
    hold, the result may be the neighbour of the nearest one. So such numbers are read as texts.
    """
    casts = []
    for name, kind in zip(relation.columns, relation.types, strict=True):
        if kind.id == "decimal":
            column, scale = quoted_name(name), cast("int", dict(kind.children)["scale"])
            exact_up_to = f"{Decimal(2**53).scaleb(-scale):f}"
            casts.append(
                f"CASE WHEN abs({column}) <= {exact_up_to} THEN {column}::DOUBLE "
                f"ELSE {column}::VARCHAR::DOUBLE END AS {column}"
            )
    if not casts or len(set(relation.columns)) < len(relation.columns):
        return relation
    return relation.project(f"* REPLACE ({', '.join(casts)})")


def _begun(batches: Iterator[pa.RecordBatch]) -> BatchStream:
    """A stream whose first batch is read, as it has the columns."""
    first = next(batches)
    return BatchStream(first.schema, chain([first], batches))


def _sql_text(name: str, value: str) -> str:
    """Check that a value is SQL text or a DuckDB expression."""
    if not isinstance(value, str | duckdb.Expression):
        raise wrong_type(name, "SQL text", value)
    return value


def _call_method(relation: Relation, method: str, *args: object, **kwargs: object) -> object:
    """Call a method of DuckDB's relation.

    Raises:
        UsageError: the method does not accept the arguments.
    """
    try:
        return getattr(relation, method)(*args, **kwargs)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        if str(error) == INTERRUPTED:
            raise
        first_line = str(error).partition("\n")[0]
        raise UsageError(f".{method}() does not accept these arguments: {first_line}") from error


def source_of_batches(
    title: str,
    stream: Callable[[int], Iterator[pa.RecordBatch]],
    units: Mapping[str, str],
    notes: tuple[str, ...] = (),
) -> ResultSource:
    """Return the source of rows that are computed without SQL, when they are first used, and kept.

    Args:
        title: names the rows in a few words.
        stream: returns the rows as batches of about the given number of rows.
        units: the units of columns, by name.
        notes: see `Result.notes`.
    """

    def make(_: frozenset[PairFile]) -> Relation:
        return shared_connection().from_arrow(pa.Table.from_batches(list(stream(BATCH_ROWS))))

    return ResultSource(title, frozenset, make, stream=stream, units=units, notes=notes)


def source_of_sql(
    archive: TradeStore,
    query: str,
    params: Sequence[object] | Mapping[str, object] | None,
    *,
    names: Mapping[str, str],
    memory_limit: str,
    notes: tuple[str, ...] = (),
) -> ResultSource:
    """The rows of the last statement of an SQL text; without rows if it gives none.

    Args:
        archive: the trades.
        query: one or several statements. All but the last run when the relation is made.
        params: values for `?`, or by name for `$name`.
        names: altnames by exact spelling, that the macros take.
        memory_limit: the memory that DuckDB may use.
        notes: see `Result.notes`.

    Raises:
        BadQuery: DuckDB can't parse the query, or there is none.
    """
    statements = read_statements(query, memory_limit)

    def make(_: frozenset[PairFile]) -> Relation:
        return run_statements(archive, statements, params, names=names, memory_limit=memory_limit)

    def files() -> frozenset[PairFile]:
        return frozenset(archive.all_segments())

    title = " ".join(query.split())
    return ResultSource(
        title if len(title) <= MAX_TITLE_LENGTH else f"{title[:MAX_TITLE_LENGTH]}...",
        files,
        make,
        memory_limit,
        is_internal=False,
        notes=notes,
        is_repeatable=is_repeatable(statements),
        file_relation=lambda relation: file_relation(statements[-1], relation),
    )


# --- HTML for notebooks ---------------------------------------------------------------------------

STYLE = "border-collapse:collapse;font-variant-numeric:tabular-nums"
FAINT = "opacity:.65;font-weight:normal"
"""Only opacity is set, so that the notebook keeps its own colours, light or dark."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return an HTML table.

    Args:
        header: the cells of the header, as HTML.
        rows: the cells of each row, as HTML.
        left: how many columns are aligned left; the others are aligned right.
    """
    sides = ["left" if index < left else "right" for index in range(len(header))]
    cells = [
        "".join(
            f'<{kind} style="text-align:{side};vertical-align:top">{text}</{kind}>'
            for side, text in zip(sides, row, strict=True)
        )
        for kind, row in [("th", header), *(("td", row) for row in rows)]
    ]
    return f'<table style="{STYLE}">{"".join(f"<tr>{row}</tr>" for row in cells)}</table>'


def preview(
    title: str,
    relation: duckdb.DuckDBPyRelation,
    units: Mapping[str, str],
    rows: int,
    notes: Sequence[str] = (),
) -> str:
    """Return the first rows of a relation as an HTML table, with exact values.

    The header shows names and units or types. All text is escaped.

    Args:
        title: stands above the table.
        relation: the rows.
        units: the unit of a column, by its name.
        rows: how many rows are shown.
        notes: stand below the table.
    """
    kinds = [str(kind) for kind in relation.types]
    header = [
        f'{escape(name)}<br><small style="{FAINT}">{escape(units.get(name, kind.lower()))}</small>'
        for name, kind in zip(relation.columns, kinds, strict=True)
    ]
    first_rows = relation.limit(rows + 1).project("COLUMNS(*)::VARCHAR").fetchall()
    cells = [
        [_cell(value, kind) for value, kind in zip(row, kinds, strict=True)]
        for row in first_rows[:rows]
    ]
    more = "and more" if len(first_rows) > rows else f"{len(first_rows):,} rows"
    below = "<br>".join(
        [
            f'<small style="{FAINT}">{more}</small>',
            *(f"<small>{escape(note)}</small>" for note in notes),
        ]
    )
    return f"<div><strong>{escape(title)}</strong>{table(header, cells)}{below}</div>"


def _cell(value: str | None, kind: str) -> str:
    if value is None:
        return f'<span style="{FAINT}">null</span>'
    if kind.startswith("DECIMAL") and "." in value:
        value = value.rstrip("0").rstrip(".")
    return escape(value)
