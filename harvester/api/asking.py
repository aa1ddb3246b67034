"""What an open archive is asked for: trades, candles, bars, and SQL."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from harvester.api.moments import Moment, moment_ns, span_between
from harvester.api.opened import Opened
from harvester.argument_types import check_types
from harvester.download.pair_selection import known_pairs
from harvester.errors import UsageError
from harvester.kraken.pairs import Pair, spellings
from harvester.times import Range, parse_interval, parse_offset

if TYPE_CHECKING:
    import pyarrow as pa

    from harvester.query.candle_query import Fill, Question
    from harvester.query.connection import Connection
    from harvester.query.result import Origin, Result

Number = int | float | str | Decimal


class Asking(Opened):
    """Rows, as relations that are read when they are asked for."""

    @check_types
    def trades(
        self,
        pair: str,
        *,
        since: Moment = "start",
        until: Moment | None = None,
        strict: bool = False,
    ) -> Result:
        """The trades of a pair, in the exchange's order, digit by digit.

        Args:
            pair: which.
            since: from when on.
            until: up to before when.
            strict: raise where a part of the requested range is not downloaded.

        Returns:
            One row a trade: `trade_id` (null where there is none), `time` (UTC, nanoseconds),
            `tie`, `price` (of one unit of the base currency, in the quote currency), `volume` (in
            the base currency), `side` (the taker's), `order_type`, `misc`; docs/format.md tells
            more. Nothing is read yet. `.notes` names the gaps in the requested range.

        Raises:
            NothingHeld: the archive holds no trades of the pair.
            ArchiveHasHoles: with `strict`, there are gaps.
            BadTime: `since` or `until` is no moment, or they are not in order.

        Example:
            >>> archive.trades("XBT/USD", since="2026-01-30").df().columns.tolist()
            ['trade_id', 'time', 'tie', 'price', 'volume', 'side', 'order_type', 'misc']
        """
        from harvester.query.relations import plain_batches, tape
        from harvester.query.result import Origin, Result

        one, span, archive = self._held(pair), span_between(since, until), self._disk
        limit = self._settings.candles.memory_limit
        notes = self._notes(one.altname, [span], strict=strict)
        return Result(
            Origin(
                f"trades of {one.altname}",
                lambda: tape(archive, one.altname, span, memory_limit=limit),
                lambda: frozenset(archive.segments(one.altname)),
                limit,
                lambda _: plain_batches(archive, one.altname, span),
                _units(one),
                notes=notes,
            )
        )

    @check_types
    def ohlc(  # noqa: PLR0913 - the options of the command
        self,
        pair: str,
        interval: str | int,
        *,
        since: Moment = "start",
        until: Moment | None = None,
        fill: Fill = "none",
        tz: str | None = None,
        offset: str = "0",
        all_columns: bool = False,
        strict: bool = False,
        complete_only: bool = False,
    ) -> Result:
        """Candles of a pair, exact, from the trades held.

        Args:
            pair: which.
            interval: a number and one of ms, s, m, h, d, w, mo, q, y; a bare number is minutes.
            since: only trades from it on count.
            until: only trades before it count.
            fill: what stands where nothing was traded: `none`, `previous`, `null` or `kraken`.
            tz: whose clock candles follow, such as `Europe/Berlin`; UTC unless given.
            offset: opens all later, such as `30m`, or earlier, such as `-7h`.
            all_columns: taker sides, exact value, ids, `is_complete` and more as well.
            strict: raise where a part of the requested range is not downloaded.
            complete_only: leave out candles that are running, cut by `since` or `until`, or touch
                a gap.

        Returns:
            One row a candle, in order of time: `time` (when it opens, UTC), `open`, `high`, `low`,
            `close`, `vwap` (in the quote currency), `volume` (in the base currency), `count`;
            docs/candles.md tells of all columns. Nothing is read yet. `.notes` names the gaps in
            the requested range.

        Raises:
            NothingHeld: the archive holds no trades of the pair.
            ArchiveHasHoles: with `strict`, there are gaps.
            BadInterval: the interval, or the offset, is none.
            BadTime: `since` or `until` is no moment, or they are not in order.
            BadSetting: there is no such fill or time zone.
            UsageError: a great many empty candles would be filled in, and `until` is not given.

        Example:
            >>> archive.ohlc("btc/usd", "4h", since="2026-01-30", fill="previous").shape
            (6, 8)
        """
        from harvester.query.candle_query import Question
        from harvester.query.candles import check_empty
        from harvester.query.result import Result

        one = self._held(pair)
        question = Question(
            one.altname,
            parse_interval(str(interval)),
            span_between(since, until),
            fill=fill,
            all_columns=all_columns,
            offset_ns=parse_offset(offset),
            pair_decimals=one.pair_decimals,
            tz=tz,
            complete_only=complete_only,
        )
        notes = self._notes(one.altname, [question.span], strict=strict)
        check_empty(self._disk, question)
        return Result(self._candles(question, _units(one), notes))

    def _candles(
        self, question: Question, units: Mapping[str, str], notes: tuple[str, ...]
    ) -> Origin:
        from harvester.query.candles import Session, batches
        from harvester.query.relations import candles
        from harvester.query.result import Origin

        archive, pair = self._disk, question.pair
        session = Session(archive, self._settings.candles.memory_limit)
        return Origin(
            question.title,
            lambda: candles(session, question),
            lambda: frozenset((*archive.segments(pair), *archive.rollups(pair))),
            session.memory_limit,
            lambda rows: batches(session, question, rows),
            units,
            notes=notes,
        )

    @check_types
    def bars(  # noqa: PLR0913 - the options of the command
        self,
        pair: str,
        *,
        trades: Number | None = None,
        volume: Number | None = None,
        value: Number | None = None,
        since: Moment = "start",
        until: Moment | None = None,
        anchor: Moment = "start",
        all_columns: bool = False,
        strict: bool = False,
        complete_only: bool = False,
    ) -> Result:
        """Bars that are not of time, exact, from the trades held: give one of the three sizes.

        Args:
            pair: which.
            trades: a bar ends with its so many-th trade.
            volume: with the trade that brings its volume to so much of the base currency.
            value: with the one that brings price x volume to so much of the quote currency.
            since: bars whose first trade was published from it on are shown; it moves none.
            until: and before it.
            anchor: count from the first trade at or after it; the first one held unless given.
            all_columns: taker sides, exact value, ids and more as well.
            strict: raise where a part of the range from `anchor` to `until` is not downloaded:
                bars are counted anew behind a gap.
            complete_only: leave out bars that ended before their size, at a gap or at the end.

        Returns:
            One row a bar, in the tape's order; docs/bars.md tells of the columns. They are made
            when they are first asked for, and then held. `.notes` names the gaps in the range.

        Raises:
            UsageError: none or several of the sizes are given.
            NothingHeld: the archive holds no trades of the pair.
            ArchiveHasHoles: with `strict`, there are gaps.
            BadSetting: a size is no number above 0, or has more digits than can count.
            BadTime: a moment is none, or `since` and `until` are not in order.

        Example:
            >>> archive.bars("XBT/USD", trades=5_000).df()["count"].tolist()
            [5000, 5000, 5000, 5000]
        """
        from harvester.query.bars import BYS, BarQuestion, bar_batches, counted_spans, parse_size
        from harvester.query.result import Result, of_batches

        sizes = zip(BYS, (trades, volume, value), strict=True)
        given = [(by, _plain(size)) for by, size in sizes if size is not None]
        if len(given) != 1:
            raise UsageError("what ends a bar? Give one of trades=N, volume=X and value=X")
        one, archive = self._held(pair), self._disk
        question = BarQuestion(
            one.altname,
            parse_size(*given[0]),
            span_between(since, until),
            moment_ns(anchor, time.time_ns()),
            all_columns,
            complete_only,
        )
        notes = self._notes(one.altname, counted_spans(question), strict=strict)

        def stream(rows: int) -> Iterator[pa.RecordBatch]:
            return bar_batches(archive, question, batch_rows=rows)

        return Result(of_batches(question.title, stream, _units(one), notes))

    @check_types
    def sql(
        self, query: str, params: Sequence[object] | Mapping[str, object] | None = None
    ) -> Result:
        """Ask in SQL: the view `trades`, and the macros `tape(pair)` and `ohlc(pair, interval)`.

        Each call stands alone: what one creates is gone with it. `connect` is for many queries.

        Args:
            query: any SQL of DuckDB's; of several statements, the rows of the last.
            params: values for `?`, or by name for `$name`; what others type belongs there.

        Returns:
            The rows that the query gives; docs/sql.md tells what there is to ask. One query is not
            run yet; where there are several statements, all but the last are. None where the last
            one gives no rows, such as CREATE.

        Raises:
            BadQuery: DuckDB can't make sense of the query, or there is none.
            HarvesterError: the memory allowed does not suffice.
            ArchiveDamaged: a file can't be read.

        Example:
            >>> archive.sql("SELECT count(*) FROM trades WHERE pair = ?", ["XBTUSD"]).fetchall()
            [(20000,)]
        """
        from harvester.query.result import Result, of_sql

        limit = self._settings.candles.memory_limit
        self._check_open()
        names = self._names()
        made = Result(of_sql(self._disk, query, params, names=names, memory_limit=limit))
        made.columns  # noqa: B018 - nonsense is said at once, not when it is read
        return made

    def connect(self) -> Connection:
        """A DuckDB connection with the view and the macros of `sql`, for many queries.

        It reads the files that stand now; after a compaction, or for newer trades, make another.

        Raises:
            ArchiveDamaged: a file can't be read.

        Example:
            >>> with archive.connect() as connection:
            ...     connection.sql("FROM tape('btcusd') LIMIT 2").columns[:2]
            ['trade_id', 'time']
        """
        from harvester.query.sql import connect_views

        self._check_open()
        limit = self._settings.candles.memory_limit
        return connect_views(self._disk, names=self._names(), memory_limit=limit)

    def _notes(self, pair: str, spans: Sequence[Range], *, strict: bool) -> tuple[str, ...]:
        """The sentence about gaps in requested ranges, if there are any.

        Raises:
            ArchiveHasHoles: there are, and the query is strict.
        """
        from harvester.query.plan import checked

        return checked(self._disk, pair, spans, time.time_ns(), strict=strict)

    def _names(self) -> dict[str, str]:
        return spellings(known_pairs(self._disk).values(), self._disk.held())


def _plain(size: Number) -> str:
    """A size in plain digits; a float by the shortest digits that mean it."""
    if isinstance(size, str):
        return size
    # `str` refuses integers of thousands of digits.
    return f"{Decimal(size if isinstance(size, int) else str(size)):f}"


def _units(pair: Pair) -> dict[str, str]:
    """What the columns count, as far as the exchange tells the pair's currencies."""
    base, slash, quote = pair.wsname.partition("/")
    if not slash:
        return {"time": "UTC"}
    prices = dict.fromkeys(("price", "open", "high", "low", "close", "vwap"), f"{quote} per {base}")
    volumes = dict.fromkeys(("volume", "buy_volume", "sell_volume"), base)
    values = dict.fromkeys(("value", "buy_value", "sell_value"), quote)
    times = dict.fromkeys(("time", "first_time", "last_time"), "UTC")
    return prices | volumes | values | times
