"""The explorer's answers: pairs, coverage, candles, trades and SQL of an archive, with limits.

The page's HTTP endpoints and the tools of `harvester mcp` both call `ArchiveExplorer`. Numbers
leave it as the archive's own digits, as text; times of candles are UNIX milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from threading import BoundedSemaphore, Lock
from typing import Any, Protocol

import msgspec
import pyarrow as pa

from harvester.errors import BadQuery, BadTime, NothingStored, UsageError, brief
from harvester.exporters.formats import as_flat_text, as_text
from harvester.query.read_only_sql import (
    LimitedRows,
    QueryLimits,
    ReadOnlyQuery,
)
from harvester.query.result import Result
from harvester.query.sql import Connection, translate_sql_errors
from harvester.schema import times
from harvester.server.explorer.time_view import (
    MAX_CANDLES_BYTES,
    CandleView,
    PairSummary,
    Shades,
    WholeIntervals,
    candle_copy_texts,
    coverage_by_year,
    coverage_strip,
    extend_to_intervals,
    intervals_from,
    range_texts,
    shades,
    span_texts,
    sql_copy_texts,
    strip_axis,
    trade_copy_texts,
)
from harvester.server.explorer.trade_pages import LATEST_NS, TradeArchive, trade_page
from harvester.times import DAY, SECOND, Range, parse_moment, show

# --- the archive ----------------------------------------------------------------------------------


class ReadableArchive(TradeArchive, Protocol):
    """What the explorer calls of `harvester.Archive`, whose methods these are."""

    @property
    def path(self) -> str:
        """The archive's folder."""
        ...

    def gaps(self, pair: str) -> list[Range]:
        """The ranges of a pair that were requested and are not covered."""
        ...

    def status(self, *pairs: str) -> Sequence[PairSummary]:
        """What is stored of some pairs, or of all."""
        ...

    def runs(self, count: int = 20, pairs: Sequence[str] = ()) -> Sequence[Any]:
        """The latest runs, of all or some pairs."""
        ...

    def ohlc(
        self, pair: str, interval: str, *, since: str, until: str | None, all_columns: bool = False
    ) -> Result:
        """The candles of a range."""
        ...

    def connect(self) -> Connection:
        """A connection with the SQL views."""
        ...


# --- the service ----------------------------------------------------------------------------------

STATUS_TTL_S = 2.0
"""Least seconds between two readings of the list of pairs."""

STATUS_TTL_FACTOR = 10
"""The list is also not read again before this many times the last reading's duration has passed.

Reading 1,400 pairs takes a second.
"""

MAX_QUERIES = 2
"""SQL queries that run at the same time; others wait."""

MAX_JSON_BYTES = 10_000_000
"""Most bytes of a query's rows as JSON; the rows that do not fit are left out."""

MAX_RANGES = 200
MAX_RUNS = 20
RUNS_READ = 1_000

_COLUMNS = ("open", "high", "low", "close", "vwap", "volume", "buy_volume", "sell_volume")
_READ = (*_COLUMNS, "count", "is_complete")


