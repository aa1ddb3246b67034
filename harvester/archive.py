"""The public Python API: `harvester.open` and `harvester.Archive`, with a method for each command.

A command calls the method of its name. Modules that are slow to import are imported in the methods
that need them.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, tzinfo
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

from harvester.argument_types import (
    IntervalLength,
    Moment,
    candle_interval,
    check_types,
    moment_ns,
    parse_range,
)
from harvester.config import BAD_VALUE, KEYS, Settings, load, refused_value
from harvester.errors import (
    BadInterval,
    BadSetting,
    BadTime,
    HarvesterError,
    UnknownPair,
    UsageError,
)
from harvester.kraken.pairs import Pair, PairIndex, altnames_by_spelling, of_class, search
from harvester.pair_selection import (
    PairName,
    PairSelection,
    altname_of_known_pair,
    known_pairs,
    resolve_stored,
    stored_altnames,
)
from harvester.storage.trade_store import SnapshotStore, TradeStore, object_store
from harvester.times import SECOND, Interval, Range, parse_offset, show_short

if TYPE_CHECKING:
    from harvester.async_runner import BackfillRun
    from harvester.charts.chart import Chart
    from harvester.csv_import.import_pairs import ImportPlan, ImportResult
    from harvester.download.backfill import BackfillEstimate
    from harvester.events import (
        BackfillResult,
        CancelToken,
        Event,
        Listener,
        ProgressOption,
    )
    from harvester.exporters.export import ExportedFile
    from harvester.exporters.formats import Layout
    from harvester.operations.exchange_checks import CheckResult
    from harvester.operations.maintenance import CompactionResult
    from harvester.operations.refresh import RefreshResult
    from harvester.operations.run_log import RunRecord
    from harvester.operations.sync import SyncResult
    from harvester.query.explain import Explanation
    from harvester.query.plan import CandleQuery, Fill
    from harvester.query.result import Relation, Result
    from harvester.query.rollups import RollupResult
    from harvester.query.sql import Connection
    from harvester.server.explorer.web import ExplorerServer
    from harvester.storage.trade_store import PairFile
    from harvester.verify.reports import Digest, PairReport
    from harvester.verify.status import PairStatus


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
        path: the folder of the archive. Default: the setting `archive.path`, which is `data` unless
            configured.
        config: the configuration file. Default: `config.toml` in the working folder, if it exists.
        settings: values by the keys of config.toml, such as `{"exchange.rate": 0.5}`. They override
            environment variables, which override the file.

    Raises:
        BadSetting: a setting is unknown, or its value is not allowed.
        ArchiveTooNew: a newer version of harvester wrote the archive.
        ArchiveDamaged: archive.json can't be read.

    Example:
        >>> with harvester.open("data", settings={"candles.memory_limit": "1GB"}) as archive:
        ...     archive.stored_pairs()
        ['XBTUSD']
    """
    values = dict(settings or {})
    rules = {key.name: key.rule for key in KEYS}
    for name, value in values.items():
        if name not in rules:
            raise BadSetting(
                f"settings: {refused_value('', name)} is not a setting; "
                f"there are {', '.join(rules)}"
            )
        try:
            rules[name].read(value)
        except BAD_VALUE as error:
            shown = refused_value(name, value)
            raise BadSetting(
                f"settings: {name} is {shown}: it must be {rules[name].allowed}"
            ) from error
    if path is not None:
        values["archive.path"] = os.fspath(path)
    return Archive(load(values, file=None if config is None else os.fspath(config)))


