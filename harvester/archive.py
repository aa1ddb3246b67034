"""`harvester.open` and `harvester.Archive`: the public Python API; a method for every command."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from harvester.argument_types import Moment, check_types, moment_ns, span_between
from harvester.config import Settings, load
from harvester.download.pair_selection import known_pairs, resolve_held, resolve_named
from harvester.errors import BadSetting, UnknownPair, UsageError
from harvester.kraken.pairs import Pair, search, spellings
from harvester.notebook import show_archive
from harvester.settings_keys import KEYS
from harvester.storage.trade_store import TradeStore as Disk
from harvester.times import Range, parse_interval, parse_offset
from harvester.verify.status import PairStatus, status

if TYPE_CHECKING:
    import pyarrow as pa

    from harvester.async_runner import BackfillCall
    from harvester.charts.chart import Chart
    from harvester.download.events import BackfillResult, Event
    from harvester.operations.refresh import RefreshResult
    from harvester.operations.run_log import RunRecord
    from harvester.query.candle_query import CandleQuery, Fill
    from harvester.query.connection import Connection
    from harvester.query.result import Result, ResultSource
    from harvester.verify.digest import Digest
    from harvester.verify.reports import PairReport


Number = int | float | str | Decimal


@check_types
def open(  # noqa: A001 - harvester.open reads well
    path: str | os.PathLike[str] | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Archive:
    """Open an archive, which need not exist yet.

    Args:
        path: the folder that holds it; None for what the settings say, `data` if they say nothing.
        config: the configuration file; without it `config.toml` here, if there is one.
        settings: by the names of config.toml, such as `{"exchange.rate": 0.5}`; they go before
            the environment, and that before the file.

    Raises:
        BadSetting: a setting is unknown, or has a value that is not allowed.
        ArchiveTooNew: a newer harvester made the archive.
        ArchiveDamaged: its mark can't be read.

    Example:
        >>> with harvester.open("data", settings={"candles.memory_limit": "1GB"}) as archive:
        ...     archive.held()
        ['XBTUSD']
    """
    given = dict(settings or {})
    _check_settings(given)
    if path is not None:
        given["archive.path"] = os.fspath(path)
    return Archive(load(given, file=None if config is None else os.fspath(config)))


def _check_settings(given: Mapping[str, Any]) -> None:
    rules = {key.name: key.rule for key in KEYS}
    for name, value in given.items():
        if name not in rules:
            raise BadSetting(
                f"settings: {_shown(name)} is no setting; there are {', '.join(rules)}"
            )
        try:
            rules[name].read(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise BadSetting(
                f"settings: {name} is {_shown(value)}: it must be {rules[name].allowed}"
            ) from error


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:
        # Python prints no integer of more than 4300 digits.
        return "a number of thousands of digits"


class Archive:
    """The trades of any number of pairs, in a folder. Made by `harvester.open`.

    Pairs go by any spelling: `XBTUSD`, `XBT/USD`, `btc-usd`. `since` is included and `until` is
    not; each is text as the commands take it (`"2024-01-31"`, `"7d"`, `"now"`), a date, a datetime
    (UTC where it has no zone), a `pandas.Timestamp`, a `numpy.datetime64`, or UNIX nanoseconds.

    Reading needs no lock, and is right whoever writes meanwhile. Closing it ends nothing that it
    gave; it only answers no more.
    """

    def __init__(self, settings: Settings, *, estimates: bool = False) -> None:
        """Made by `harvester.open`.

        Args:
            settings: the settings in force.
            estimates: whether downloads first ask how many trades are missing, so that events
                tell how much is left.
        """
        self._settings = settings
        self._estimates = estimates
        self._disk = Disk(settings.archive.path)
        self._is_closed = False

    @property
    def path(self) -> str:
        """The folder that holds it."""
        return self._disk.path

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    def close(self) -> None:
        """Answer no more. What it gave before stays good.

        Example:
            >>> candles = archive.ohlc("XBT/USD", "1d")
            >>> archive.close()
            >>> len(candles)
            10
        """
        self._is_closed = True

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<harvester.Archive: {self.path}>"

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError(
                f"the archive at {self.path} is closed: harvester.open({self.path!r}) opens it "
                "again"
            )

    def _held(self, pair: str) -> Pair:
        self._check_open()
        return resolve_held(self._disk, pair)

    # --- downloads -------------------------------------------------------------------------------

    @check_types
    def backfill(
        self,
        *pairs: str,
        since: Moment = "start",
        until: Moment | None = None,
        newest_first: bool = False,
        upgrade: bool = False,
        progress: Callable[[Event], object] | None = None,
        check: bool = True,
    ) -> list[BackfillResult]:
        """Fetch what is missing of some pairs, side by side, and keep it.

        Whatever stops it, the same call goes on where it stopped. It works inside a notebook's
        running event loop, too. Ctrl-C ends it as it ends the command: what was fetched is kept.

        Args:
            *pairs: which; the exchange is asked for names that the archive does not know.
            since: from when on; all history unless given.
            until: up to before when; what is published by now, and settled, unless given.
            newest_first: the newest missing month first.
            upgrade: then fetch anew what came from Kraken's CSV files, and replace it range by
                range. docs/import.md tells more.
            progress: told each event of `harvester.download.events` in another thread; `print` will
                do.
            check: raise the gravest error once all pairs are done. Else it is only told in the
                outcomes.

        Returns:
            An outcome a pair: how many trades came in how many pages, and what was reached.

        Raises:
            BadTime: `since` or `until` is no moment, or they are not in order.
            UnknownPair: no market goes by one of the names.
            ExchangeError: the exchange can't be reached, refuses, or answers nonsense.
            ArchiveLocked: another run is writing one of the pairs.
            ArchiveHasGaps: something that was asked for is not covered.
            ArchiveIncomplete: what was replaced, or could not be, does not agree with its file.
            ArchiveDamaged: what the exchange shows contradicts what is held.
            ArchiveUnwritable: the machine refused.
            ValueDoesNotFit: a trade that the format has no room for.
            KeyboardInterrupt: Ctrl-C, after what was fetched was written.

        Example:
            >>> [outcome] = archive.backfill("XBT/USD", since="2026-01-21")
            >>> outcome.pair, outcome.exit_status
            ('XBTUSD', 0)
        """
        from harvester.async_runner import run_in_thread

        span = span_between(since, until)
        crawl = self._crawl(pairs, span, progress, newest_first=newest_first, upgrade=upgrade)
        return _checked(run_in_thread(crawl.run), check=check)

    @check_types
    async def abackfill(
        self,
        *pairs: str,
        since: Moment = "start",
        until: Moment | None = None,
        newest_first: bool = False,
        upgrade: bool = False,
        progress: Callable[[Event], object] | None = None,
        check: bool = True,
    ) -> list[BackfillResult]:
        """As `backfill`, on the event loop that runs. Cancelled, it first keeps what was fetched.

        Raises:
            asyncio.CancelledError: it was cancelled, and what was fetched is kept.
            HarvesterError: all that `backfill` raises.

        Example:
            >>> async def both():
            ...     return await archive.abackfill("XBT/USD", since="2026-01-21")
            >>> [outcome] = asyncio.run(both())
            >>> outcome.gaps
            []
        """
        from harvester.async_runner import run_to_completion

        span = span_between(since, until)
        crawl = self._crawl(pairs, span, progress, newest_first=newest_first, upgrade=upgrade)
        return _checked(await run_to_completion(crawl.run), check=check)

    @check_types
    def refresh(
        self,
        *pairs: str,
        max_minutes: float | None = None,
        progress: Callable[[Event], object] | None = None,
        check: bool = True,
    ) -> RefreshResult:
        """Bring pairs up to the exchange's now, fill their gaps, and tend their files.

        The run of every night. A pair that is held goes on from where it was asked for; a new one
        begins with its first trade. docs/nightly.md tells what the states mean.

        Args:
            *pairs: names and patterns such as `*/EUR`; without any, those of `refresh.pairs` in
                the settings, or all that are held where it names none.
            max_minutes: end in good order after so long; the next run goes on. That is no error:
                pairs that were not finished have the state `unfinished`.
            progress: as of `backfill`.
            check: raise what ended the run, or the gravest error of a pair. Else it is only told
                in the result.

        Returns:
            The run as a whole: `pairs` (each with `state`, `trades`, `gaps`, `calls`, ...),
            `exchange`, `calls`, `refusals`, `seconds`, `error`, `exit_status`.

        Raises:
            UsageError: `max_minutes` is no number above 0.
            NothingHeld: no pair is named, and none is held.
            ExchangeError: the exchange can't be reached, refuses, or is in maintenance.
            ArchiveLocked: another refresh goes on, or another run is writing one of the pairs.
            ArchiveHasGaps: something that was asked for is not covered.
            ArchiveDamaged: what the exchange shows contradicts what is held.
            ArchiveUnwritable: the machine refused.
            ValueDoesNotFit: a trade that the format has no room for.
            KeyboardInterrupt: Ctrl-C, after what was fetched was written.

        Example:
            >>> done = archive.refresh()
            >>> [(pair.pair, pair.state) for pair in done.pairs]
            [('XBTUSD', 'complete')]
        """
        from harvester.async_runner import RefreshCall, raise_gravest, run_in_thread

        self._check_open()
        minutes = None if max_minutes is None else float(max_minutes)
        if minutes is not None and not minutes > 0:
            raise UsageError(f"max_minutes is {minutes:g}: give a number above 0")
        renewal = RefreshCall(Disk(self.path), self._settings, pairs, minutes, _listener(progress))
        done = run_in_thread(renewal.run)
        if check:
            if done.error is not None and done.error.exit_status:
                raise done.error
            raise_gravest(done.pairs)
        return done

    @check_types
    def pairs(self, text: str = "", *, update: bool = False) -> list[Pair]:
        """The markets whose names hold a text, in any spelling: BTC finds XBT.

        Args:
            text: all markets unless given.
            update: ask the exchange, also where names are known already.

        Returns:
            The markets by altname, each with its spellings and its decimals.

        Raises:
            UnknownPair: there is none.
            ExchangeError: the exchange can't be asked.

        Example:
            >>> [pair.wsname for pair in archive.pairs("btc")]
            ['XBT/USD']
        """
        self._check_open()
        known = known_pairs(self._disk)
        if update or len(known) <= len(self._disk.held()):
            from harvester.async_runner import market_names, run_in_thread

            another = Disk(self._disk.path)
            known = run_in_thread(lambda stop: stop.guard(market_names(self._settings, another)))
        found = search(text, known.values())
        if not found:
            raise UnknownPair(
                f"no market bears {text!r} in its names; update=True asks the exchange anew"
            )
        return found

    def _crawl(
        self,
        pairs: tuple[str, ...],
        span: Range,
        progress: Callable[[Event], object] | None,
        *,
        newest_first: bool,
        upgrade: bool,
    ) -> BackfillCall:
        from harvester.async_runner import BackfillCall

        self._check_open()
        if not pairs:
            raise UsageError("backfill what? Give one pair or several, such as 'XBT/USD'")

        # An archive of its own, as that one is used in another thread.
        another = Disk(self.path)
        told = _listener(progress)
        return BackfillCall(another, self._settings, pairs, span, newest_first, upgrade, told)

    # --- queries ---------------------------------------------------------------------------------

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
            ArchiveHasGaps: with `strict`, there are gaps.
            BadTime: `since` or `until` is no moment, or they are not in order.

        Example:
            >>> archive.trades("XBT/USD", since="2026-01-30").df().columns.tolist()
            ['trade_id', 'time', 'tie', 'price', 'volume', 'side', 'order_type', 'misc']
        """
        from harvester.query.relations import plain_batches, tape
        from harvester.query.result import Result, ResultSource

        one, span, archive = self._held(pair), span_between(since, until), self._disk
        limit = self._settings.candles.memory_limit
        notes = self._notes(one.altname, [span], strict=strict)
        return Result(
            ResultSource(
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
            ArchiveHasGaps: with `strict`, there are gaps.
            BadInterval: the interval, or the offset, is none.
            BadTime: `since` or `until` is no moment, or they are not in order.
            BadSetting: there is no such fill or time zone.
            UsageError: a great many empty candles would be filled in, and `until` is not given.

        Example:
            >>> archive.ohlc("btc/usd", "4h", since="2026-01-30", fill="previous").shape
            (6, 8)
        """
        from harvester.query.candle_query import CandleQuery
        from harvester.query.candles import check_empty
        from harvester.query.result import Result

        one = self._held(pair)
        question = CandleQuery(
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
        self, question: CandleQuery, units: Mapping[str, str], notes: tuple[str, ...]
    ) -> ResultSource:
        from harvester.query.candles import QuerySession, batches
        from harvester.query.relations import candles
        from harvester.query.result import ResultSource

        archive, pair = self._disk, question.pair
        session = QuerySession(archive, self._settings.candles.memory_limit)
        return ResultSource(
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
            ArchiveHasGaps: with `strict`, there are gaps.
            BadSetting: a size is no number above 0, or has more digits than can count.
            BadTime: a moment is none, or `since` and `until` are not in order.

        Example:
            >>> archive.bars("XBT/USD", trades=5_000).df()["count"].tolist()
            [5000, 5000, 5000, 5000]
        """
        from harvester.query.bars import BYS, BarQuery, bar_batches, counted_spans, parse_size
        from harvester.query.result import Result, of_batches

        sizes = zip(BYS, (trades, volume, value), strict=True)
        given = [(by, _plain(size)) for by, size in sizes if size is not None]
        if len(given) != 1:
            raise UsageError("what ends a bar? Give one of trades=N, volume=X and value=X")
        one, archive = self._held(pair), self._disk
        question = BarQuery(
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
            ArchiveHasGaps: there are, and the query is strict.
        """
        from harvester.query.plan import checked

        return checked(self._disk, pair, spans, time.time_ns(), strict=strict)

    def _names(self) -> dict[str, str]:
        return spellings(known_pairs(self._disk).values(), self._disk.held())

    # --- charts ----------------------------------------------------------------------------------

    @check_types
    def chart(  # noqa: PLR0913 - the options of the command
        self,
        pair: str,
        interval: str | int,
        *,
        since: Moment = "start",
        until: Moment | None = None,
        tz: str | None = None,
        offset: str = "0",
        strict: bool = False,
        complete_only: bool = False,
    ) -> Chart:
        """Candles, vwap and volume by the taker's side, to look at; what is not fetched is shaded.

        A notebook shows it. It needs no network.

        Args:
            pair: which.
            interval: as of `ohlc`. Where that would be more candles than a screen can show (3,000),
                the next coarser one is taken that is not, and the chart says so.
            since: only trades from it on count.
            until: only trades before it count.
            tz: whose clock candles follow; times are shown in UTC all the same.
            offset: opens all later, such as `30m`, or earlier, such as `-7h`.
            strict: raise where a part of the requested range is not downloaded.
            complete_only: leave out candles that are running, cut by `since` or `until`, or touch
                a gap.

        Returns:
            A chart: `.figure` is plotly's, to be changed as one likes; `.save("chart.html")` keeps
            it, as .png, .svg or .pdf with the extra `png`; `.notes` tells what is to be known of
            it, such as ranges that are not downloaded.

        Raises:
            NothingHeld: the archive holds no trades of the pair, or none in that span.
            ArchiveHasGaps: with `strict`, there are gaps.
            BadInterval: the interval, or the offset, is none.
            BadTime: `since` or `until` is no moment, or they are not in order.
            BadSetting: there is no such time zone.
            ArchiveDamaged: a file can't be read, or files keep vanishing.
            HarvesterError: the memory allowed does not suffice.

        Example:
            >>> chart = archive.chart("XBT/USD", "1h", since="2026-01-30")
            >>> chart.title
            'XBT/USD, 1h candles, 2026-01-30 to 2026-01-31 (UTC)'
            >>> len(chart.figure.data[0].x)
            24
        """
        from harvester.charts.chart import chart
        from harvester.query.candle_query import CandleQuery

        one = self._held(pair)
        question = CandleQuery(
            one.altname,
            parse_interval(str(interval)),
            span_between(since, until),
            offset_ns=parse_offset(offset),
            tz=tz,
            complete_only=complete_only,
        )
        limit = self._settings.candles.memory_limit
        return chart(self._disk, one, question, time.time_ns(), memory_limit=limit, strict=strict)

    # --- what is stored --------------------------------------------------------------------------

    def held(self) -> list[str]:
        """The altnames of the pairs that are held.

        Example:
            >>> archive.held()
            ['XBTUSD']
        """
        self._check_open()
        return self._disk.held()

    @check_types
    def coverage(self, pair: str) -> list[Range]:
        """What has been fetched whole of a pair, in order, as few ranges as can be.

        Returns:
            Ranges `(after, through]` of published time, in nanoseconds since the UNIX epoch.

        Raises:
            NothingHeld: the archive holds no trades of the pair.

        Example:
            >>> [covered] = archive.coverage("XBT/USD")
            >>> str(covered)
            'the beginning to 2026-01-31'
        """
        return self._disk.coverage(self._held(pair).altname)

    @check_types
    def gaps(self, pair: str) -> list[Range]:
        """What was asked for of a pair and is not covered, in order.

        Returns:
            Ranges as those of `coverage`; none where all is there.

        Raises:
            NothingHeld: the archive knows nothing of the pair.

        Example:
            >>> archive.gaps("XBT/USD")
            []
        """
        self._check_open()
        return self._disk.gaps(resolve_named(self._disk, pair))

    @check_types
    def status(self, *pairs: str) -> list[PairStatus]:
        """What is stored of some pairs, or of all: trades, coverage, gaps, files, bytes.

        Reads file names and Parquet footers only, no trades; no network.

        Args:
            *pairs: which, in any spelling; all that are stored or were requested unless given.

        Returns:
            A status per pair; `pandas.DataFrame(archive.status())` is a table of them. A file that
            can't be read is named in `damaged`.

        Raises:
            NothingHeld: the archive knows nothing of one of the pairs.
            ArchiveDamaged: files keep vanishing while they are listed.

        Example:
            >>> [status] = archive.status()
            >>> status.pair, status.trades, status.gaps
            ('XBTUSD', 20000, [])
        """
        return status(self._disk, self._named(pairs) or None, time.time_ns())

    @check_types
    def runs(self, count: int = 20) -> list[RunRecord]:
        """The last runs that wrote to the archive, the latest first, from the run log.

        Args:
            count: at most so many.

        Returns:
            A record per run: `command`, `begun`, `ended`, `state` (`running`, `ended` or
            `killed`), `exit_status`, `error`, `asked`, `pairs`, `trades`, `gaps`, `calls`, ...

        Raises:
            UsageError: `count` is less than 1.
            ArchiveError: the folder with the records can't be read.

        Example:
            >>> archive.backfill("XBT/USD")[0].error
            >>> [run] = archive.runs(1)
            >>> run.command, run.state, run.exit_status
            ('backfill', 'ended', 0)
        """
        from harvester.operations.run_log import last

        self._check_open()
        if count < 1:
            raise UsageError(f"count is {count}: give 1 or more")
        return last(self._disk, count)

    @check_types
    def digest(
        self,
        *pairs: str,
        since: Moment = "start",
        until: Moment | None = None,
        progress: Callable[[Event], object] | None = None,
    ) -> list[Digest]:
        """Checksums of the stored trades, by whole months, to compare with another archive.

        Two archives with the same trades have the same digest, however the trades were downloaded
        and whatever the segments are.

        Args:
            *pairs: which, in any spelling; all that are stored unless given.
            since: start time, inclusive; only whole months count.
            until: end time, exclusive.
            progress: called with each event of `harvester.download.events`. A `Reported` event has
                the digests of a pair as soon as they are known.

        Returns:
            A digest per range of months without a gap: `pair`, `first`, `last`, `rows`, `sha256`,
            and `months` with the checksum of each. docs/format.md says how it is computed.

        Raises:
            BadTime: `since` or `until` is no time, or they are not in order.
            NothingHeld: the archive has no trades of one of the pairs.
            ArchiveDamaged: a file can't be read, ends in the future, or is being replaced.

        Example:
            >>> archive.digest("XBT/USD")  # ten days are stored: no whole month
            []
        """
        from harvester.operations.verification import digest_pairs

        self._check_open()
        names = [self._held(name).altname for name in pairs] or self._disk.held()
        return digest_pairs(self._disk, names, span_between(since, until), _listener(progress))

    @check_types
    def verify(
        self,
        *pairs: str,
        repair: bool = False,
        against_exchange: bool = False,
        against_csv: Sequence[str | os.PathLike[str]] = (),
        progress: Callable[[Event], object] | None = None,
    ) -> list[PairReport]:
        """Check every stored trade of some pairs, or of all, for corruption and gaps.

        Trades are checked against file names, footers, checksums, trade ids, roll-ups and what was
        requested; docs/verify.md has the whole list. What is wrong is reported, not raised.

        Args:
            *pairs: which, in any spelling; all that are stored or were requested unless given.
            repair: move broken files into the folder `quarantine`, download their ranges and what
                else is missing, and check again. Nothing is deleted.
            against_exchange: compare candles with the exchange's OHLC endpoint, too.
            against_csv: compare candles with Kraken's candle files (OHLCVT), too: ZIPs, CSVs or
                folders.
            progress: called with each event of `harvester.download.events`, also from another
                thread. A `Reported` event has a report as soon as it is known: a `PairReport`,
                `Moved`, `RepairReport`, `ExchangeReport` or `CsvReport`.

        Returns:
            A report per pair, after the repair if there was one. `faults` is empty if nothing is
            wrong; then `digests` has checksums by month. `repair`, `exchange` and `csv` are the
            reports of what else was requested; each has its `exit_status`, 0 if all is well.

        Raises:
            NothingHeld: the archive knows nothing of one of the pairs.
            ArchiveDamaged: files keep vanishing while they are read.
            BadFile: a path of `against_csv` does not exist, or is no ZIP, CSV or folder of them.
            KeyboardInterrupt: Ctrl-C; what a repair downloaded is kept.

        Example:
            >>> [report] = archive.verify("XBT/USD")
            >>> report.rows, report.faults
            (20000, [])
        """
        from harvester.async_runner import run_in_thread
        from harvester.csv_import.files import find
        from harvester.download.request import RunOptions
        from harvester.operations import verification

        names, settings = self._named(pairs) or self._disk.to_verify(), self._settings
        listener = _listener(progress)
        # Files that can't be used are reported before all trades are read.
        files = find([os.fspath(path) for path in against_csv])
        reports = verification.check_pairs(self._disk, names, listener)
        if repair and any(report.faults for report in reports):
            repairs = run_in_thread(
                lambda stop: verification.repair_pairs(
                    Disk(self.path),
                    settings,
                    reports,
                    RunOptions(listener, stop, estimates=self._estimates),
                ),
                is_stoppable=True,
            )
            reports = verification.with_repairs(reports, repairs)
        if against_exchange and reports:
            compared = run_in_thread(
                lambda stop: verification.compare_with_exchange(
                    Disk(self.path), settings, names, listener, stop
                )
            )
            for report in reports:
                report.exchange = compared[report.pair]
        if against_csv:
            csv_reports = verification.compare_with_csv(
                self._disk, settings, files, names, listener, all_pairs=bool(pairs)
            )
            for report in reports:
                report.csv = csv_reports.get(report.pair)
        return reports

    def _named(self, pairs: Sequence[str]) -> list[str]:
        """Altnames of pairs that are stored or were requested, each once."""
        self._check_open()
        return list(dict.fromkeys(resolve_named(self._disk, name) for name in pairs))

    def _repr_html_(self) -> str:
        return show_archive(self.path, self.status(), self._disk.named())


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


def _listener(progress: Callable[[Event], object] | None) -> Callable[[Event], None]:
    """What is told each event, whatever `progress` returns."""

    def tell(event: Event) -> None:
        if progress is not None:
            progress(event)

    return tell


def _checked(outcomes: list[BackfillResult], *, check: bool) -> list[BackfillResult]:
    from harvester.async_runner import raise_gravest

    if check:
        raise_gravest(outcomes)
    return outcomes
