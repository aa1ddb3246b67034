"""`Result`: a DuckDB relation that converts to pandas, polars and Arrow, and previews itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import duckdb
import pyarrow as pa

from harvester.argument_types import check_types, wrong_type
from harvester.errors import ArchiveDamaged, HarvesterError, UsageError
from harvester.query.connection import MEMORY_LIMIT, asking, session
from harvester.query.html_preview import preview
from harvester.query.sql import (
    BATCH_ROWS as SQL_BATCH_ROWS,
)
from harvester.query.sql import (
    asking_sql,
    file_relation,
    is_repeatable,
    read_statements,
    run_statements,
)
from harvester.storage.trade_store import LISTINGS, TradeStore

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


BATCH_ROWS = 100_000
SHOWN_ROWS = 10
TITLE_LETTERS = 60
INTERRUPTED = "Query interrupted"
"""DuckDB's RuntimeError for Ctrl-C."""

T = TypeVar("T")
Relation = duckdb.DuckDBPyRelation
_KEEP_COLUMNS = {"filter", "limit", "order", "sort", "distinct"}


class BatchStream(NamedTuple):
    """Rows as a stream: their columns, and batches that are read one by one."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class ResultSource:
    """Where rows come from.

    Attributes:
        title: what they are, in a few words.
        make: makes the relation, from the files that stand by then.
        files: what stands now of all that may be read.
        memory_limit: what DuckDB may use.
        stream: the same rows as batches, at least one, by about how many each, whoever writes
            meanwhile; None for the relation's own.
        units: what the columns count, by name.
        is_ours: the query was made here, so that an error in it is no fault of who asks.
        is_repeatable: making it again changes nothing.
        notes: see `Result.notes`.
        file_stream: the rows for files, if their types differ from those of `stream`.
        file_relation: changes the relation for files, whose types are fewer than DuckDB's; returns
            None if it has no rows but only the status of a statement. None for no change.
    """

    title: str
    make: Callable[[], Relation]
    files: Callable[[], frozenset[object]]
    memory_limit: str = MEMORY_LIMIT
    stream: Callable[[int], Iterator[pa.RecordBatch]] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    is_ours: bool = True
    is_repeatable: bool = True
    notes: tuple[str, ...] = ()
    file_stream: Callable[[], BatchStream] | None = None
    file_relation: Callable[[Relation], Relation | None] | None = None


class Result:
    """Rows that are read when they are asked for, as often as they are asked for.

    It is a DuckDB relation: what is not listed here, such as `.aggregate(...)` or `.order(...)`, is
    the relation's own, and gives another `Result`. Where a compaction has taken files away since
    it was made, it is made anew, from the files that stand.

    Any tool that takes Arrow's stream takes it: `polars.DataFrame(result)`,
    `pyarrow.table(result)`, `duckdb.sql("FROM result")`.
    """

    def __init__(self, origin: ResultSource) -> None:
        self._origin = origin
        self._relation: Relation | None = None
        self._files: frozenset[object] = frozenset()

    # --- rows ------------------------------------------------------------------------------------

    @check_types
    def df(self, *, utc_index: bool = False) -> pd.DataFrame:
        """The rows for people, in pandas: decimals become floats, each the nearest.

        Args:
            utc_index: take `time` for the index, with UTC for its zone. It is else a column
                without a zone, datetime64[ns], UTC.

        Returns:
            A frame of shape (rows, columns), the columns named as they are here.

        Raises:
            UsageError: an index is asked for, and there is no column `time`.
            ArchiveDamaged: a file can't be read, or files keep vanishing.
            HarvesterError: the memory allowed does not suffice.

        Example:
            >>> candles = archive.ohlc("XBT/USD", "1d", since="2026-01-29").df(utc_index=True)
            >>> str(candles.index.dtype), str(candles["close"].dtype)
            ('datetime64[ns, UTC]', 'float64')
        """
        if utc_index and "time" not in self.columns:
            raise UsageError(
                f"utc_index needs a column `time`; there are {', '.join(self.columns)}"
            )
        frame = cast("pd.DataFrame", self._ask(lambda one: one.df()))
        return frame.set_index("time").tz_localize("UTC") if utc_index else frame

    def pl(self) -> pl.DataFrame:
        """The rows in Polars, exact: decimals stay decimals.

        Returns:
            A frame of shape (rows, columns); `time` is Datetime("ns"), UTC, without a zone.

        Raises:
            UsageError: Polars is not installed.
            ArchiveDamaged: a file can't be read, or files keep vanishing.
            HarvesterError: the memory allowed does not suffice.

        Example:
            >>> archive.trades("XBT/USD", since="2026-01-30").pl()["price"].dtype
            Decimal(precision=18, scale=10)
        """
        try:
            import polars  # noqa: F401, ICN001, PLC0415 - said before DuckDB reads anything
        except ImportError as error:
            raise UsageError(".pl() needs Polars: pip install --upgrade polars") from error
        return cast("pl.DataFrame", self._ask(lambda one: one.pl()))

    def to_arrow_table(self) -> pa.Table:
        """The rows as an Arrow table, exact: prices are decimal128(18, 10).

        Raises:
            ArchiveDamaged: a file can't be read, or files keep vanishing.
            HarvesterError: the memory allowed does not suffice.

        Example:
            >>> archive.trades("XBT/USD").to_arrow_table().schema.field("price").type
            Decimal128Type(decimal128(18, 10))
        """
        return self._ask(lambda one: one.to_arrow_table())

    @check_types
    def to_arrow_reader(self, batch_rows: int = BATCH_ROWS) -> pa.RecordBatchReader:
        """The rows as a stream of Arrow batches: memory does not grow with their number.

        A stream of trades, candles or bars goes on to its end whoever writes the archive meanwhile.
        One of SQL, or of what was built upon a result, ends in an error if a compaction takes its
        files away.

        Args:
            batch_rows: about how many rows a batch holds.

        Raises:
            UsageError: `batch_rows` is no whole number above 0.
            ArchiveDamaged: a file can't be read, or files keep vanishing; here or while it is read.
            HarvesterError: the memory allowed does not suffice.

        Example:
            >>> sum(batch.num_rows for batch in archive.trades("XBT/USD").to_arrow_reader())
            20000
        """
        if batch_rows < 1:
            raise UsageError(f"batch_rows is {batch_rows}: give 1 or more")
        if self._origin.stream is None:
            return self._ask(lambda one: one.to_arrow_reader(batch_rows))
        return pa.RecordBatchReader.from_batches(*_begun(self._origin.stream(batch_rows)))

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows as tuples, exact: a decimal is a `decimal.Decimal`.

        DuckDB gives times as `datetime`, which ends at microseconds.

        Raises:
            ArchiveDamaged: a file can't be read, or files keep vanishing.
            HarvesterError: the memory allowed does not suffice.

        Example:
            >>> archive.sql("SELECT count(*), min(trade_id) FROM trades").fetchall()
            [(20000, 1)]
        """
        return self._ask(lambda one: one.fetchall())

    def filter(self, condition: str) -> Result:
        """The rows that meet a condition, in SQL.

        A comparison of `time` with a literal leaves the files of other years unopened.

        Raises:
            BadQuery: DuckDB can't make sense of it.

        Example:
            >>> archive.trades("XBT/USD").filter("trade_id <= 3").shape
            (3, 8)
        """
        return self._further("filter", _sql_text("condition", condition))

    def select(self, columns: str) -> Result:
        """Columns, or anything made of them, in SQL. What is not named is not read.

        Raises:
            BadQuery: DuckDB can't make sense of it.

        Example:
            >>> archive.ohlc("XBT/USD", "1d").select("time, high - low AS spread").columns
            ['time', 'spread']
        """
        return self._further("project", _sql_text("columns", columns))

    @check_types
    def limit(self, rows: int, offset: int = 0) -> Result:
        """So many rows, from the first or from another on.

        Example:
            >>> archive.trades("XBT/USD").limit(5).shape
            (5, 8)
        """
        return self._further("limit", rows, offset)

    # --- what they are ---------------------------------------------------------------------------

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of the rows: gaps in the requested range, as of when it was made.

        Example:
            >>> archive.trades("XBT/USD", since="2026-01-20").notes
            ('not downloaded: 2026-01-20 to 2026-01-21',)
        """
        return self._origin.notes

    @property
    def columns(self) -> list[str]:
        """The names of the columns; no row is read."""
        return self._ask(lambda one: one.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns there are; the rows are counted."""
        return self._ask(lambda one: one.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<harvester.Result: {self._origin.title}>"

    def _repr_html_(self) -> str:
        return self._ask(self._preview)

    def _preview(self, whole: Relation) -> str:
        return preview(self._origin.title, whole, self._origin.units, SHOWN_ROWS)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The rows by Arrow's C stream interface, for any tool that speaks it."""
        return self._ask(lambda one: one.__arrow_c_stream__(requested_schema))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a relation has
        if name.startswith("_") or not hasattr(Relation, name):
            raise AttributeError(f"a Result has no attribute {name!r}, nor has DuckDB's relation")
        if callable(getattr(Relation, name)):
            return partial(self._call, name)
        return self._ask(lambda one: getattr(one, name))

    # --- asking ----------------------------------------------------------------------------------

    def _batch_stream(self) -> BatchStream | None:
        source = self._origin
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

        return self._ask(begin)

    def _read_on(
        self, first: pa.RecordBatch, reader: pa.RecordBatchReader
    ) -> Iterator[pa.RecordBatch]:
        yield first
        with self._asking():
            yield from reader

    def _call(self, name: str, *args: object, **kwargs: object) -> object:
        found = self._ask(lambda one: _applied(one, name, *args, **kwargs))
        return self._further(name, *args, **kwargs) if isinstance(found, Relation) else found

    def _further(self, name: str, *args: object, **kwargs: object) -> Result:
        """What a relation's method makes of these rows, tried at once, as it may be nonsense."""

        def make() -> Relation:
            return cast("Relation", _applied(self._fresh(), name, *args, **kwargs))

        units = self._origin.units if name in _KEEP_COLUMNS else {}
        made = Result(
            replace(
                self._origin,
                make=make,
                stream=None,
                units=units,
                is_ours=False,
                file_stream=None,
                file_relation=None,
            )
        )
        made._ask(lambda one: one.columns)
        return made

    def _made(self) -> Relation:
        if self._relation is None:
            self._files = self._origin.files()
            self._relation = self._origin.make()
        return self._relation

    def _fresh(self) -> Relation:
        """The relation, made anew where it is known by now that files are gone."""
        if self._origin.is_repeatable and not self._files <= self._origin.files():
            self._relation = None
        return self._made()

    def _ask(self, question: Callable[[Relation], T]) -> T:
        """Ask the relation, made anew where files that it reads are gone."""
        for _ in range(LISTINGS):
            try:
                with self._asking():
                    return question(self._made())
            except RuntimeError as error:
                if str(error) == INTERRUPTED:
                    raise KeyboardInterrupt from error
                raise
            except ArchiveDamaged:
                if self._files <= self._origin.files():
                    raise
            if not self._origin.is_repeatable:
                raise HarvesterError(
                    "files of the archive were merged into others while they were read: run it "
                    "again"
                )
            self._relation = None
        raise ArchiveDamaged(
            f"{self._origin.title}: files keep vanishing while they are read: try again"
        )

    def _asking(self) -> AbstractContextManager[None]:
        if self._origin.is_ours:
            return asking(self._origin.title, self._origin.memory_limit)
        return asking_sql(self._origin.memory_limit)


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


def _begun(batches: Iterator[pa.RecordBatch]) -> BatchStream:
    """A stream whose first batch is read, as it has the columns."""
    first = next(batches)
    return BatchStream(first.schema, chain([first], batches))


def _sql_text(name: str, value: str) -> str:
    """SQL as text, or as an expression of DuckDB's own."""
    if not isinstance(value, str | duckdb.Expression):
        raise wrong_type(name, "SQL text", value)
    return value


def _applied(relation: Relation, method: str, *args: object, **kwargs: object) -> object:
    """Call a method of DuckDB's relation.

    Raises:
        UsageError: the arguments are of types that it does not take.
    """
    try:
        return getattr(relation, method)(*args, **kwargs)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        if str(error) == INTERRUPTED:
            raise
        brief = str(error).partition("\n")[0]
        raise UsageError(f".{method}() does not take these arguments: {brief}") from error


def of_batches(
    title: str,
    stream: Callable[[int], Iterator[pa.RecordBatch]],
    units: Mapping[str, str],
    notes: tuple[str, ...] = (),
) -> ResultSource:
    """Rows that no SQL makes: they are made when they are first asked for, and then held."""

    def make() -> Relation:
        return session().from_arrow(pa.Table.from_batches(list(stream(BATCH_ROWS))))

    return ResultSource(title, make, frozenset, stream=stream, units=units, notes=notes)


def of_sql(
    archive: TradeStore,
    query: str,
    params: Sequence[object] | Mapping[str, object] | None,
    *,
    names: Mapping[str, str],
    memory_limit: str,
) -> ResultSource:
    """The rows of the last statement of an SQL text; without rows if it gives none.

    Args:
        archive: the trades.
        query: one or several statements. All but the last run when the relation is made.
        params: values for `?`, or by name for `$name`.
        names: altnames by exact spelling, that the macros take.
        memory_limit: the memory that DuckDB may use.

    Raises:
        BadQuery: DuckDB can't parse the query, or there is none.
    """
    statements = read_statements(query, memory_limit)

    def make() -> Relation:
        return run_statements(archive, statements, params, names=names, memory_limit=memory_limit)

    def files() -> frozenset[object]:
        return frozenset(segment for pair in archive.held() for segment in archive.segments(pair))

    title = " ".join(query.split())
    return ResultSource(
        title if len(title) <= TITLE_LETTERS else f"{title[:TITLE_LETTERS]}...",
        make,
        files,
        memory_limit,
        is_ours=False,
        is_repeatable=is_repeatable(statements),
        file_relation=lambda relation: file_relation(statements[-1], relation),
    )