class ArchiveExplorer:
    """Read-only answers about one archive. Its methods may be called from several threads."""

    def __init__(self, archive: ReadableArchive, clock: Callable[[], int] = time.time_ns) -> None:
        """Nothing is read before the first question.

        Args:
            archive: what is explored.
            clock: the present time in UNIX nanoseconds.
        """
        self._archive = archive
        self._clock = clock
        self._lock = Lock()
        self._query_places = BoundedSemaphore(MAX_QUERIES)
        self._statuses: Sequence[PairSummary] = ()
        self._fresh_until_s = 0.0
        self._versions: dict[str, str] = {}

    @property
    def path(self) -> str:
        """The archive's folder."""
        return self._archive.path

    # --- pairs and coverage ----------------------------------------------------------------------

    def pairs(self) -> dict[str, Any]:
        """All pairs, each with trades, dates, size and a strip of its coverage.

        A strip has a letter for each part of the time from `since` to `until`: `s` stored, `g` a
        gap in it, `n` not requested.
        """
        statuses = self._all_statuses()
        axis = strip_axis(statuses, self._clock())
        return {
            "archive": brief(self._archive.path),
            "since": show(axis.after),
            "until": show(axis.through),
            "pairs": [
                {
                    **_totals(status),
                    "gaps": len(status.gaps),
                    "strip": coverage_strip(status.coverage, status.gaps, axis),
                }
                for status in statuses
            ],
        }

    def coverage(self, pair: str) -> dict[str, Any]:
        """What is stored of a pair, its gaps, what each year lacks, and the latest runs.

        Args:
            pair: its name in any spelling.

        Raises:
            NothingStored: the pair is not stored and was never requested.
            ArchiveDamaged: files keep vanishing while they are listed.
        """
        [status] = self._archive.status(pair)
        now_ns = self._clock()
        runs = self._archive.runs(RUNS_READ, [status.pair])
        repaired = next((run for run in runs if run.command == "repair"), None)
        return {
            **_totals(status),
            "files": status.files,
            "rollups": status.rollups,
            "damaged": [brief(text) for text in status.damaged[:MAX_RANGES]],
            "coverage": [range_texts(part) for part in status.coverage[:MAX_RANGES]],
            "coverage_count": len(status.coverage),
            "gaps": [range_texts(part) for part in status.gaps[:MAX_RANGES]],
            "gap_count": len(status.gaps),
            "years": [year.texts() for year in coverage_by_year(status, now_ns)],
            "now": now_ns // 1_000_000,
            "runs": [_run_texts(run, status.pair) for run in runs[:MAX_RUNS]],
            "repaired": None if repaired is None else _run_texts(repaired, status.pair),
        }

    def version(self, pair: str) -> dict[str, Any]:
        """A text that changes with the coverage of a pair; empty while nothing of it is stored."""
        try:
            version = _version(self._archive.coverage(pair))
        except NothingStored:
            version = ""
        with self._lock:
            if self._versions.setdefault(pair, version) != version:
                # The page asks for the list of pairs next.
                self._versions[pair], self._fresh_until_s = version, 0.0
        return {"version": version}

    def _all_statuses(self) -> Sequence[PairSummary]:
        with self._lock:
            begun_s = time.monotonic()
            if begun_s >= self._fresh_until_s:
                self._statuses = self._archive.status()
                taken_s = time.monotonic() - begun_s
                self._fresh_until_s = begun_s + max(STATUS_TTL_S, STATUS_TTL_FACTOR * taken_s)
            return self._statuses

    # --- candles ---------------------------------------------------------------------------------

    def candles(
        self, pair: str, since: str = "", until: str = "", interval: str = "auto"
    ) -> CandleView:
        """The candles of a visible range: at most 1,500, and 200 kB as columns.

        If there were more, candles of a longer interval are returned. The range is extended to
        whole intervals, so that no candle is cut.

        Args:
            pair: its name in any spelling.
            since: start time, inclusive, as for the commands. Default: the first trade.
            until: end time, exclusive. Default: the end of the stored trades.
            interval: the length of a candle, or `auto` for the shortest that fits of 1s 5s 15s 1m
                5m 15m 1h 4h 1d 1w.

        Raises:
            NothingStored: the archive has no trades of the pair.
            BadTime: a time can't be read, or `since` is not before `until`.
            BadInterval: the interval can't be read.
            ArchiveDamaged: a file can't be read.
        """
        view = self._view(pair, since, until)
        for number, length in enumerate(intervals_from(interval)):
            intervals = extend_to_intervals(view, length)
            if intervals is None:
                continue
            since_text, until_text = show(intervals.start_ns), show(intervals.end_ns)
            # Before the candles: trades that are added meanwhile make another version.
            covered = self._archive.coverage(pair)
            result = self._archive.ohlc(
                pair, length.name, since=since_text, until=until_text, all_columns=True
            )
            batches = list(result.to_arrow_reader())
            table = pa.Table.from_batches([as_text(batch.select(_READ)) for batch in batches])
            # Every interval is a multiple of a millisecond.
            opens = [ns // 1_000_000 for batch in batches for ns in times(batch).tolist()]
            now_ns = self._clock()
            found_shades = self._shades(pair, covered, intervals, opens, now_ns)
            found = CandleView(
                pair=pair,
                interval=length.name,
                requested=interval,
                is_coarser=interval != "auto" and number > 0,
                since=since_text,
                until=until_text,
                time=opens,
                columns={name: _texts(table.column(name)) for name in _COLUMNS},
                count=table.column("count").to_pylist(),
                incomplete=[
                    index
                    for index, whole in enumerate(table.column("is_complete").to_pylist())
                    if not whole
                ],
                shades=found_shades.parts,
                unstored_left_out=found_shades.unstored_left_out,
                now=now_ns // 1_000_000,
                copy=candle_copy_texts(self.path, pair, length.name, since_text, until_text),
                version=_version(covered),
            )
            if len(found.encoded()) <= MAX_CANDLES_BYTES:
                return found
        raise UsageError("that range has more candles than an answer may have: choose a shorter")

    def _view(self, pair: str, since: str, until: str) -> Range:
        now_ns = self._clock()
        first_ns, last_ns = 0, now_ns
        if not since or not until:
            [status] = self._archive.status(pair)
            first_ns = status.first_ns if status.first_ns is not None else now_ns - DAY
            last_ns = status.last_ns + 1 if status.last_ns is not None else now_ns
        since_ns = parse_moment(since, now_ns) if since else first_ns
        until_ns = parse_moment(until, now_ns) if until else max(last_ns, since_ns + SECOND)
        since_ns, until_ns = min(since_ns, LATEST_NS), min(until_ns, LATEST_NS)
        if since_ns >= until_ns:
            raise BadTime(f"since {show(since_ns)} is not before until {show(until_ns)}")
        return Range(since_ns - 1, until_ns - 1)

    def _shades(
        self,
        pair: str,
        covered: Sequence[Range],
        intervals: WholeIntervals,
        opens_ms: Sequence[int],
        now_ns: int,
    ) -> Shades:
        opens_ns = [open_ms * 1_000_000 for open_ms in opens_ms]
        traded = [Range(opens - 1, intervals.next_start_ns(opens) - 1) for opens in opens_ns]
        past = Range(intervals.range.after, min(intervals.range.through, now_ns))
        return shades(past, covered, self._archive.gaps(pair), traded)

    # --- trades and SQL --------------------------------------------------------------------------

    def trades(self, pair: str, place: str = "newest", count: int = 100) -> dict[str, Any]:
        """Some trades in the exchange's order, with what `trade_page` documents.

        Raises:
            HarvesterError: as for `trade_page`.
        """
        rows = trade_page(self._archive, pair, place, count, self._clock())
        since, last = (rows[0]["time"], rows[-1]["time"]) if rows else ("", "")
        copy = trade_copy_texts(self.path, pair, since, last)._asdict() if rows else None
        return {"pair": pair, "trades": rows, "copy": copy}

    def query(self, limits: QueryLimits | None = None) -> ReadOnlyQuery:
        """Prepare one SQL query, which can be cancelled while it runs.

        Raises:
            ArchiveDamaged: a file can't be read.
        """
        return ReadOnlyQuery(
            self._archive.connect, self.path, limits or QueryLimits(), as_flat_text
        )

    def run_query(self, text: str, limits: QueryLimits) -> dict[str, Any]:
        """Run one SQL query, after those that run at present if there are two.

        Args:
            text: the query.
            limits: of its rows and its time. It also waits no longer than this for others.

        Raises:
            BadQuery: as for `ReadOnlyQuery.run`; or others did not end in time.
            HarvesterError: the memory allowed does not suffice.
            ArchiveDamaged: a file can't be read.
        """
        if not self._query_places.acquire(timeout=limits.seconds):
            raise BadQuery(f"{MAX_QUERIES} other queries are still running: try again later")
        try:
            return self.sql_answer(text, self.query(limits).run(text))
        finally:
            self._query_places.release()

    def sql_answer(self, text: str, rows: LimitedRows) -> dict[str, Any]:
        """Rows of a query with exact values as text, and how to get all of them.

        Args:
            text: the query.
            rows: its rows.

        Raises:
            BadQuery: a value has no text.
        """
        columns = [
            {
                "name": field.name,
                "type": str(field.type).replace("decimal128", "decimal"),
                "is_number": _is_number(field.type),
            }
            for field in rows.table.schema
        ]
        cells, size = [], 0
        with translate_sql_errors():
            for row in _text_rows(rows.table):
                size += len(msgspec.json.encode(row)) + 1
                if size > MAX_JSON_BYTES:
                    break
                cells.append(row)
        if not cells and rows.table.num_rows:
            raise BadQuery("a single row of the query is too large: choose fewer columns")
        return {
            "columns": columns,
            "rows": cells,
            "is_cut": rows.is_cut or len(cells) < rows.table.num_rows,
            "has_cut_values": rows.has_cut_values,
            "copy": sql_copy_texts(self.path, text)._asdict(),
        }


# --- texts of values ------------------------------------------------------------------------------


def _version(covered: Sequence[Range]) -> str:
    return blake2b(repr(list(covered)).encode(), digest_size=8).hexdigest()


def _totals(status: PairSummary) -> dict[str, Any]:
    return {
        "pair": status.pair,
        "name": status.wsname or status.pair,
        "trades": status.trades,
        **span_texts(status),
        "bytes": status.bytes,
    }


def _run_texts(run: Any, pair: str) -> dict[str, Any]:  # noqa: ANN401 - a RunRecord
    result = next((found for found in run.pairs if found.pair == pair), None)
    error = run.error or (result.error if result is not None else None)
    return {
        "command": run.command,
        "begun": run.begun,
        "ended": run.ended,
        "state": run.state,
        "exit_status": run.exit_status,
        "trades": result.trades if result is not None else 0,
        "error": brief(error) if error else None,
    }


def _texts(column: pa.ChunkedArray) -> list[str]:
    return ["" if value is None else str(value) for value in column.to_pylist()]


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _text_rows(table: pa.Table) -> Iterator[list[str | None]]:
    for batch in table.to_batches():
        columns = [column.to_pylist() for column in as_text(batch).columns]
        yield from ([_cell(value) for value in row] for row in zip(*columns, strict=True))


def _cell(value: object) -> str | None:
    """A value as text: JSON's numbers would lose digits in the page."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return msgspec.json.encode(value).decode()
