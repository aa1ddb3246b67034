"""`harvester.open` and `harvester.Archive`: the public Python API; a method for every command."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from harvester.argument_types import (
    ARGUMENT_TYPES,
    Moment,
    check_types,
    moment_ns,
    parse_range,
    wrong_type,
)
from harvester.config import Settings, load
from harvester.download.pair_selection import PairName, PairSelection
from harvester.errors import BadSetting, UnknownPair, UsageError
from harvester.kraken.pairs import Pair, altnames_by_spelling, search
from harvester.notebook import show_archive
from harvester.pair_names import known_pairs, resolve_held, resolve_named
from harvester.settings_keys import KEYS
from harvester.storage.trade_store import TradeStore as Disk
from harvester.times import Interval, Range, parse_interval, parse_offset
from harvester.verify.status import PairStatus, status

if TYPE_CHECKING:
    import pyarrow as pa

    from harvester.async_runner import BackfillRun
    from harvester.charts.chart import Chart
    from harvester.csv_import.import_report import ImportResult
    from harvester.csv_import.run import ImportPlan
    from harvester.download.estimate import BackfillEstimate
    from harvester.download.events import BackfillResult, CancelToken, Event
    from harvester.exporters.export import ExportedFile, Layout
    from harvester.operations.maintenance import CompactionResult, RollupResult
    from harvester.operations.refresh import RefreshResult
    from harvester.operations.run_log import RunRecord
    from harvester.query.connection import Connection
    from harvester.query.explain import Explanation
    from harvester.query.plan import CandleQuery, Fill
    from harvester.query.result import Result
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
    """Open an archive. Its folder is created by the first download or import.

    Args:
        path: the folder of the archive; unless given, that of the settings, which is `data` by
            default.
        config: the configuration file; unless given, `config.toml` in the working folder, if there
            is one.
        settings: by the keys of config.toml, such as `{"exchange.rate": 0.5}`. They override
            environment variables, which override the file.

    Raises:
        BadSetting: a setting is unknown, or its value is not allowed.
        ArchiveTooNew: a newer version of harvester wrote the archive.
        ArchiveDamaged: archive.json can't be read.

    Example:
        >>> with harvester.open("data", settings={"candles.memory_limit": "1GB"}) as archive:
        ...     archive.held()
        ['XBTUSD']
    """
    values = dict(settings or {})
    _check_settings(values)
    if path is not None:
        values["archive.path"] = os.fspath(path)
    return Archive(load(values, file=None if config is None else os.fspath(config)))


def _check_settings(settings: Mapping[str, Any]) -> None:
    rules = {key.name: key.rule for key in KEYS}
    for name, value in settings.items():
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
    """The trades of any number of pairs, in a folder. `harvester.open` creates an Archive.

    Pairs can be named in any spelling: `XBTUSD`, `XBT/USD`, `btc-usd`. `since` is inclusive and
    `until` exclusive; each is text as for the commands (`"2024-01-31"`, `"7d"`, `"now"`), a date, a
    datetime (UTC if it has no time zone), a `pandas.Timestamp`, a `numpy.datetime64`, or UNIX
    nanoseconds.

    Reading needs no lock and is correct while others write. After `close`, results that were
    returned before still work.
    """

    def __init__(self, settings: Settings, warn: Callable[[str], None] = warnings.warn) -> None:
        """Use `harvester.open` instead.

        Args:
            settings: the effective settings.
            warn: receives warnings about what does not stop an operation.
        """
        self._settings = settings
        self._warn = warn
        self._disk = Disk(settings.archive.path)
        self._is_closed = False

    @property
    def path(self) -> str:
        """The folder of the archive."""
        return self._disk.path

    @property
    def settings(self) -> Settings:
        """The effective settings."""
        return self._settings

    def close(self) -> None:
        """Refuse further calls. Results that were returned before still work.

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

    # Downloads

    @check_types
    def backfill(  # noqa: PLR0913 - the options of the command
        self,
        *pairs: str,
        all_pairs: bool = False,
        quotes: Sequence[str] = (),
        since: Moment = "start",
        until: Moment | None = None,
        newest_first: bool = False,
        upgrade: bool = False,
        estimate_trades: bool = False,
        progress: Callable[[Event], object] | None = None,
        cancel: CancelToken | None = None,
        check: bool = True,
    ) -> list[BackfillResult]:
        """Download what is missing of some pairs, several at a time, and store it.

        If it is interrupted, the same call continues where it stopped. It also works inside a
        notebook's running event loop. After Ctrl-C, what was downloaded is stored.

        Args:
            *pairs: names in any spelling, or patterns such as `*/EUR`. The exchange is asked for
                patterns and for names that the archive does not know.
            all_pairs: every pair that the exchange lists; give no names then.
            quotes: of `all_pairs` and of patterns, only pairs quoted in one of these currencies.
            since: start time, inclusive; the first trade unless given.
            until: end time, exclusive; unless given, now minus the setting `refresh.settle_s`.
            newest_first: download the newest missing month first.
            upgrade: afterwards, download ranges that came from Kraken's CSV files again and replace
                them one by one; see docs/import.md.
            estimate_trades: first ask the exchange how many trades each pair lacks, one more
                request per pair, so that `Started` events contain an estimate.
            progress: called in another thread with each event of `harvester.download.events`;
                `print` works.
            cancel: ends the call early when it is cancelled; what was downloaded is stored.
            check: raise the most severe error once all pairs are done. Without it, errors are only
                in the results.

        Returns:
            One result per pair: number of trades and pages, the range covered, gaps, error.

        Raises:
            BadTime: `since` or `until` is not a time, or they are not in order.
            UnknownPair: no market has one of the names.
            ExchangeError: the exchange can't be reached, refuses, or answers nonsense.
            Interrupted: `cancel` was cancelled.
            ArchiveLocked: another run is writing one of the pairs.
            ArchiveHasGaps: a part of the requested range is not covered.
            ArchiveIncomplete: re-downloaded trades differ from the imported ones, or imported
                ranges could not be replaced.
            ArchiveDamaged: the exchange's trades contradict the stored ones.
            ArchiveUnwritable: the operating system refused to write.
            ValueDoesNotFit: a value of a trade does not fit the storage format.
            KeyboardInterrupt: Ctrl-C, after what was downloaded was stored.

        Example:
            >>> [result] = archive.backfill("XBT/USD", since="2026-01-21")
            >>> result.pair, result.exit_status
            ('XBTUSD', 0)
        """
        from harvester.async_runner import run_in_thread

        run = self._backfill_run(
            self._selection(pairs, quotes, all_pairs=all_pairs),
            parse_range(since, until),
            newest_first=newest_first,
            upgrade=upgrade,
            estimate_trades=estimate_trades,
            progress=progress,
        )
        return _checked(run_in_thread(run.run, cancel), check=check)

    @check_types
    async def abackfill(  # noqa: PLR0913 - as `backfill`
        self,
        *pairs: str,
        all_pairs: bool = False,
        quotes: Sequence[str] = (),
        since: Moment = "start",
        until: Moment | None = None,
        newest_first: bool = False,
        upgrade: bool = False,
        estimate_trades: bool = False,
        progress: Callable[[Event], object] | None = None,
        cancel: CancelToken | None = None,
        check: bool = True,
    ) -> list[BackfillResult]:
        """Run `backfill` on the running event loop. If cancelled, store what was downloaded first.

        Args:
            *pairs: as for `backfill`, and so are the others.
            all_pairs: every pair that the exchange lists.
            quotes: only pairs quoted in one of these currencies.
            since: start time, inclusive.
            until: end time, exclusive.
            newest_first: download the newest missing month first.
            upgrade: afterwards, download imported ranges again and replace them.
            estimate_trades: first ask the exchange how many trades each pair lacks.
            progress: called with each event, in the thread of the event loop.
            cancel: ends the call early when it is cancelled.
            check: raise the most severe error once all pairs are done.

        Raises:
            asyncio.CancelledError: the task was cancelled; what was downloaded is stored.
            HarvesterError: as for `backfill`.

        Example:
            >>> async def download():
            ...     return await archive.abackfill("XBT/USD", since="2026-01-21")
            >>> [result] = asyncio.run(download())
            >>> result.gaps
            []
        """
        from harvester.async_runner import run_to_completion

        run = self._backfill_run(
            self._selection(pairs, quotes, all_pairs=all_pairs),
            parse_range(since, until),
            newest_first=newest_first,
            upgrade=upgrade,
            estimate_trades=estimate_trades,
            progress=progress,
        )
        return _checked(await run_to_completion(run.run, cancel), check=check)

    @check_types
    def estimate_backfill(  # noqa: PLR0913 - the options of the command
        self,
        *pairs: str,
        all_pairs: bool = False,
        quotes: Sequence[str] = (),
        since: Moment = "start",
        until: Moment | None = None,
        upgrade: bool = False,
        progress: Callable[[Event], object] | None = None,
        cancel: CancelToken | None = None,
    ) -> BackfillEstimate:
        """Estimate the trades, requests, hours and bytes of a `backfill`; download no trades.

        Args:
            *pairs: names in any spelling, or patterns such as `*/EUR`.
            all_pairs: every pair that the exchange lists; give no names then.
            quotes: of `all_pairs` and of patterns, only pairs quoted in one of these currencies.
            since: start time, inclusive.
            until: end time, exclusive.
            upgrade: include the re-download of imported ranges.
            progress: called in another thread with `Begun`, whose `pairs` is the number of pairs
                for which the exchange is asked for counts, one request each.
            cancel: ends the call early when it is cancelled.

        Returns:
            `pairs`, the largest first, and their `total`.

        Raises:
            BadTime: `since` or `until` is not a time, or they are not in order.
            UnknownPair: no market has one of the names.
            ExchangeError: the exchange can't be reached, refuses, or answers nonsense.
            Interrupted: `cancel` was cancelled.

        Example:
            >>> estimate = archive.estimate_backfill("XBT/USD", since="2026-01-21")
            >>> estimate.total.pairs
            1
        """
        from harvester.async_runner import run_in_thread

        run = self._backfill_run(
            self._selection(pairs, quotes, all_pairs=all_pairs),
            parse_range(since, until),
            upgrade=upgrade,
            progress=progress,
        )
        return run_in_thread(run.estimate, cancel)

    @check_types
    def refresh(
        self,
        *pairs: str,
        max_minutes: float | None = None,
        estimate_trades: bool = False,
        progress: Callable[[Event], object] | None = None,
        cancel: CancelToken | None = None,
        check: bool = True,
    ) -> RefreshResult:
        """Download new trades of some pairs up to now, fill their gaps, and maintain their files.

        It is meant to run every night. A stored pair continues from its last request; a new one
        begins with its first trade. docs/nightly.md explains the states.

        Args:
            *pairs: names in any spelling, or patterns such as `*/EUR`; without any, those of the
                setting `refresh.pairs`, or all stored pairs if it is empty.
            max_minutes: stop in good order after this time; the next run continues. That is no
                error: pairs that were not finished have the state `unfinished`.
            estimate_trades: as for `backfill`.
            progress: as for `backfill`.
            cancel: as for `backfill`.
            check: raise what ended the run, or the most severe error of a pair. Without it, errors
                are only in the result.

        Returns:
            The run as a whole: `pairs` (each with `state`, `trades`, `gaps`, `calls`, ...),
            `exchange`, `calls`, `refusals`, `seconds`, `error`, `exit_status`.

        Raises:
            UsageError: `max_minutes` is not a number above 0.
            NothingHeld: no pair is named, and none is stored.
            ExchangeError: the exchange can't be reached, refuses, or is in maintenance.
            Interrupted: `cancel` was cancelled.
            ArchiveLocked: another refresh is running, or another run is writing one of the pairs.
            ArchiveHasGaps: a part of the requested range is not covered.
            ArchiveDamaged: the exchange's trades contradict the stored ones.
            ArchiveUnwritable: the operating system refused to write.
            ValueDoesNotFit: a value of a trade does not fit the storage format.
            KeyboardInterrupt: Ctrl-C, after what was downloaded was stored.

        Example:
            >>> result = archive.refresh()
            >>> [(pair.pair, pair.state) for pair in result.pairs]
            [('XBTUSD', 'complete')]
        """
        from harvester.async_runner import RefreshRun, raise_gravest, run_in_thread

        self._check_open()
        minutes = None if max_minutes is None else float(max_minutes)
        if minutes is not None and not minutes > 0:
            raise UsageError(f"max_minutes is {minutes:g}: give a number above 0")
        run = RefreshRun(
            Disk(self.path),
            self._settings,
            pairs,
            minutes,
            estimate_trades,
            _listener(progress),
            self._warn,
        )
        result = run_in_thread(run.run, cancel)
        if check:
            if result.error is not None and result.error.exit_status:
                raise result.error
            raise_gravest(result.pairs)
        return result

    def _selection(
        self, pairs: tuple[str, ...], quotes: Sequence[str], *, all_pairs: bool
    ) -> PairSelection:
        self._check_open()
        if all_pairs and pairs:
            raise UsageError("all_pairs is every pair already: give no names with it")
        if not (all_pairs or pairs):
            raise UsageError("backfill what? Give one pair or several, such as 'XBT/USD'")
        names = [name if isinstance(name, PairName) else PairName(name) for name in pairs]
        return PairSelection(names, everything=all_pairs, quotes=quotes)

    def _backfill_run(
        self,
        selection: PairSelection,
        time_range: Range,
        *,
        newest_first: bool = False,
        upgrade: bool,
        estimate_trades: bool = False,
        progress: Callable[[Event], object] | None,
    ) -> BackfillRun:
        from harvester.async_runner import BackfillRun

        # A store of its own, as this one is used in another thread.
        return BackfillRun(
            Disk(self.path),
            self._settings,
            selection,
            time_range,
            newest_first,
            upgrade,
            estimate_trades,
            _listener(progress),
            self._warn,
        )

    @check_types
    def pairs(self, text: str = "", *, update: bool = False) -> list[Pair]:
        """Markets whose names contain a text, in any spelling: BTC finds XBT.

        Args:
            text: a part of a name; all markets by default.
            update: ask the exchange, also if names are known already.

        Returns:
            The markets by altname, each with its spellings and its decimals.

        Raises:
            UnknownPair: no market matches.
            ExchangeError: the exchange can't be reached, or refuses.

        Example:
            >>> [pair.wsname for pair in archive.pairs("btc")]
            ['XBT/USD']
        """
        self._check_open()
        known = known_pairs(self._disk)
        if update or len(known) <= len(self._disk.held()):
            from harvester.async_runner import market_names, run_in_thread

            # A store of its own, as it is used in another thread.
            store = Disk(self.path)
            known = run_in_thread(lambda stop: stop.guard(market_names(self._settings, store)))
        found = search(text, known.values())
        if not found:
            raise UnknownPair(
                f"no market matches {text!r}; `harvester pairs --update` asks the exchange again"
            )
        return found

    @check_types
    def import_csv(  # noqa: PLR0913 - the options of the command
        self,
        *files: str | os.PathLike[str],
        pair: str | None = None,
        pairs: str | Sequence[str] | None = None,
        delisted: bool = False,
        whole_since: Moment | None = None,
        whole_until: Moment | None = None,
        skip_bad_rows: bool = False,
        progress: Callable[[Event], object] | None = None,
        cancel: threading.Event | None = None,
        check: bool = True,
    ) -> ImportResult:
        """Import Kraken's downloadable CSV files of trades; skip time that is covered already.

        The exchange is asked for the names of its pairs if a file's name is not known yet. After an
        interruption, the same call continues. docs/import.md explains the rules.

        Args:
            *files: CSV files, ZIPs, and folders of both.
            pair: the pair of the only file, whatever its name.
            pairs: import only these: names or patterns, as a list or as text with commas.
            delisted: import pairs that the exchange no longer lists, named after their files.
            whole_since: the files of a pair have every trade from this time on (a whole second).
            whole_until: the same for the end of the files, exclusive.
            skip_bad_rows: leave out unreadable rows and the time around them, instead of failing.
            progress: called with events from several threads, one call at a time.
            cancel: set this event to end the import; rows up to the last boundary are kept.
            check: raise the gravest error once all pairs are done.

        Returns:
            `reports`, one for consecutive files of a pair (row counts, covered ranges, notes,
            `error`, `exit_status`); `unknown`, the files whose names match no pair.

        Raises:
            BadFile: a file does not exist, or is not one of Kraken's (`DamagedFile`: is damaged).
            UsageError: the arguments do not fit together or match no file.
            UnknownPair: a file's name, or `pair`, is not a pair.
            ArchiveHasGaps: rows can't be read, or no boundary could be drawn.
            ArchiveDamaged: rows of time that is covered already are not stored there.
            ArchiveLocked: another run is writing one of the pairs.
            ArchiveUnwritable: the operating system refused to write.
            MarketChanged: the archive has trades of another market under that name.
            Interrupted: `cancel` was set.
            KeyboardInterrupt: Ctrl-C; rows up to the last boundary are kept.

        Example:
            >>> other = harvester.open("imported")
            >>> result = other.import_csv("XBTUSD.csv", check=False)
            >>> [(report.pair, report.read.rows) for report in result.reports]
            [('XBTUSD', 20000)]
        """
        from harvester.async_runner import run_import
        from harvester.csv_import.pair_matching import import_request

        self._check_open()
        request = import_request(
            files,
            pair=pair,
            pairs=pairs,
            delisted=delisted,
            whole_since=whole_since,
            whole_until=whole_until,
            skip_bad_rows=skip_bad_rows,
        )
        store, stop = Disk(self.path), cancel or threading.Event()
        result = run_import(store, self._settings, request, _listener(progress), stop, self._warn)
        if check:
            result.raise_gravest()
        return result

    @check_types
    def plan_import(
        self,
        *files: str | os.PathLike[str],
        pair: str | None = None,
        pairs: str | Sequence[str] | None = None,
        delisted: bool = False,
        whole_since: Moment | None = None,
        whole_until: Moment | None = None,
        skip_bad_rows: bool = False,
    ) -> ImportPlan:
        """Read CSV files completely, and report what `import_csv` would do with them.

        Args:
            *files: CSV files, ZIPs, and folders of both.
            pair: the pair of the only file, whatever its name.
            pairs: only these pairs, as for `import_csv`.
            delisted: include pairs that the exchange no longer lists, named after their files.
            whole_since: the files contain every trade from this time on, as for `import_csv`.
            whole_until: the files contain every trade before this time, as for `import_csv`.
            skip_bad_rows: count unreadable rows, instead of reporting the first one as the error
                of its file.

        Returns:
            `files`, a plan for each file (pair, columns, rows, whether it is sorted, ranges that
            are not covered yet, `error`); `unknown`, the files whose names match no pair.

        Raises:
            BadFile: a file does not exist, or is not a CSV, a ZIP or a folder.
            UsageError: no file is given, `pairs` matches no file, `pair` is given with several
                files, or a time is not a whole second.
            BadTime: a time can't be read.
            UnknownPair: `pair` is not a pair.

        Example:
            >>> [plan] = archive.plan_import("XBTUSD.csv").files
            >>> plan.pair, plan.rows, plan.layout
            ('XBTUSD', 20000, 'time,price,volume without header')
        """
        from harvester.async_runner import ask_market_names
        from harvester.csv_import.pair_matching import import_request
        from harvester.csv_import.run import plan_import

        self._check_open()
        request = import_request(
            files,
            pair=pair,
            pairs=pairs,
            delisted=delisted,
            whole_since=whole_since,
            whole_until=whole_until,
            skip_bad_rows=skip_bad_rows,
        )
        store, never = Disk(self.path), threading.Event()
        return plan_import(store, request, lambda: ask_market_names(self._settings, store, never))

    # Queries

    @check_types
    def trades(
        self,
        pair: str,
        *,
        since: Moment = "start",
        until: Moment | None = None,
        strict: bool = False,
    ) -> Result:
        """The trades of a pair as published, in the exchange's order.

        Args:
            pair: the pair.
            since: start time, inclusive; the first trade by default.
            until: end time, exclusive.
            strict: raise if a part of the requested range is not downloaded.

        Returns:
            One row per trade: `trade_id` (null if the exchange gave none), `time` (UTC,
            nanoseconds), `tie`, `price` (of one unit of the base currency, in the quote currency),
            `volume` (in the base currency), `side` (the taker's), `order_type`, `misc`; see
            docs/format.md. Nothing is read yet. `.notes` names the gaps in the requested range.

        Raises:
            NothingHeld: the archive has no trades of the pair.
            ArchiveHasGaps: with `strict`, there are gaps.
            BadTime: `since` or `until` is no time, or they are not in order.

        Example:
            >>> archive.trades("XBT/USD", since="2026-01-30").df().columns.tolist()
            ['trade_id', 'time', 'tie', 'price', 'volume', 'side', 'order_type', 'misc']
        """
        from harvester.query.relations import trade_batches, trades_relation
        from harvester.query.result import BatchStream, Result, ResultSource
        from harvester.schema import TRADES

        self._check_open()
        range_ = parse_range(since, until)
        market, store = self._held(pair), self._disk
        limit = self._settings.candles.memory_limit
        notes = self._notes(market.altname, [range_], strict=strict)
        return Result(
            ResultSource(
                f"trades of {market.altname}",
                lambda: trades_relation(store, market.altname, range_, memory_limit=limit),
                lambda: frozenset(store.segments(market.altname)),
                limit,
                lambda _: trade_batches(store, market.altname, range_),
                _units(market),
                notes=notes,
                file_stream=lambda: BatchStream(TRADES, store.scan(market.altname, range_)),
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
        """Candles of a pair and an interval, exact, from the stored trades.

        Args:
            pair: the pair.
            interval: a number and one of ms, s, m, h, d, w, mo, q, y; a bare number is minutes.
            since: start time, inclusive; the first trade by default.
            until: end time, exclusive.
            fill: what to do with intervals without trades: `none` leaves them out; `previous`,
                `null` and `kraken` fill them in.
            tz: time zone for candle boundaries, such as `Europe/Berlin`; UTC by default.
            offset: shifts all candle boundaries by this duration, such as `30m` or `-7h`.
            all_columns: add taker sides, exact value, ids, `is_complete` and more.
            strict: raise if a part of the requested range is not downloaded.
            complete_only: leave out candles that are running, cut by `since` or `until`, or touch
                a gap.

        Returns:
            One row per candle, in order of time: `time` (its opening, UTC), `open`, `high`, `low`,
            `close`, `vwap` (in the quote currency), `volume` (in the base currency), `count`;
            docs/candles.md describes all columns. Nothing is read yet. `.notes` names the gaps in
            the requested range.

        Raises:
            NothingHeld: the archive has no trades of the pair.
            ArchiveHasGaps: with `strict`, there are gaps.
            BadInterval: the interval or the offset can't be read.
            BadTime: `since` or `until` is no time, or they are not in order.
            BadSetting: there is no such fill or time zone.
            UsageError: a great many empty candles would be filled in, and `until` is not given.

        Example:
            >>> archive.ohlc("btc/usd", "4h", since="2026-01-30", fill="previous").shape
            (6, 8)
        """
        from harvester.query.candles import QuerySession, guard_against_huge_fill
        from harvester.query.relations import candles_relation
        from harvester.query.result import Result, ResultSource

        self._check_open()
        query = self._candle_query(_interval(interval), parse_range(since, until), fill, tz, offset)
        query = replace(query, all_columns=all_columns, complete_only=complete_only)
        market, query = self._query_of(pair, query)
        notes = self._notes(query.pair, [query.range], strict=strict)
        guard_against_huge_fill(self._disk, query)
        store = self._disk
        session = QuerySession(store, self._settings.candles.memory_limit)
        return Result(
            ResultSource(
                query.title,
                lambda: candles_relation(session, query),
                lambda: frozenset((*store.segments(query.pair), *store.rollups(query.pair))),
                session.memory_limit,
                lambda rows: session.batches(query, rows),
                _units(market),
                notes=notes,
            )
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
        """Bars that end by trades, volume or value, not by time. Give one of the three sizes.

        Args:
            pair: the pair.
            trades: close each bar after this many trades.
            volume: close each bar once its volume reaches this much (base currency).
            value: close each bar once its price x volume reaches this much (quote currency).
            since: return bars whose first trade is at or after this time; boundaries don't change.
            until: return bars whose first trade is before this time.
            anchor: count from the first trade at or after this time; the first stored trade by
                default.
            all_columns: add taker sides, exact value, ids and more.
            strict: raise if a part of the range from `anchor` to `until` is not downloaded: after
                a gap, counting begins again.
            complete_only: leave out bars that ended before their size, at a gap or at the end.

        Returns:
            One row per bar, in the exchange's order; docs/bars.md describes the columns. Bars are
            made when their rows are first used, and then kept in memory. `.notes` names the gaps
            in the range.

        Raises:
            UsageError: none or several of the sizes are given.
            NothingHeld: the archive has no trades of the pair.
            ArchiveHasGaps: with `strict`, there are gaps.
            BadSetting: a size is no number above 0, or has too many digits.
            BadTime: a time can't be read, or `since` and `until` are not in order.

        Example:
            >>> archive.bars("XBT/USD", trades=5_000).df()["count"].tolist()
            [5000, 5000, 5000, 5000]
        """
        from harvester.query.bars import BYS, BarQuery, bar_batches, counted_ranges, parse_size
        from harvester.query.result import Result, source_of_batches

        self._check_open()
        sizes = [
            (by, _digits(size))
            for by, size in zip(BYS, (trades, volume, value), strict=True)
            if size is not None
        ]
        if len(sizes) != 1:
            raise UsageError("what ends a bar? Give one of trades=N, volume=X and value=X")
        size = parse_size(*sizes[0])
        range_, anchor_ns = parse_range(since, until), moment_ns(anchor, time.time_ns())
        market, store = self._held(pair), self._disk
        query = BarQuery(market.altname, size, range_, anchor_ns, all_columns, complete_only)
        notes = self._notes(market.altname, counted_ranges(query), strict=strict)

        def stream(rows: int) -> Iterator[pa.RecordBatch]:
            return bar_batches(store, query, batch_rows=rows)

        return Result(source_of_batches(query.title, stream, _units(market), notes))

    @check_types
    def explain(  # noqa: PLR0913 - the options of the command
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
        complete_only: bool = False,
    ) -> Explanation:
        """How `ohlc` answers a query: the files, row counts and SQL it uses. Nothing is computed.

        Args:
            pair: the pair.
            interval: the candles' interval, as of `ohlc`.
            since: start time, inclusive; the first trade by default.
            until: end time, exclusive.
            fill: what to do with intervals without trades, as of `ohlc`.
            tz: time zone for candle boundaries; UTC by default.
            offset: shifts all candle boundaries by this duration, such as `30m` or `-7h`.
            all_columns: add taker sides, exact value, ids and more.
            complete_only: leave out candles that are not complete.

        Returns:
            The query plan: `reads` (the files, each with its level, range and rows), `totals`,
            `close_read`, `passes`, `parts`, and `sql`, which any DuckDB runs while the files exist.

        Raises:
            NothingHeld: the archive has no trades of the pair.
            BadInterval: the interval or the offset can't be read.
            BadTime: `since` or `until` is no time, or they are not in order.
            BadSetting: there is no such fill or time zone.
            ArchiveDamaged: a file can't be read, or files keep vanishing.

        Example:
            >>> plan = archive.explain("XBT/USD", "1h", since="2026-01-30")
            >>> plan.parts, "read_parquet" in plan.sql
            (1, True)
        """
        from harvester.query.explain import explain

        self._check_open()
        query = self._candle_query(_interval(interval), parse_range(since, until), fill, tz, offset)
        query = replace(query, all_columns=all_columns, complete_only=complete_only)
        _, query = self._query_of(pair, query)
        return explain(self._disk, query, memory_limit=self._settings.candles.memory_limit)

    @check_types
    def sql(
        self, query: str, params: Sequence[object] | Mapping[str, object] | None = None
    ) -> Result:
        """Run SQL on the view `trades` and the macros `tape(pair)` and `ohlc(pair, interval)`.

        Each call has a connection of its own: what it creates is gone afterwards. `connect` gives
        a connection for many queries.

        Args:
            query: any SQL of DuckDB; of several statements, the result has the rows of the last.
            params: values for `?`, or by name for `$name`. Put text that others typed here.

        Returns:
            The rows of the query; docs/sql.md describes the view and the macros. A single query
            does not run yet; of several statements, all but the last have run. There are no rows
            if the last statement gives none, such as CREATE.

        Raises:
            BadQuery: DuckDB refuses the query, or there is none.
            HarvesterError: the memory allowed does not suffice.
            ArchiveDamaged: a file can't be read.

        Example:
            >>> archive.sql("SELECT count(*) FROM trades WHERE pair = ?", ["XBTUSD"]).fetchall()
            [(20000,)]
        """
        from harvester.query.result import Result, source_of_sql

        self._check_open()
        limit = self._settings.candles.memory_limit
        source = source_of_sql(self._disk, query, params, names=self._names(), memory_limit=limit)
        result = Result(source)
        result.columns  # noqa: B018 - so that an error in the query is raised here
        return result

    def connect(self) -> Connection:
        """A DuckDB connection with the view and the macros of `sql`, for many queries.

        It reads the files that exist now. After a compaction, or for newer trades, connect again.

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

    @check_types
    def write_database(self, file: str | os.PathLike[str]) -> None:
        """Write a small DuckDB file with the view and the macros of `sql`, for other tools.

        It contains no trades, and finds the archive's files at each query, so it stays right as
        the archive grows.

        Args:
            file: the database file; one that was written so before is replaced.

        Raises:
            UsageError: the file exists and is no such database, or it lies in an archive.
            ArchiveUnwritable: the file can't be written.

        Example:
            >>> archive.write_database("trades.duckdb")
            >>> with duckdb.connect("trades.duckdb", read_only=True) as connection:
            ...     connection.sql("SELECT count(*) FROM tape('XBTUSD')").fetchall()
            [(20000,)]
        """
        from harvester.query.sql import write_database

        self._check_open()
        write_database(self._disk, os.fspath(file), names=self._names())

    def _candle_query(
        self, interval: Interval, range_: Range, fill: Fill, tz: str | None, offset: str
    ) -> CandleQuery:
        """A candle query whose pair is not known yet, so that other arguments are checked first.

        Raises:
            BadInterval: the offset can't be read.
            BadSetting: there is no such fill or time zone.
        """
        from harvester.query.calendar import find_time_zone
        from harvester.query.plan import CandleQuery

        offset_ns = parse_offset(offset)
        zone = None if tz is None else find_time_zone(tz).key
        return CandleQuery("", interval, range_, fill=fill, offset_ns=offset_ns, tz=zone)

    def _query_of(self, pair: str, query: CandleQuery) -> tuple[Pair, CandleQuery]:
        """The pair of a name, and the query for it.

        Raises:
            NothingHeld: the archive has no trades of the pair.
            UsageError: the name is empty.
        """
        if not pair.strip():
            raise UsageError("a pair's name is empty: give one such as XBT/USD")
        market = self._held(pair)
        return market, replace(query, pair=market.altname, pair_decimals=market.pair_decimals)

    def _notes(self, pair: str, ranges: Sequence[Range], *, strict: bool) -> tuple[str, ...]:
        """The sentence about gaps in requested ranges, if there are any.

        Raises:
            ArchiveHasGaps: there are gaps, and the query is strict.
        """
        from harvester.query.plan import check_gaps

        return check_gaps(self._disk, pair, ranges, time.time_ns(), strict=strict)

    def _names(self) -> dict[str, str]:
        return altnames_by_spelling(known_pairs(self._disk).values(), self._disk.held())

    # --- files and charts ------------------------------------------------------------------------

    @check_types
    def export(  # noqa: PLR0913 - the options of the command
        self,
        *pairs: str,
        folder: str | os.PathLike[str],
        intervals: Sequence[str | int] = (),
        layout: Layout = "parquet",
        since: Moment = "start",
        until: Moment | None = None,
        fill: Fill = "none",
        tz: str | None = None,
        offset: str = "0",
        all_columns: bool = False,
        strict: bool = False,
        complete_only: bool = False,
        progress: Callable[[ExportedFile], object] | None = None,
    ) -> list[ExportedFile]:
        """Write candles of several pairs and intervals into a folder, or in a program's layout.

        The trades of a pair are read once for all its intervals. Files are replaced; each is
        complete or absent. Nothing is written if one of the pairs or intervals is wrong.

        Args:
            *pairs: the pairs.
            folder: the folder to write into; it need not exist.
            intervals: the candles' intervals, as of `ohlc`. Without any, trades are written, which
                only the layout `freqtrade` has.
            layout: `parquet` or `csv` write `interval=1h/pair=XBTUSD/candles.parquet`, with the
                rows of `ohlc`; `freqtrade` and `lean` write the data files of these programs, with
                complete candles only.
            since: start time, inclusive; the first trade by default.
            until: end time, exclusive.
            fill: what to do with intervals without trades, as of `ohlc`.
            tz: time zone for candle boundaries; UTC by default.
            offset: shifts all candle boundaries by this duration, such as `30m` or `-7h`.
            all_columns: add taker sides, exact value, ids and more.
            strict: raise if a part of the requested range is not downloaded.
            complete_only: leave out candles that are not complete.
            progress: called with each file once it is written.

        Returns:
            One `ExportedFile` per pair and interval: `pair`, `interval`, `path`, `rows`,
            `left_out` (incomplete candles), `notes` (gaps in the requested range).

        Raises:
            UsageError: no pair is given, the folder is a file or lies in an archive, the layout
                has no trades, a great many empty candles would be filled in, or the other program
                has no name for a pair.
            NothingHeld: the archive has no trades of a pair.
            ArchiveHasGaps: with `strict`, there are gaps.
            BadInterval: an interval or the offset can't be read, or the other program has no such
                interval.
            BadTime: `since` or `until` is no time, or they are not in order.
            BadSetting: there is no such layout, fill or time zone.
            ArchiveDamaged: a file can't be read, or files keep vanishing.
            ArchiveUnwritable: a file can't be written.

        Example:
            >>> files = archive.export("XBT/USD", folder="candles", intervals=["1h", "1d"])
            >>> [(file.interval, file.rows) for file in files]
            [('1h', 240), ('1d', 10)]
        """
        from harvester.exporters.export import PairExport, check_target, export_candles

        self._check_open()
        target = os.fspath(folder)
        if not pairs:
            raise UsageError("export what? Give one pair or several, such as 'XBT/USD'")
        check_target(layout, target)
        # By name, each once: 60 and 60m are the same.
        lengths = {length.name: length for length in map(_interval, _each_interval(intervals))}
        range_ = parse_range(since, until)
        if not lengths:
            return self._export_trades(pairs, target, layout, range_, progress, strict=strict)
        query = self._candle_query(next(iter(lengths.values())), range_, fill, tz, offset)
        query = replace(query, all_columns=all_columns, complete_only=complete_only)
        queries = [self._query_of(pair, query) for pair in pairs]
        exports = [
            PairExport(market, query, self._notes(market.altname, [range_], strict=strict))
            for market, query in {
                market.altname: (market, query) for market, query in queries
            }.values()
        ]
        limit = self._settings.candles.memory_limit
        files = export_candles(self._disk, exports, list(lengths.values()), layout, target, limit)
        return _reported(files, progress)

    def _export_trades(
        self,
        pairs: tuple[str, ...],
        folder: str,
        layout: Layout,
        range_: Range,
        progress: Callable[[ExportedFile], object] | None,
        *,
        strict: bool,
    ) -> list[ExportedFile]:
        from harvester.exporters.export import export_trades

        if layout != "freqtrade":
            raise UsageError(
                f"the layout {layout} has no trades: give intervals such as ['1h'], or the layout "
                "'freqtrade'"
            )
        markets = {market.altname: market for market in map(self._held, pairs)}
        notes = {name: self._notes(name, [range_], strict=strict) for name in markets}
        files = (
            export_trades(self._disk, market, range_, notes[name], folder)
            for name, market in markets.items()
        )
        return _reported(files, progress)

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
        """A chart of candles, vwap and volume by the taker's side; gaps are shaded and named.

        A notebook shows it. It needs no network.

        Args:
            pair: the pair.
            interval: as of `ohlc`. Above 3,000 candles, more than a screen shows, a coarser
                interval is drawn, and the chart says so.
            since: start time, inclusive; the first trade by default.
            until: end time, exclusive.
            tz: time zone for candle boundaries; the times shown are UTC.
            offset: shifts all candle boundaries by this duration, such as `30m` or `-7h`.
            strict: raise if a part of the requested range is not downloaded.
            complete_only: leave out candles that are running, cut by `since` or `until`, or touch
                a gap.

        Returns:
            A chart: `.figure` is plotly's and may be changed; `.save("chart.html")` writes a file,
            or .png, .svg and .pdf with the extra `png`; `.notes` has remarks, such as ranges that
            are not downloaded.

        Raises:
            NothingHeld: the archive has no trades of the pair, or none in the requested range.
            ArchiveHasGaps: with `strict`, there are gaps.
            BadInterval: the interval or the offset can't be read.
            BadTime: `since` or `until` is no time, or they are not in order.
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

        self._check_open()
        query = self._candle_query(
            _interval(interval), parse_range(since, until), "none", tz, offset
        )
        market, query = self._query_of(pair, replace(query, complete_only=complete_only))
        limit = self._settings.candles.memory_limit
        now_ns = time.time_ns()
        return chart(self._disk, market, query, now_ns, memory_limit=limit, strict=strict)

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
        from harvester.operations.run_log import latest_runs

        self._check_open()
        if count < 1:
            raise UsageError(f"count is {count}: give 1 or more")
        return latest_runs(self._disk, count)

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
        return digest_pairs(self._disk, names, parse_range(since, until), _listener(progress))

    @check_types
    def verify(
        self,
        *pairs: str,
        repair: bool = False,
        against_exchange: bool = False,
        against_csv: Sequence[str | os.PathLike[str]] = (),
        progress: Callable[[Event], object] | None = None,
        estimate_trades: bool = False,
        cancel: CancelToken | None = None,
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
            estimate_trades: let a repair request weekly trade counts first, so that events tell
                how much is left.
            cancel: `cancel.cancel()` ends a repair early, from any thread.

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

        names, settings = self._named(pairs) or self._disk.pairs_to_verify(), self._settings
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
                    RunOptions(listener, stop, estimates=estimate_trades),
                    self._warn,
                ),
                cancel,
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

    # --- maintenance -----------------------------------------------------------------------------

    @check_types
    def compact(
        self, *pairs: str, progress: Callable[[Event], object] | None = None
    ) -> list[CompactionResult]:
        """Merge neighbouring small segment files into files of up to four million trades.

        `backfill` and `refresh` do this by themselves. The trades do not change.

        Args:
            *pairs: names in any spelling; all pairs of the archive if there are none.
            progress: called with the events `Begun`, `Step` and `Noted` of
                `harvester.download.events`.

        Returns:
            A result per pair: `pair`, `files_before`, `files_after`, `notes`.

        Raises:
            NothingHeld: the archive has no trades of a pair.
            ArchiveLocked: another run is writing a pair.
            ArchiveDamaged: a file can't be read, or has other rows than its footer says.
            ArchiveUnwritable: the operating system refused to write.

        Example:
            >>> [result] = archive.compact("XBT/USD")
            >>> result.pair, result.files_before, result.files_after
            ('XBTUSD', 1, 1)
        """
        from harvester.operations.maintenance import compact

        self._check_open()
        return compact(Disk(self.path), self._settings, pairs, _listener(progress))

    @check_types
    def rollup(
        self, *pairs: str, progress: Callable[[Event], object] | None = None
    ) -> list[RollupResult]:
        """Build missing roll-ups: candles of each segment file, which speed up long queries.

        `backfill` and `refresh` do this by themselves. Results of queries are the same without
        roll-ups. The setting `candles.rollups` says which lengths are built.

        Args:
            *pairs: names in any spelling; all pairs of the archive if there are none.
            progress: called with the events `Begun`, `Step` and `Noted` of
                `harvester.download.events`.

        Returns:
            A result per pair: `pair`, the numbers of files `built` and `up_to_date`, `notes`.

        Raises:
            NothingHeld: the archive has no trades of a pair.
            ArchiveLocked: another run is writing a pair.
            ArchiveDamaged: a file can't be read, or has other rows than its footer says.
            ArchiveUnwritable: the operating system refused to write.

        Example:
            >>> [result] = archive.rollup("XBT/USD")
            >>> result.built + result.up_to_date
            2
        """
        from harvester.operations.maintenance import build_rollups

        self._check_open()
        return build_rollups(Disk(self.path), self._settings, pairs, _listener(progress))

    def _repr_html_(self) -> str:
        return show_archive(self.path, self.status(), self._disk.stored_or_requested())


def _digits(size: Number) -> str:
    """A number as plain digits; a float by the fewest digits that give the same float."""
    if isinstance(size, str):
        return size
    # `str` refuses integers of thousands of digits.
    return f"{Decimal(size if isinstance(size, int) else str(size)):f}"


def _units(pair: Pair) -> dict[str, str]:
    """The units of the columns; only UTC if the pair's currencies are not known."""
    base, slash, quote = pair.wsname.partition("/")
    if not slash:
        return {"time": "UTC"}
    prices = dict.fromkeys(("price", "open", "high", "low", "close", "vwap"), f"{quote} per {base}")
    volumes = dict.fromkeys(("volume", "buy_volume", "sell_volume"), base)
    values = dict.fromkeys(("value", "buy_value", "sell_value"), quote)
    times = dict.fromkeys(("time", "first_time", "last_time"), "UTC")
    return prices | volumes | values | times


def _interval(given: str | int) -> Interval:
    return parse_interval(str(given))


def _each_interval(given: Sequence[str | int]) -> Iterator[str | int]:
    """Intervals of a list, each of the right type.

    Raises:
        BadInterval: an item is neither text nor a whole number.
    """
    accepted = ARGUMENT_TYPES["str | int"]
    for interval in given:
        if not accepted.accepts(interval):
            raise wrong_type("each of intervals", accepted.expected, interval, accepted.error)
        yield interval


def _reported(
    files: Iterable[ExportedFile], progress: Callable[[ExportedFile], object] | None
) -> list[ExportedFile]:
    """All files, each reported once it is written."""
    written = []
    for file in files:
        written.append(file)
        if progress is not None:
            progress(file)
    return written


def _listener(progress: Callable[[Event], object] | None) -> Callable[[Event], None]:
    """A listener that calls `progress`, if it is given, and returns nothing."""

    def listener(event: Event) -> None:
        if progress is not None:
            progress(event)

    return listener


def _checked(results: list[BackfillResult], *, check: bool) -> list[BackfillResult]:
    """The results, unless `check` is set and one of them contains an error, which is raised."""
    from harvester.async_runner import raise_gravest

    if check:
        raise_gravest(results)
    return results