class Archive:
    """A folder with the trades of any number of pairs. `harvester.open` creates an Archive.

    Pairs: every method accepts any spelling of a pair's name: `XBTUSD`, `XBT/USD`, `btc-usd`.

    Times: `since` is inclusive and `until` is exclusive. Each is text as for the commands
    (`"2024-01-31"`, `"2024-06"`, `"7d"`, `"now"`), a date, a datetime (UTC if it has no time
    zone), a `pandas.Timestamp`, a `numpy.datetime64`, or UNIX seconds, milliseconds or nanoseconds
    as a whole number.

    Reading needs no lock and is correct while another process writes. After `close`, results that
    were returned before still work.
    """

    def __init__(self, settings: Settings, warn: Callable[[str], None] = warnings.warn) -> None:
        """Open the archive at `settings.archive.path`. Call `harvester.open` instead.

        Args:
            settings: the effective settings.
            warn: receives each warning: a problem that does not stop an operation.
        """
        self._settings = settings
        self._warn = warn
        self._store = TradeStore(settings.archive.path)
        self._is_closed = False

    @property
    def path(self) -> str:
        """The folder of the archive."""
        return self._store.path

    @property
    def settings(self) -> Settings:
        """The effective settings."""
        return self._settings

    def close(self) -> None:
        """Close the archive: further calls raise `UsageError`. Earlier results still work.

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

    def _resolve_stored(self, pair: str) -> Pair:
        """Return the pair with stored trades that a name means.

        Raises:
            UsageError: the name is empty.
            NothingStored: the archive has no trades of the pair.
        """
        self._check_open()
        return resolve_stored(self._store, pair)

    # --- downloads and imports -------------------------------------------------------------------

    @check_types
    def backfill(  # noqa: PLR0913 - the options of the command
        self,
        *pairs: str,
        all_pairs: bool = False,
        quotes: Sequence[str] = (),
        asset_class: str | None = None,
        since: Moment = "start",
        until: Moment | None = None,
        newest_first: bool = False,
        replace_imported: bool = False,
        estimate_trades: bool = False,
        progress: ProgressOption | None = None,
        cancel: CancelToken | None = None,
        check: bool = True,
    ) -> list[BackfillResult]:
        """Download and store the missing trades of some pairs, several pairs at a time.

        After an interruption, the same call continues where it stopped. The method also works in a
        notebook, where an event loop is running. After Ctrl-C, the trades downloaded so far are
        stored.

        Args:
            *pairs: names in any spelling, or patterns such as `*/EUR`. For patterns, and for names
                that the archive does not know, the exchange is asked for its list of pairs.
            all_pairs: download every pair that the exchange lists; give no names then.
            quotes: limit `all_pairs` and patterns to pairs quoted in one of these currencies.
            asset_class: limit them to this class: `currency`, or `tokenized_asset` for stocks.
            since: start time, inclusive. Default: the first trade.
            until: end time, exclusive. Default: now, minus the setting `refresh.settle_s`.
            newest_first: download the newest missing month first.
            replace_imported: afterwards, download ranges that were imported from Kraken's CSV files
                again, and replace them one by one; see docs/import.md.
            estimate_trades: first request the number of missing trades of each pair, one more
                request per pair, so that `Started` events contain an estimate.
            progress: called in another thread with each event of `harvester.events`;
                `print` works. True draws a progress bar, in a notebook or on a terminal, and
                implies `estimate_trades`.
            cancel: ends the call early once its `cancel()` is called; the trades downloaded so far
                are stored.
            check: raise the most severe error once all pairs are done. If False, errors are only in
                the results.

        Returns:
            A result per pair: numbers of trades and pages, the covered range, gaps, error.

        Raises:
            BadTime: `since` or `until` is not a time, or `since` is in the future or not before
                `until`.
            UnknownPair: no market has one of the names.
            ExchangeError: the exchange can't be reached, refuses, or sends an invalid answer.
            Interrupted: `cancel` was cancelled.
            ArchiveLocked: another run is writing to one of the pairs.
            ArchiveHasGaps: a part of the requested range is not covered.
            ArchiveIncomplete: re-downloaded trades differ from the imported ones, or imported
                ranges could not be replaced.
            ArchiveDamaged: the exchange's trades contradict the stored ones.
            ArchiveUnwritable: the operating system refused to write.
            ValueDoesNotFit: a value of a trade does not fit the storage format.
            KeyboardInterrupt: Ctrl-C; the trades downloaded so far are stored.

        Example:
            >>> [result] = archive.backfill("XBT/USD", since="2026-01-21")
            >>> result.pair, result.exit_status
            ('XBTUSD', 0)
        """
        from harvester.async_runner import raise_gravest_of_pairs, run_in_thread

        selection = self._selection(pairs, quotes, asset_class, all_pairs=all_pairs)
        range_ = parse_range(since, until)
        with self._backfill_run(
            selection, range_, progress, newest_first, replace_imported, estimate_trades
        ) as run:
            results = run_in_thread(run.run, cancel)
        if check:
            raise_gravest_of_pairs(results)
        return results

    @check_types
    async def abackfill(  # noqa: PLR0913 - as `backfill`
        self,
        *pairs: str,
        all_pairs: bool = False,
        quotes: Sequence[str] = (),
        asset_class: str | None = None,
        since: Moment = "start",
        until: Moment | None = None,
        newest_first: bool = False,
        replace_imported: bool = False,
        estimate_trades: bool = False,
        progress: ProgressOption | None = None,
        cancel: CancelToken | None = None,
        check: bool = True,
    ) -> list[BackfillResult]:
        """Like `backfill`, for use in a running event loop: `await archive.abackfill(...)`.

        The parameters are those of `backfill`, but `progress` is called in the thread of the event
        loop. If the task is cancelled, the trades downloaded so far are stored before the call
        ends.

        Returns:
            The results of `backfill`.

        Raises:
            asyncio.CancelledError: the task was cancelled; the trades downloaded so far are stored.
            HarvesterError: as for `backfill`.

        Example:
            >>> async def download():
            ...     return await archive.abackfill("XBT/USD", since="2026-01-21")
            >>> [result] = asyncio.run(download())
            >>> result.gaps
            []
        """
        from harvester.async_runner import raise_gravest_of_pairs, run_to_completion

        selection = self._selection(pairs, quotes, asset_class, all_pairs=all_pairs)
        range_ = parse_range(since, until)
        with self._backfill_run(
            selection, range_, progress, newest_first, replace_imported, estimate_trades
        ) as run:
            results = await run_to_completion(run.run, cancel)
        if check:
            raise_gravest_of_pairs(results)
        return results

    @check_types
    def estimate_backfill(  # noqa: PLR0913 - the options of the command
        self,
        *pairs: str,
        all_pairs: bool = False,
        quotes: Sequence[str] = (),
        asset_class: str | None = None,
        since: Moment = "start",
        until: Moment | None = None,
        replace_imported: bool = False,
        progress: Callable[[Event], object] | None = None,
        cancel: CancelToken | None = None,
    ) -> BackfillEstimate:
        """Estimate the trades, requests, hours and bytes of a `backfill`. Downloads no trades.

        The parameters are those of `backfill`, with two differences. `replace_imported` includes
        the re-download of imported ranges. `progress` is called in another thread with a `Begun`
        event, whose `pairs` is the number of pairs whose trade counts are requested, with one
        request each.

        Returns:
            An estimate with `pairs`, one per pair, the largest first, and their `total`.

        Raises:
            BadTime: `since` or `until` is not a time, or `since` is in the future or not before
                `until`.
            UnknownPair: no market has one of the names.
            ExchangeError: the exchange can't be reached, refuses, or sends an invalid answer.
            Interrupted: `cancel` was cancelled.

        Example:
            >>> estimate = archive.estimate_backfill("XBT/USD", since="2026-01-21")
            >>> estimate.total.pairs
            1
        """
        from harvester.async_runner import run_in_thread

        selection = self._selection(pairs, quotes, asset_class, all_pairs=all_pairs)
        range_ = parse_range(since, until)
        newest_first = estimate_trades = False
        with self._backfill_run(
            selection, range_, progress, newest_first, replace_imported, estimate_trades
        ) as run:
            return run_in_thread(run.estimate, cancel)

    @check_types
    def refresh(  # noqa: PLR0913 - the options of the command
        self,
        *pairs: str,
        asset_class: str | None = None,
        max_minutes: float | None = None,
        sync: str | None = None,
        estimate_trades: bool = False,
        progress: ProgressOption | None = None,
        cancel: CancelToken | None = None,
        check: bool = True,
    ) -> RefreshResult:
        """Download new trades of some pairs up to now, fill their gaps, and maintain their files.

        Run it every night. A stored pair is completed from the start of its last requested range
        on; a new pair begins with its first trade. docs/nightly.md explains the states.

        Args:
            *pairs: names in any spelling, or patterns such as `*/EUR`. Default: the setting
                `refresh.pairs`, or all stored pairs if it is empty.
            asset_class: limit patterns, and all stored pairs, to this class: `currency`, or
                `tokenized_asset` for stocks.
            max_minutes: stop after this many minutes; the next run continues. This is no error:
                unfinished pairs have the state `unfinished`. Default: no limit.
            sync: afterwards bring the copy at this URL up to date, as the method `sync` does, also
                if a pair has an error.
            estimate_trades: as for `backfill`.
            progress: as for `backfill`.
            cancel: as for `backfill`.
            check: raise the error that ended the run, or the most severe error of a pair. If False,
                errors are only in the result.

        Returns:
            The result of the whole run: `pairs` (each with `state`, `trades`, `gaps`, `calls`,
            ...), `exchange`, `calls`, `refusals`, `seconds`, `error`, `sync`, `sync_error`,
            `exit_status`.

        Raises:
            UsageError: `max_minutes` is not a number above 0, or `sync` is no URL.
            NothingStored: no pair is given, and none is stored.
            ExchangeError: the exchange can't be reached, refuses, or is in maintenance.
            ArchiveLocked: another refresh is running, or another run is writing to a pair.
            HarvesterError, KeyboardInterrupt: as for `backfill`.

        Example:
            >>> result = archive.refresh()
            >>> [(pair.pair, pair.state) for pair in result.pairs]
            [('XBTUSD', 'complete')]
        """
        from harvester.async_runner import raise_gravest_of_pairs, run_in_thread
        from harvester.download.exchange import RunOptions
        from harvester.operations import refresh

        self._check_open()
        minutes = None if max_minutes is None else float(max_minutes)
        if minutes is not None and not minutes > 0:
            raise UsageError(f"max_minutes is {minutes:g}: give a number above 0")
        if sync is not None:
            # Before hours of downloading.
            object_store(sync)
        with _progress_listener(progress) as listener:
            estimates = estimate_trades or progress is True
            result = run_in_thread(
                lambda cancel: refresh.refresh(
                    TradeStore(self.path, for_writing=True),
                    self._settings,
                    RunOptions(listener, cancel, estimates=estimates, warn=self._warn),
                    pairs,
                    max_minutes=minutes,
                    asset_class=asset_class,
                ),
                cancel,
            )
        if sync is not None:
            try:
                result = result._replace(sync=self.sync(sync, progress=progress, cancel=cancel))
            except HarvesterError as error:
                result = result._replace(sync_error=error)
        if check:
            if result.error is not None and result.error.exit_status:
                raise result.error
            raise_gravest_of_pairs(result.pairs)
            if result.sync_error is not None:
                raise result.sync_error
        return result

    @check_types
    def follow(
        self,
        *pairs: str,
        every: IntervalLength = "10s",
        since: Moment | None = None,
        progress: ProgressOption | None = None,
        cancel: CancelToken | None = None,
        check: bool = True,
    ) -> list[BackfillResult]:
        """Keep pairs up to date until cancelled: store new trades as soon as they are settled.

        It blocks until `cancel` is cancelled from another thread or from `progress`, or until
        Ctrl-C. If the exchange is down, it waits and then downloads what it missed. A pair stops at
        an error that waiting does not resolve; the other pairs continue. docs/follow.md explains
        the rules.

        Args:
            *pairs: names in any spelling, or patterns such as `XBT/*`.
            every: store new trades at least this often: text such as `10s`, a number of minutes, or
                a timedelta.
            since: first download what is missing from this time on. Default: a stored pair is
                completed from the start of its last requested range on, another begins now.
            progress: called in another thread with each event of `harvester.events`:
                a `Followed` event per poll and pair. True shows one status line.
            cancel: its `cancel()` ends the call; what is complete is stored.
            check: raise the most severe error of a pair at the end. If False, errors are only in
                the results.

        Returns:
            A result per pair, as for `backfill`, once `cancel` was cancelled or all pairs ended.

        Raises:
            BadInterval: `every` is no length of time.
            BadTime: `since` is not a time.
            UnknownPair: no market has one of the names.
            ExchangeError: the exchange did not answer at the start, or refused a pair.
            Interrupted: `cancel` was cancelled while a pair was catching up.
            HarvesterError, KeyboardInterrupt: as for `backfill`.

        Example:
            >>> enough = harvester.CancelToken()
            >>> [result] = archive.follow(
            ...     "XBT/USD", progress=lambda event: enough.cancel(), cancel=enough, check=False
            ... )
            >>> result.pair, result.gaps
            ('XBTUSD', [])
        """
        from harvester.async_runner import raise_gravest_of_pairs, run_in_thread
        from harvester.download.exchange import RunOptions
        from harvester.operations import follow

        selection = self._selection(pairs, (), None, all_pairs=False)
        every_ns = candle_interval(every).width_ns
        if every_ns is None:
            raise BadInterval(f"every is {every!r}: give a fixed length such as 10s or 1m")
        after = None if since is None else parse_range(since, None).after
        with _progress_listener(progress) as listener:
            results = run_in_thread(
                lambda cancel: follow.follow(
                    TradeStore(self.path, for_writing=True),
                    self._settings,
                    RunOptions(listener, cancel, warn=self._warn),
                    selection,
                    after=after,
                    every_s=every_ns / SECOND,
                ),
                cancel,
            )
        if check:
            raise_gravest_of_pairs(results)
        return results

    def _selection(
        self,
        pairs: tuple[str, ...],
        quotes: Sequence[str],
        asset_class: str | None,
        *,
        all_pairs: bool,
    ) -> PairSelection:
        """Combine the arguments that select pairs.

        Raises:
            UsageError: names and `all_pairs` are given together, or neither is given.
        """
        self._check_open()
        if all_pairs and pairs:
            raise UsageError("all_pairs already selects every pair: give no names with it")
        if not (all_pairs or pairs):
            raise UsageError("no pair is given: give one or several, such as 'XBT/USD'")
        names = [name if isinstance(name, PairName) else PairName(name) for name in pairs]
        return PairSelection(names, all_pairs, quotes, asset_class)

    @contextmanager
    def _backfill_run(
        self,
        selection: PairSelection,
        time_range: Range,
        progress: ProgressOption | None,
        newest_first: bool,
        replace_imported: bool,
        estimate_trades: bool,
    ) -> Iterator[BackfillRun]:
        """Prepare a backfill, whose events are shown while the context is open.

        Raises:
            BadTime: the range begins in the future.
        """
        from harvester.async_runner import BackfillRun

        if time_range.after >= time.time_ns():
            begin = show_short(time_range.after + 1)
            raise BadTime(f"since {begin} is in the future: nothing is published yet")
        with _progress_listener(progress) as listener:
            # A separate store, because the run is in another thread.
            yield BackfillRun(
                TradeStore(self.path, for_writing=True),
                self._settings,
                selection,
                time_range,
                newest_first,
                replace_imported,
                estimate_trades or progress is True,
                listener,
                self._warn,
            )

    @check_types
    def pairs(
        self, text: str = "", *, asset_class: str | None = None, update: bool = False
    ) -> list[Pair]:
        """Search the exchange's markets by name. Any spelling works: BTC finds XBT.

        Args:
            text: a part of a name. Default: all markets.
            asset_class: only markets of this class: `currency`, or `tokenized_asset` for stocks.
            update: request the list of markets again, even if it is stored already.

        Returns:
            The markets in order of their altnames, each with its spellings and decimals.

        Raises:
            UnknownPair: no market matches.
            ExchangeError: the exchange can't be reached, or refuses the request.

        Example:
            >>> [pair.wsname for pair in archive.pairs("btc")]
            ['XBT/USD']
        """
        self._check_open()
        if update or self._store.store.read("pairs.json") is None:
            from harvester.async_runner import ask_market_names

            # A separate store, because the request is made in another thread.
            ask_market_names(self._settings, TradeStore(self.path, for_writing=True))
        known = known_pairs(self._store)
        found = search(text, of_class(known.values(), asset_class))
        if not found:
            limit = f" of the class {asset_class}" if asset_class else ""
            raise UnknownPair(
                f"no market{limit} matches {text!r}; "
                "`harvester pairs --update` asks the exchange again"
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
        progress: ProgressOption | None = None,
        cancel: CancelToken | None = None,
        check: bool = True,
    ) -> ImportResult:
        """Import Kraken's downloadable CSV files of trades. Ranges that are covered are skipped.

        If the archive does not know the name of a file, the exchange is asked for its pairs. After
        an interruption, the same call continues. docs/import.md explains the rules.

        Args:
            *files: CSV files, ZIPs, and folders of both.
            pair: the pair of the file, whatever the file's name; only for a single file.
            pairs: import only these pairs: names or patterns, as a list or as text with commas.
            delisted: also import pairs that the exchange no longer lists, named after their files.
            whole_since: the files of a pair contain every trade from this time on, a whole second.
                Without it, only some file names say so; see docs/import.md.
            whole_until: the files of a pair contain every trade before this time, a whole second.
            skip_bad_rows: leave out unreadable rows and the time around them. Otherwise the first
                one is an error.
            progress: called with each event, from several threads, one call at a time; True draws a
                progress bar, as for `backfill`.
            cancel: ends the import early once its `cancel()` is called; rows up to the last
                boundary are kept.
            check: as for `backfill`.

        Returns:
            A result with `reports`, one for consecutive files of a pair (row counts, covered
            ranges, notes, `error`, `exit_status`), and `unknown`, the files whose names match no
            pair.

        Raises:
            BadFile: a file does not exist, or is not one of Kraken's (`DamagedFile`: is damaged).
            UsageError: the arguments contradict each other or match no file.
            UnknownPair: a file's name, or `pair`, is not a pair.
            ArchiveHasGaps: rows can't be read, or the files have no safe boundary.
            ArchiveDamaged: rows of a covered range are not among the stored trades.
            ArchiveLocked: another run is writing to one of the pairs.
            ArchiveUnwritable: the operating system refused to write.
            MarketChanged: the archive has trades of another market with the same name.
            Interrupted: `cancel` was cancelled.
            KeyboardInterrupt: Ctrl-C; rows up to the last boundary are kept.

        Example:
            >>> imported = harvester.open("imported")
            >>> result = imported.import_csv("XBTUSD.csv", check=False)
            >>> [(report.pair, report.read.rows) for report in result.reports]
            [('XBTUSD', 20000)]
        """
        from harvester.async_runner import run_import
        from harvester.csv_import.csv_files import find
        from harvester.csv_import.pair_matching import import_request
        from harvester.events import CancelToken

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
        # A file that is not there must not begin an archive.
        find(request.files)
        store, token = TradeStore(self.path, for_writing=True), cancel or CancelToken()
        with _progress_listener(progress) as listener:
            result = run_import(store, self._settings, request, listener, token, self._warn)
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
        """Read CSV files completely and report what `import_csv` would do. No trades are stored.

        The parameters are those of `import_csv`, but without `skip_bad_rows`, the first unreadable
        row is the error of its file only.

        Returns:
            A plan with `files`, one entry per file (pair, columns, rows, ranges not covered yet,
            `error`), and `unknown`, the files whose names match no pair.

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
        from harvester.csv_import.import_pairs import plan_import
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
        store = TradeStore(self.path, for_writing=True)
        return plan_import(store, request, lambda: ask_market_names(self._settings, store))

    # --- queries ---------------------------------------------------------------------------------

    @check_types
    def trades(
        self,
        pair: str,
        *,
        since: Moment = "start",
        until: Moment | None = None,
        tz: str | None = None,
        strict: bool = False,
    ) -> Result:
        """Return the trades of a pair as published, in the exchange's order.

        Args:
            pair: the name of the pair, in any spelling.
            since: start time, inclusive. Default: the first trade.
            until: end time, exclusive. Default: the end of the stored trades.
            tz: time zone of `since` and `until`, such as `Europe/Berlin`, if they are dates, or
                texts that name no zone. Default: UTC. The times in the rows are UTC.
            strict: raise an error if there are gaps in the requested range.

        Returns:
            One row per trade: `trade_id` (null if the exchange published none), `time` (UTC,
            nanoseconds), `tie`, `price` (of one unit of the base currency, in the quote currency),
            `volume` (in the base currency), `side` (of the taker), `order_type`, `misc`; see
            docs/format.md. Rows are read when they are used. `.notes` names the gaps in the
            requested range.

        Raises:
            NothingStored: the archive has no trades of the pair.
            ArchiveHasGaps: `strict` is set, and there are gaps.
            BadTime: `since` or `until` is not a time, or `since` is not before `until`.
            BadSetting: there is no such time zone.

        Example:
            >>> archive.trades("XBT/USD", since="2026-01-30").df().columns.tolist()
            ['trade_id', 'time', 'tie', 'price', 'volume', 'side', 'order_type', 'misc']
        """
        from harvester.query.result import BatchStream, Result, ResultSource
        from harvester.query.sql import trade_batches, trades_relation
        from harvester.schema import SEGMENT_SCHEMA

        self._check_open()
        range_ = parse_range(since, until, _time_zone(tz))
        market, store = self._resolve_stored(pair), SnapshotStore(self._store)
        limit = self._settings.candles.memory_limit
        notes = _gap_notes(store, market.altname, [range_], strict=strict)
        return Result(
            ResultSource(
                f"trades of {market.altname}",
                lambda: frozenset(store.segments(market.altname)),
                lambda _: trades_relation(store, market.altname, range_, memory_limit=limit),
                limit,
                lambda _: trade_batches(store, market.altname, range_),
                _column_units(market),
                notes=notes,
                file_stream=lambda: BatchStream(SEGMENT_SCHEMA, store.scan(market.altname, range_)),
            )
        )

    @check_types
    def ohlc(  # noqa: PLR0913 - the options of the command
        self,
        pair: str | Sequence[str],
        interval: IntervalLength,
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
        """Return the candles of a pair, or of several, computed exactly from the stored trades.

        Args:
            pair: the name of the pair, in any spelling; or a list of names, for a panel: the
                candles of all of them, with their altname as the first column, `pair`.
            interval: length of a candle: a number and one of ms, s, m, h, d, w, mo, q, y, such as
                `4h`, or a `timedelta`. A number without a unit is minutes.
            since: start time, inclusive. Default: the first trade.
            until: end time, exclusive. Default: the end of the stored trades.
            fill: fill policy for intervals without trades: `none` leaves them out; `previous`,
                `null` and `kraken` add candles, which docs/candles.md describes.
            tz: time zone of candle boundaries, such as `Europe/Berlin`, and of `since` and `until`
                if they are dates, or texts that name no zone. Default: UTC. The times in the rows
                are UTC.
            offset: shift all candle boundaries by this duration, such as `30m` or `-7h`.
            all_columns: add volumes by taker side, exact value, trade ids, `is_complete` and more.
            strict: raise an error if there are gaps in the requested range.
            complete_only: leave out candles that are still running, are cut by `since` or `until`,
                or touch a gap.

        Returns:
            One row per candle, in order of time, for several pairs one pair after the other:
            `time` (when it opens, UTC), `open`, `high`, `low`, `close`, `vwap` (in the quote
            currency), `volume` (in the base currency), `count`; docs/candles.md describes all
            columns. Rows are read when they are used. `.notes` names the gaps in the requested
            range.

        Raises:
            NothingStored: the archive has no trades of a pair.
            ArchiveHasGaps: `strict` is set, and there are gaps.
            BadInterval: the interval or the offset can't be read.
            BadTime: `since` or `until` is not a time, or `since` is not before `until`.
            BadSetting: there is no such fill policy or time zone.
            UsageError: the list of pairs is empty; or more than a million empty candles would be
                added, and `until` is not given.

        Example:
            >>> archive.ohlc("btc/usd", "4h", since="2026-01-30", fill="previous").shape
            (6, 8)
        """
        from harvester.query.candles import QuerySession, guard_against_huge_fill
        from harvester.query.result import Result, ResultSource

        self._check_open()
        range_ = parse_range(since, until, _time_zone(tz))
        is_panel = not isinstance(pair, str)
        by_pair: dict[str, tuple[Pair, CandleQuery]] = {}
        for name in [pair] if isinstance(pair, str) else pair:
            market, query = self._candle_query(
                name, interval, range_, fill, tz, offset, complete_only=complete_only
            )
            by_pair[market.altname] = (market, replace(query, all_columns=all_columns))
        if not by_pair:
            raise UsageError("no pair is given: give one or several, such as 'XBT/USD'")
        queries = [query for _, query in by_pair.values()]
        store = SnapshotStore(self._store)
        notes = [
            f"{name}: {note}" if is_panel else note
            for name in by_pair
            for note in _gap_notes(store, name, [range_], strict=strict)
        ]
        for query in queries:
            guard_against_huge_fill(store, query)
        session = QuerySession(store, self._settings.candles.memory_limit)

        def relation(files: frozenset[PairFile]) -> Relation:
            listed = replace(session, files=files)
            return listed.panel_relation(queries) if is_panel else listed.relation(queries[0])

        stream = (
            partial(session.panel_batches, queries)
            if is_panel
            else partial(session.batches, queries[0])
        )
        units = [set(_column_units(market).items()) for market, _ in by_pair.values()]
        return Result(
            ResultSource(
                f"{queries[0].interval.text} candles of "
                + (", ".join(by_pair) if len(by_pair) <= 5 else f"{len(by_pair)} pairs"),
                lambda: frozenset().union(*map(store.pair_files, by_pair)),
                relation,
                session.memory_limit,
                stream,
                dict(set.intersection(*units)),
                notes=tuple(notes),
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
        tz: str | None = None,
        all_columns: bool = False,
        strict: bool = False,
        complete_only: bool = False,
    ) -> Result:
        """Return bars of a number of trades, a volume or a value. Give exactly one of these sizes.

        Args:
            pair: the name of the pair, in any spelling.
            trades: close each bar after this many trades.
            volume: close each bar once its volume reaches this size (base currency).
            value: close each bar once the sum of price x volume reaches this size (quote currency).
            since: return only bars whose first trade is at or after this time. The boundaries of
                bars do not depend on it.
            until: return only bars whose first trade is before this time.
            anchor: the first bar begins with the first trade at or after this time. Default: the
                first stored trade.
            tz: time zone of `since`, `until` and `anchor`, such as `Europe/Berlin`, if they are
                dates, or texts that name no zone. Default: UTC. The times in the rows are UTC.
            all_columns: add volumes by taker side, exact value, trade ids and more.
            strict: raise an error if there are gaps between `anchor` and `until`. After a gap, a
                new bar begins.
            complete_only: leave out bars that ended before reaching their size, at a gap or at the
                last trade.

        Returns:
            One row per bar, in the exchange's order; docs/bars.md describes the columns. Bars are
            computed when their rows are first used, and then kept in memory. `.notes` names the
            gaps between `anchor` and `until`.

        Raises:
            UsageError: no size or several sizes are given.
            NothingStored: the archive has no trades of the pair.
            ArchiveHasGaps: `strict` is set, and there are gaps.
            BadSetting: a size is not a number above 0 or has too many digits, or there is no such
                time zone.
            BadTime: a time can't be read, or `since` is not before `until`.

        Example:
            >>> archive.bars("XBT/USD", trades=5_000).df()["count"].tolist()
            [5000, 5000, 5000, 5000]
        """
        from harvester.query.bars import MEASURES, BarQuery, bar_batches, counted_ranges, parse_size
        from harvester.query.result import Result, source_of_batches

        self._check_open()
        sizes = [
            (by, _plain_digits(size))
            for by, size in zip(MEASURES, (trades, volume, value), strict=True)
            if size is not None
        ]
        if len(sizes) != 1:
            raise UsageError("a bar has one size: give one of trades=N, volume=X and value=X")
        size = parse_size(*sizes[0])
        zone = _time_zone(tz)
        range_, anchor_ns = parse_range(since, until, zone), moment_ns(anchor, time.time_ns(), zone)
        market, store = self._resolve_stored(pair), SnapshotStore(self._store)
        query = BarQuery(market.altname, size, range_, anchor_ns, all_columns, complete_only)
        notes = _gap_notes(store, market.altname, counted_ranges(query), strict=strict)
        return Result(
            source_of_batches(
                query.title,
                lambda rows: bar_batches(store, query, batch_rows=rows),
                _column_units(market),
                notes,
            )
        )

    @check_types
    def explain(  # noqa: PLR0913 - the options of the command
        self,
        pair: str,
        interval: IntervalLength,
        *,
        since: Moment = "start",
        until: Moment | None = None,
        fill: Fill = "none",
        tz: str | None = None,
        offset: str = "0",
        all_columns: bool = False,
        complete_only: bool = False,
    ) -> Explanation:
        """Explain how `ohlc` answers a query: the files, row counts and SQL. Computes no candles.

        The parameters are those of `ohlc`.

        Returns:
            The query plan: `reads` (the files, each with its level, range and rows), `totals`,
            `close_read`, `passes`, `parts`, and `sql`, which any DuckDB can run while the files
            exist.

        Raises:
            HarvesterError: as for `ohlc`.
            ArchiveDamaged: a file can't be read, or compaction removes files again and again.

        Example:
            >>> plan = archive.explain("XBT/USD", "1h", since="2026-01-30")
            >>> plan.parts, "read_parquet" in plan.sql
            (1, True)
        """
        from harvester.query.candles import QuerySession
        from harvester.query.explain import explain

        self._check_open()
        _, query = self._candle_query(
            pair,
            interval,
            parse_range(since, until, _time_zone(tz)),
            fill,
            tz,
            offset,
            complete_only=complete_only,
        )
        query = replace(query, all_columns=all_columns)
        session = QuerySession(self._store, self._settings.candles.memory_limit)
        return explain(session, query)

    @check_types
    def sql(
        self, query: str, params: Sequence[object] | Mapping[str, object] | None = None
    ) -> Result:
        """Run SQL on the view `trades` and the macros `tape(pair)` and `ohlc(pair, interval)`.

        Each call has a new connection, so tables that it creates do not exist afterwards. For
        several queries on one connection, use `connect`.

        Args:
            query: any SQL of DuckDB. If there are several statements, the result has the rows of
                the last one.
            params: a list of values for `?`, or values by name for `$name`. Pass text of other
                people here, never in `query`.

        Returns:
            The rows of the query; docs/sql.md describes the view and the macros. A single query
            runs when its rows are used; of several statements, all but the last have run already.
            There are no rows if the last statement returns none, such as CREATE.

        Raises:
            BadQuery: DuckDB refuses the query, or it is empty.
            HarvesterError: the setting `candles.memory_limit` is too low.
            ArchiveDamaged: a file can't be read.

        Example:
            >>> archive.sql("SELECT count(*) FROM trades WHERE pair = ?", ["XBTUSD"]).fetchall()
            [(20000,)]
        """
        from harvester.query.result import Result, source_of_sql
        from harvester.query.sql import spelling_notes

        self._check_open()

        def altname_of(text: str) -> str | None:
            # Few queries need it: the pairs are not read before.
            pair = PairIndex(known_pairs(self._store).values()).find(text)
            return None if pair is None else pair.altname

        source = source_of_sql(
            self._store,
            query,
            params,
            names=self._altnames(),
            memory_limit=self._settings.candles.memory_limit,
            notes=spelling_notes(query, altname_of),
        )
        result = Result(source)
        result.columns  # noqa: B018 - raises an error in the query here, not when rows are used
        return result

    def connect(self) -> Connection:
        """Return a DuckDB connection with the view and the macros of `sql`, for many queries.

        The connection reads the files that exist now. Connect again after a compaction, or to read
        newer trades.

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
        return connect_views(self._store, names=self._altnames(), memory_limit=limit)

    @check_types
    def write_database(self, file: str | os.PathLike[str]) -> None:
        """Write a small DuckDB database with the view and the macros of `sql`, for other tools.

        The database contains no trades: each query finds the archive's current files, so it also
        reads trades that are stored later.

        Args:
            file: the database file. A file that this method wrote earlier is replaced.

        Raises:
            UsageError: another file exists at this path, or the path lies in an archive.
            ArchiveUnwritable: the file can't be written.

        Example:
            >>> archive.write_database("trades.duckdb")
            >>> with duckdb.connect("trades.duckdb", read_only=True) as connection:
            ...     connection.sql("SELECT count(*) FROM tape('XBTUSD')").fetchall()
            [(20000,)]
        """
        from harvester.query.views import write_database

        self._check_open()
        write_database(self._store, os.fspath(file), names=self._altnames())

    def _candle_query(  # noqa: PLR0913 - the arguments of the methods
        self,
        pair: str,
        interval: IntervalLength,
        range_: Range,
        fill: Fill,
        tz: str | None,
        offset: str,
        *,
        complete_only: bool,
    ) -> tuple[Pair, CandleQuery]:
        """Make a candle query; return it with its pair, which is resolved after all other checks.

        Raises:
            BadInterval: the interval or the offset can't be read.
            BadSetting: there is no such fill policy or time zone.
            NothingStored: the archive has no trades of the pair.
            UsageError: the name of the pair is empty.
        """
        from harvester.query.calendar import find_time_zone
        from harvester.query.plan import CandleQuery

        query = CandleQuery(
            "",
            candle_interval(interval),
            range_,
            fill,
            offset_ns=parse_offset(offset),
            tz=None if tz is None else find_time_zone(tz).key,
            complete_only=complete_only,
        )
        market = self._resolve_stored(pair)
        return market, replace(query, pair=market.altname, pair_decimals=market.pair_decimals)

    def _altnames(self) -> dict[str, str]:
        """Return the altname of each spelling of each known pair."""
        stored = self._store.stored_pairs()
        return altnames_by_spelling(known_pairs(self._store, stored).values(), stored)

    # --- files and charts ------------------------------------------------------------------------

    @check_types
    def export(  # noqa: PLR0913 - the options of the command
        self,
        *pairs: str,
        folder: str | os.PathLike[str],
        intervals: Sequence[IntervalLength] = (),
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
        """Write candles of several pairs and intervals into a folder, in one of four layouts.

        The trades of a pair are read once for all its intervals. Existing files are replaced, but
        not files of `lean` with candles outside of the range; each file is complete or absent.
        Nothing is written if one of the pairs or intervals is wrong.

        Args:
            *pairs: names in any spelling.
            folder: the folder to write into; it is created if it does not exist.
            intervals: lengths of candles, each as for `ohlc`. If there are none, trades are
                written, which only the layout `freqtrade` supports.
            layout: `parquet` and `csv` write files such as
                `interval=1h/pair=XBTUSD/candles.parquet`, with the rows of `ohlc`; `freqtrade` and
                `lean` write the data files of these programs, with complete candles only.
            since: as for `ohlc`.
            until: as for `ohlc`.
            fill: as for `ohlc`.
            tz: as for `ohlc`.
            offset: as for `ohlc`.
            all_columns: as for `ohlc`.
            strict: as for `ohlc`.
            complete_only: as for `ohlc`.
            progress: called with each file once it is written.

        Returns:
            One `ExportedFile` per pair and interval: `pair`, `interval`, `path`, `rows`,
            `left_out` (number of incomplete candles), `notes` (gaps in the requested range).

        Raises:
            UsageError: no pair is given, the folder is a file or lies in an archive, the layout
                does not support trades, more than a million empty candles would be added and
                `until` is not given, the other program has no name for a pair, or a file of
                `lean` would lose candles.
            NothingStored: the archive has no trades of a pair.
            ArchiveHasGaps: `strict` is set, and there are gaps.
            BadInterval: an interval or the offset can't be read, or the other program does not
                support the interval.
            BadTime: `since` or `until` is not a time, or `since` is not before `until`.
            BadSetting: there is no such layout, fill policy or time zone.
            ArchiveDamaged: a file can't be read, or compaction removes files again and again.
            ArchiveUnwritable: a file can't be written.

        Example:
            >>> files = archive.export("XBT/USD", folder="candles", intervals=["1h", "1d"])
            >>> [(file.interval, file.rows) for file in files]
            [('1h', 240), ('1d', 10)]
        """
        from harvester.exporters.export import (
            PairExport,
            check_target,
            export_candles,
            export_trades,
        )

        self._check_open()
        target = os.fspath(folder)
        if not pairs:
            raise UsageError("no pair is given: give one or several, such as 'XBT/USD'")
        check_target(layout, target)
        by_name = _intervals_by_name(*intervals)
        range_, store = parse_range(since, until, _time_zone(tz)), SnapshotStore(self._store)

        def notes(name: str) -> tuple[str, ...]:
            return _gap_notes(store, name, [range_], strict=strict)

        if lengths := list(by_name.values()):
            queries = {}
            for pair in pairs:
                market, query = self._candle_query(
                    pair, lengths[0].text, range_, fill, tz, offset, complete_only=complete_only
                )
                queries[market.altname] = (market, replace(query, all_columns=all_columns))
            exports = [
                PairExport(market, query, notes(name)) for name, (market, query) in queries.items()
            ]
            limit = self._settings.candles.memory_limit
            files = export_candles(store, exports, lengths, layout, target, limit)
        elif layout == "freqtrade":
            markets = {market.altname: market for market in map(self._resolve_stored, pairs)}
            noted = [(market, notes(name)) for name, market in markets.items()]
            files = export_trades(store, noted, range_, target)
        else:
            raise UsageError(
                f"the layout {layout} has no trades: give intervals such as ['1h'], or the layout "
                "'freqtrade'"
            )
        written = []
        for file in files:
            written.append(file)
            if progress is not None:
                progress(file)
        return written

    @check_types
    def chart(  # noqa: PLR0913 - the options of the command
        self,
        pair: str,
        interval: IntervalLength,
        *,
        since: Moment = "start",
        until: Moment | None = None,
        tz: str | None = None,
        offset: str = "0",
        strict: bool = False,
        complete_only: bool = False,
    ) -> Chart:
        """Draw a chart of candles, vwap and volume by taker side, with gaps shaded and labelled.

        The parameters are those of `ohlc`. Above 3,000 candles, which is more than a screen can
        show, a coarser interval is drawn, and the chart says so. A notebook displays the returned
        chart. No network is needed.

        Returns:
            A chart: `.figure` is a plotly figure, which you may change; `.save("chart.html")`
            writes a file, also .png, .svg and .pdf if the extra `png` is installed; `.notes` has
            remarks, such as gaps in the requested range.

        Raises:
            NothingStored: the archive has no trades of the pair, or none in the requested range.
            ArchiveDamaged: a file can't be read, or compaction removes files again and again.
            HarvesterError: as for `ohlc`; or the setting `candles.memory_limit` is too low.

        Example:
            >>> chart = archive.chart("XBT/USD", "1h", since="2026-01-30")
            >>> chart.title
            'XBT/USD, 1h candles, 2026-01-30 to 2026-01-31 (UTC)'
            >>> len(chart.figure.data[0].x)
            24
        """
        from harvester.charts.chart import chart

        self._check_open()
        range_ = parse_range(since, until, _time_zone(tz))
        limit = self._settings.candles.memory_limit
        market, query = self._candle_query(
            pair, interval, range_, "none", tz, offset, complete_only=complete_only
        )
        now_ns = time.time_ns()
        store = SnapshotStore(self._store)
        return chart(store, market, query, now_ns, memory_limit=limit, strict=strict)

    @check_types
    def explore(self, *, port: int = 0) -> ExplorerServer:
        """Start the archive explorer: a page with coverage, candles at any zoom, trades and SQL.

        A notebook shows the page in a frame; elsewhere open `.url` in a browser of this machine.
        The server listens on 127.0.0.1 only, and runs until `.close()` or the end of the process.

        Args:
            port: its port; 0 for any free one.

        Returns:
            The server: `.url` is the page's address, whose token the server asks for. It is also a
            context manager that closes it.

        Raises:
            UsageError: the port is not from 0 to 65535.
            HarvesterError: listening on the port failed.

        Example:
            >>> with archive.explore() as explorer:
            ...     explorer.url.startswith("http://127.0.0.1:")
            True
        """
        from harvester.server.explorer.web import ExplorerServer

        self._check_open()
        if not 0 <= port <= 65_535:
            raise UsageError(f"port is {port}: give 0 to 65535")
        return ExplorerServer(Archive(self._settings, self._warn), port)

    # --- what is stored --------------------------------------------------------------------------

    def stored_pairs(self) -> list[str]:
        """List the pairs with stored trades, by their altnames.

        Example:
            >>> archive.stored_pairs()
            ['XBTUSD']
        """
        self._check_open()
        return self._store.stored_pairs()

    @check_types
    def coverage(self, pair: str) -> list[Range]:
        """Return the coverage of a pair: the ranges that were downloaded or imported completely.

        Args:
            pair: the name of the pair, in any spelling.

        Returns:
            Ranges `(after, through]` of published time, in nanoseconds since the UNIX epoch, in
            order. Ranges that touch are merged.

        Raises:
            NothingStored: the archive has no trades of the pair.

        Example:
            >>> [covered] = archive.coverage("XBT/USD")
            >>> str(covered)
            'the beginning to 2026-01-31'
        """
        return self._store.coverage(self._resolve_stored(pair).altname)

    @check_types
    def gaps(self, pair: str) -> list[Range]:
        """Return the gaps of a pair: the ranges that were requested and are not covered.

        Args:
            pair: the name of the pair, in any spelling.

        Returns:
            Ranges as those of `coverage`, in order; an empty list if nothing is missing.

        Raises:
            NothingStored: the pair is not stored and was never requested.

        Example:
            >>> archive.gaps("XBT/USD")
            []
        """
        self._check_open()
        return self._store.gaps(altname_of_known_pair(self._store, pair))

    @check_types
    def status(self, *pairs: str) -> list[PairStatus]:
        """Summarize what is stored of some pairs: trades, coverage, gaps, files, bytes.

        Reads file names and Parquet footers only; no trades and no network.

        Args:
            *pairs: names in any spelling. Default: all pairs that are stored or were requested.

        Returns:
            A status per pair; `pandas.DataFrame(archive.status())` makes a table of them. Files
            that can't be read are listed in `damaged`.

        Raises:
            NothingStored: a pair is not stored and was never requested.
            ArchiveDamaged: compaction removes files again and again while they are listed.

        Example:
            >>> [status] = archive.status()
            >>> status.pair, status.trades, status.gaps
            ('XBTUSD', 20000, [])
        """
        from harvester.verify.status import status

        return status(self._store, self._resolve_known(pairs) or None, time.time_ns())

    @check_types
    def runs(self, count: int = 20, pairs: Sequence[str] = ()) -> list[RunRecord]:
        """Return the latest runs from the run log: commands and calls that wrote to the archive.

        Args:
            count: how many runs to return at most.
            pairs: only runs that changed one of these pairs, or were to do so; names in any
                spelling. Default: all runs.

        Returns:
            A record per run, the latest first: `command`, `begun`, `ended`, `state` (`running`,
            `ended` or `killed`), `exit_status`, `error`, `asked`, `pairs`, `trades`, `gaps`,
            `calls`, ...

        Raises:
            UsageError: `count` is less than 1.
            NothingStored: a pair is not stored and was never requested.
            ArchiveError: the run log can't be read.

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
        known = known_pairs(self._store) if pairs else {}
        named = [known.get(name) or Pair(altname=name) for name in self._resolve_known(pairs)]
        return latest_runs(self._store, count, named)

    @check_types
    def digest(
        self,
        *pairs: str,
        since: Moment = "start",
        until: Moment | None = None,
        progress: ProgressOption | None = None,
    ) -> list[Digest]:
        """Compute checksums of the stored trades, by whole months, to compare two archives.

        Two archives with the same trades have the same digest, whatever segments they have and
        however the trades were downloaded.

        Args:
            *pairs: names in any spelling. Default: all stored pairs.
            since: start time, inclusive; only whole months are used. Default: the first trade.
            until: end time, exclusive. Default: the end of the stored trades.
            progress: called with each event of `harvester.events`; True draws a progress
                bar. A `Reported` event has the digests of a pair as soon as they are computed.

        Returns:
            A digest per pair and consecutive months without a gap: `pair`, `first`, `last`, `rows`,
            `sha256`, and `months` with the checksum of each month. docs/format.md describes the
            algorithm.

        Raises:
            BadTime: `since` or `until` is not a time, or `since` is not before `until`.
            NothingStored: the archive has no trades of one of the pairs.
            ArchiveDamaged: a file can't be read, ends in the future, or is being replaced.

        Example:
            >>> archive.digest("XBT/USD")  # ten days are stored: no whole month
            []
        """
        from harvester.operations.maintenance import digest_pairs

        self._check_open()
        names = stored_altnames(self._store, pairs)
        time_range = parse_range(since, until)
        with _progress_listener(progress) as listener:
            return digest_pairs(SnapshotStore(self._store), names, time_range, listener)

    @check_types
    def verify(
        self,
        *pairs: str,
        repair: bool = False,
        against_exchange: bool = False,
        against_csv: Sequence[str | os.PathLike[str]] = (),
        progress: ProgressOption | None = None,
        estimate_trades: bool = False,
        cancel: CancelToken | None = None,
    ) -> list[PairReport]:
        """Check every stored trade of some pairs for corruption and gaps.

        Trades are checked against file names, footers, checksums, trade ids, roll-ups and requested
        ranges; docs/verify.md lists all checks. Faults are reported, not raised.

        Args:
            *pairs: names in any spelling. Default: all pairs that are stored or were requested.
            repair: if there are faults, move broken files into the folder `quarantine`, download
                the missing ranges, and check again. Nothing is deleted.
            against_exchange: also compare candles with the exchange's OHLC endpoint.
            against_csv: also compare candles with Kraken's candle files (OHLCVT): paths of ZIPs,
                CSVs or folders.
            progress: called with each event of `harvester.events`, partly from another
                thread; True draws a progress bar. A `Reported` event has a report as soon as it is
                complete: a `PairReport`, `RepairedFile`, `RepairReport`, `ExchangeReport` or
                `CsvReport`.
            estimate_trades: before a repair, request weekly trade counts, so that events contain
                an estimate of the trades that are left.
            cancel: ends a repair early once its `cancel()` is called, from any thread.

        Returns:
            A report per pair, from after the repair if there was one. `faults` is empty if nothing
            is wrong; then `digests` has checksums by month. `repair`, `exchange` and `csv` are the
            reports of the other requested steps; each has its `exit_status`, 0 if nothing is wrong.

        Raises:
            NothingStored: a pair is not stored and was never requested.
            ArchiveDamaged: compaction removes files again and again while they are read.
            BadFile: a path of `against_csv` does not exist, or is not a ZIP, a CSV or a folder.
            KeyboardInterrupt: Ctrl-C; the trades that a repair downloaded so far are stored.

        Example:
            >>> [report] = archive.verify("XBT/USD")
            >>> report.rows, report.faults
            (20000, [])
        """
        from harvester.async_runner import run_in_thread
        from harvester.csv_import.csv_files import find
        from harvester.download.exchange import RunOptions
        from harvester.operations import maintenance

        names = self._resolve_known(pairs) or self._store.pairs_to_verify()
        settings = self._settings
        if repair:
            # Fails now, before hours of reading, if the archive can't be written.
            TradeStore(self.path, for_writing=True)
        # Find the files first: a wrong path is an error before all trades are read.
        files = find([os.fspath(path) for path in against_csv])
        with _progress_listener(progress) as listener:
            reports = maintenance.check_pairs(self._store, names, listener)
            if repair and any(report.faults for report in reports):
                estimates = estimate_trades or progress is True
                reports = run_in_thread(
                    lambda cancel: maintenance.repair_pairs(
                        TradeStore(self.path, for_writing=True),
                        settings,
                        reports,
                        RunOptions(listener, cancel, estimates=estimates, warn=self._warn),
                    ),
                    cancel,
                )
            if against_exchange and reports:
                run_in_thread(
                    lambda cancel: maintenance.compare_with_exchange(
                        TradeStore(self.path), settings, reports, listener, cancel
                    )
                )
            if against_csv:
                maintenance.compare_with_csv(
                    self._store, settings, files, reports, listener, reports_all_pairs=bool(pairs)
                )
            return reports

    def _resolve_known(self, pairs: Sequence[str]) -> list[str]:
        """Resolve names of pairs that are stored or were requested; each altname appears once.

        Raises:
            NothingStored: a pair is not stored and was never requested.
        """
        self._check_open()
        return list(dict.fromkeys(altname_of_known_pair(self._store, name) for name in pairs))

    # --- maintenance -----------------------------------------------------------------------------

    @check_types
    def compact(
        self, *pairs: str, progress: ProgressOption | None = None
    ) -> list[CompactionResult]:
        """Merge neighbouring small segments into segments of up to four million trades.

        `backfill` and `refresh` do this automatically. The trades do not change.

        Args:
            *pairs: names in any spelling. Default: all stored pairs.
            progress: called with the events `Begun`, `Step` and `Noted` of
                `harvester.events`; True draws a progress bar.

        Returns:
            A result per pair: `pair`, `files_before`, `files_after`, `notes`.

        Raises:
            NothingStored: the archive has no trades of a pair.
            ArchiveLocked: another run is writing to a pair.
            ArchiveDamaged: a file can't be read, or its rows do not match its footer.
            ArchiveUnwritable: the operating system refused to write.

        Example:
            >>> [result] = archive.compact("XBT/USD")
            >>> result.pair, result.files_before, result.files_after
            ('XBTUSD', 1, 1)
        """
        from harvester.operations.maintenance import compact

        self._check_open()
        with _progress_listener(progress) as listener:
            return compact(TradeStore(self.path, for_writing=True), self._settings, pairs, listener)

    @check_types
    def rollup(self, *pairs: str, progress: ProgressOption | None = None) -> list[RollupResult]:
        """Build missing roll-ups: partial candles of each segment, which speed up long queries.

        `backfill` and `refresh` do this automatically. Queries return the same rows without
        roll-ups. The setting `candles.rollups` lists the lengths that are built. The parameters are
        those of `compact`.

        Returns:
            A result per pair: `pair`, the numbers of files `built` and `up_to_date`, `notes`.

        Raises:
            HarvesterError: as for `compact`.

        Example:
            >>> [result] = archive.rollup("XBT/USD")
            >>> result.built + result.up_to_date
            2
        """
        from harvester.operations.maintenance import build_rollups

        self._check_open()
        with _progress_listener(progress) as listener:
            return build_rollups(
                TradeStore(self.path, for_writing=True), self._settings, pairs, listener
            )

    @check_types
    def sync(
        self,
        url: str,
        *,
        dry_run: bool = False,
        progress: ProgressOption | None = None,
        cancel: CancelToken | None = None,
    ) -> SyncResult:
        """Bring the copy of the archive in an object store up to date; docs/object-store.md.

        What is new is written, then what it replaces is deleted, so the copy can be read at every
        moment, and after an interruption. Each written object is compared with its file.

        Args:
            url: of the copy: `s3://bucket/prefix`; `harvester.open` opens it.
            dry_run: write and delete nothing.
            progress: called with the events `Begun` and `Step` of `harvester.events`; True
                draws a progress bar.
            cancel: ends the call early once its `cancel()` is called; the next call continues.

        Returns:
            A result with `uploaded`, `uploaded_bytes`, `unchanged`, `deleted`, `kept`, `seconds`.

        Raises:
            UsageError: `url` is not the URL of an object store, a library is missing, or this
                archive is itself in an object store.
            NothingStored: the archive is empty.
            ArchiveError: the store can't be reached, or refuses; or it has other bytes than sent.
            ArchiveLocked: another sync of the archive is running.
            ArchiveDamaged: files keep vanishing while they are read.
            Interrupted: `cancel` was cancelled.

        Example:
            >>> result = archive.sync("s3://my-bucket/kraken")  # doctest: +SKIP
            >>> result.uploaded, result.deleted  # doctest: +SKIP
            (4, [])
        """
        from harvester.events import CancelToken
        from harvester.operations.sync import sync

        self._check_open()
        with _progress_listener(progress) as listener:
            store = TradeStore(self.path, for_writing=True)
            return sync(store, url, listener, cancel or CancelToken(), dry_run=dry_run)

    @check_types
    def doctor(
        self, *, exchange: bool = False, pair: str = "XBT/USD", cancel: CancelToken | None = None
    ) -> list[CheckResult]:
        """Check this machine and the archive, and whether the exchange is as harvester expects.

        Faults and differences are in the results, not raised. Nothing is stored.

        Args:
            exchange: also check every assumption about the exchange, with at most 25 requests at
                the set rate; docs/kraken.md lists them.
            pair: the market whose trades and candles are requested, in any spelling.
            cancel: ends the requests early once its `cancel()` is called, from any thread.

        Returns:
            A result per check: `name`, `status` (`ok`, `fault`, `differs` or `not checked`),
            `seen`, `meaning` (of a fault or a difference), and `exit_status` (1 for a fault of this
            machine, 3 for a difference, else 0). They have no password and no path of the home
            folder.

        Raises:
            UnknownPair: the exchange lists no pair of this name.
            Interrupted: `cancel` was cancelled.

        Example:
            >>> sum(check.exit_status for check in archive.doctor())
            0
        """
        from harvester.async_runner import run_in_thread
        from harvester.operations.doctor import (
            anonymous,
            check_archive,
            check_exchange,
            check_machine,
        )

        self._check_open()
        results = [*check_machine(), *check_archive(self._store, self._settings)]
        if exchange:
            results += run_in_thread(
                lambda cancel: check_exchange(self._settings, pair, cancel), cancel
            )
        return [anonymous(result) for result in results]

    def _repr_html_(self) -> str:
        # Imported here because it imports DuckDB, which is slow.
        from harvester.notebook import show_archive

        return show_archive(self.path, self.status(), self._store.stored_pairs_text([]))


def _gap_notes(
    store: TradeStore, pair: str, ranges: Sequence[Range], *, strict: bool
) -> tuple[str, ...]:
    """Return a note about the gaps in requested ranges; nothing if there are none.

    Raises:
        ArchiveHasGaps: there are gaps, and `strict` is set.
    """
    from harvester.query.plan import check_gaps

    return check_gaps(store, pair, ranges, time.time_ns(), strict=strict)


def _time_zone(tz: str | None) -> tzinfo:
    """The time zone of dates, and of texts that name none; UTC if `tz` is not given.

    Raises:
        BadSetting: there is no such time zone.
    """
    if tz is None:
        return UTC
    from harvester.query.calendar import find_time_zone

    return find_time_zone(tz)


def _plain_digits(size: Number) -> str:
    """Write a number without exponent; a float with the fewest digits that give the same float."""
    if isinstance(size, str):
        return size
    # `str` refuses integers of more than 4300 digits; `Decimal` does not.
    return f"{Decimal(size if isinstance(size, int) else str(size)):f}"


def _column_units(pair: Pair) -> dict[str, str]:
    """Return the units of a result's columns, without currencies if the pair's are not known."""
    base, slash, quote = pair.wsname.partition("/")
    if not slash:
        return {"time": "UTC"}
    prices = dict.fromkeys(("price", "open", "high", "low", "close", "vwap"), f"{quote} per {base}")
    volumes = dict.fromkeys(("volume", "buy_volume", "sell_volume"), base)
    values = dict.fromkeys(("value", "buy_value", "sell_value"), quote)
    times = dict.fromkeys(("time", "first_time", "last_time"), "UTC")
    return prices | volumes | values | times


@check_types
def _intervals_by_name(*intervals: IntervalLength) -> dict[str, Interval]:
    """The intervals by name, so that 60 and 60m are one."""
    return {length.name: length for length in map(candle_interval, intervals)}


@contextmanager
def _progress_listener(progress: ProgressOption | None) -> Iterator[Listener]:
    """Yield a listener that passes events to `progress`, draws a bar for True, or does nothing."""
    if progress is True:
        from harvester.progress_bars import Bars

        with Bars() as bars:
            yield bars.show
    else:
        from harvester.events import ignore

        yield cast("Listener", progress) if callable(progress) else ignore
