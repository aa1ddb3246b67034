"""`verify --against-exchange` and `--against-csv`: get candles to compare, and report."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from harvester.csv_import.csv_files import CompletePeriod, Member
from harvester.csv_import.ohlcvt_reader import ROWS, candle_rows, read_candle_file
from harvester.errors import ExchangeError, ExchangeRefused, HarvesterError
from harvester.events import Listener, Step, ignore
from harvester.kraken.ohlc import INTERVALS_MIN, Candle
from harvester.kraken.pairs import Pair, PairIndex
from harvester.pair_selection import PairListOfRun
from harvester.query.sql import MEMORY_LIMIT
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, MAX_COUNT, SECOND, UNITS_NS, Range
from harvester.verify.candle_comparison import (
    RUNNING,
    CandleComparison,
    LocalCandles,
    decimals_of,
    retry_if_replaced,
)
from harvester.verify.reports import CsvReport, ExchangeReport, FileReport, IntervalReport

if TYPE_CHECKING:
    from harvester.kraken.client import Client


# --- candle files ---------------------------------------------------------------------------------

CHUNK_ROWS = 100_000
"""How many candles of a file are compared at once; memory does not grow with the file."""

_NO_CANDLES = pa.table(ROWS.empty_table())


def compare_blocks(
    local: LocalCandles,
    coverage: Sequence[Range],
    minutes: int,
    whole: CompletePeriod,
    blocks: Iterable[pa.RecordBatch],
) -> IntervalReport:
    """Compare the candles of a file with those of the archive.

    Args:
        local: the archive's candles.
        coverage: the pair's coverage, in order; not empty.
        minutes: the candles' length.
        whole: the period in which the file is known to be complete. Where that is not known, local
            candles count from the file's first row to its last.
        blocks: the file's candles, in order of time.

    Raises:
        BadFile: a row can't be read.
        ArchiveDamaged: a file of the archive can't be read.
        ValueDoesNotFit: a sum has more than 38 digits.
    """
    comparison = CandleComparison(local, coverage, minutes, is_filled=False)
    since_ns = None if whole.since_s is None else whole.since_s * SECOND
    until_ns = END_OF_TIME if whole.until_s is None else whole.until_s * SECOND
    comparison.until_ns = until_ns
    reached_ns = None if since_ns is None else max(0, since_ns - 1)
    for candles in _chunks(blocks):
        first_ns, last_ns = candles.column("time")[0].value, candles.column("time")[-1].value
        since_ns = first_ns if since_ns is None else since_ns
        comparison.since_ns = since_ns
        after = first_ns - 1 if reached_ns is None else min(first_ns - 1, reached_ns)
        reached_ns = last_ns + minutes * UNITS_NS["m"] - 1
        comparison.add(candles, Range(after, reached_ns))
    if whole.until_s is not None and since_ns is not None and reached_ns is not None:
        comparison.since_ns = since_ns
        comparison.add(_NO_CANDLES, Range(reached_ns, until_ns - 1))
    return comparison.report()


def _chunks(blocks: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Join blocks to tables of `CHUNK_ROWS` or a little more; none is empty."""
    waiting: list[pa.RecordBatch] = []
    for block in blocks:
        waiting.append(block)
        if sum(batch.num_rows for batch in waiting) >= CHUNK_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if any(batch.num_rows for batch in waiting):
        yield pa.Table.from_batches(waiting)


_CANDLE_FILE = re.compile(r"(.+)_([0-9]{1,8})", re.ASCII)


class CandleFile(NamedTuple):
    """A CSV file of candles, and their length in minutes."""

    member: Member
    minutes: int


class FileChoice(NamedTuple):
    """Which files are compared, and which are not.

    Attributes:
        files: by altname, for all requested pairs, in order of the candles' length.
        of_other_pairs: how many files are of other pairs.
        unknown: files that are not named after candles, or after no known pair.
    """

    files: dict[str, list[CandleFile]]
    of_other_pairs: int
    unknown: list[Member]


def choose_files(
    members: Iterable[Member], requested: Iterable[str], known: Iterable[Pair]
) -> FileChoice:
    """Choose the files of some pairs, by the files' names.

    Args:
        members: all that were found.
        requested: the pairs, by altname.
        known: the pairs that a name can mean.
    """
    files: dict[str, list[CandleFile]] = {name: [] for name in requested}
    pair_names = PairIndex(known)
    of_other_pairs, unknown = 0, []
    for member in members:
        # XBTUSD_60.csv has the hourly candles of XBTUSD.
        match = _CANDLE_FILE.fullmatch(member.stem)
        is_length = match is not None and 0 < int(match[2]) <= MAX_COUNT["m"]
        pair = pair_names.find(match[1]) if match and is_length else None
        if match is None or pair is None:
            unknown.append(member)
        elif pair.altname in files:
            files[pair.altname].append(CandleFile(member, int(match[2])))
        else:
            of_other_pairs += 1
    for files_of_pair in files.values():
        files_of_pair.sort(key=lambda file: file.minutes)
    return FileChoice(files, of_other_pairs, unknown)


def compare_files(
    archive: TradeStore,
    pair: Pair,
    files: Sequence[CandleFile],
    memory_limit: str = MEMORY_LIMIT,
    listener: Listener = ignore,
) -> CsvReport:
    """Compare the candles of some files of one pair with the stored trades.

    If a file can't be read or compared, the error is in its report.

    Args:
        archive: the archive with the trades.
        pair: the pair.
        files: its files, as `choose_files` returns them.
        memory_limit: the memory that DuckDB may use, such as 1GB.
        listener: receives a `Step` in bytes after each block.
    """
    coverage = archive.coverage(pair.altname)
    if not coverage:
        return CsvReport(pair.altname, has_trades=False)
    local = LocalCandles(archive, pair.altname, pair.pair_decimals, memory_limit)
    total, before = sum(file.member.size for file in files), 0
    reports = []
    for file in files:

        def on_read(size: int, before: int = before) -> None:
            # Not 100 % yet: the candles of the last bytes are still being compared.
            listener(Step(pair.altname, min(before + size, total - 1), total, "bytes"))

        reports.append(_compare_file(local, coverage, file, on_read))
        before += file.member.size
    listener(Step(pair.altname, total, total, "bytes"))
    return CsvReport(pair.altname, tuple(reports))


def _compare_file(
    local: LocalCandles,
    coverage: Sequence[Range],
    file: CandleFile,
    on_read: Callable[[int], None],
) -> FileReport:
    member, minutes = file

    def compare_once() -> IntervalReport:
        blocks = read_candle_file(member, minutes, on_read)
        return compare_blocks(local, coverage, minutes, member.complete, blocks)

    try:
        found = retry_if_replaced(local.archive, local.pair, compare_once)
    except HarvesterError as error:
        return FileReport(str(member), IntervalReport(minutes), error)
    return FileReport(str(member), found)


# --- OHLC endpoint --------------------------------------------------------------------------------

EXCHANGE_STEPS = "answers and comparisons"
"""What the steps of a comparison with the exchange count."""


class _Steps:
    """Counts the answers and comparisons that are done, and reports each."""

    def __init__(self, listener: Listener, pair: str, total: int) -> None:
        self._listener = listener
        self._pair = pair
        self._done, self._total = 0, total

    def advance(self, *, more: int = 0) -> None:
        """Count a step as done; `more` is how many were found to follow."""
        self._done += 1
        self._total += more
        self._listener(Step(self._pair, self._done, self._total, EXCHANGE_STEPS))


class Comparer:
    """Compares the candles of an archive's pairs with an exchange's OHLC endpoint."""

    def __init__(
        self, client: Client, archive: TradeStore, *, memory_limit: str = MEMORY_LIMIT
    ) -> None:
        self._client = client
        self._archive = archive
        self._memory_limit = memory_limit
        self._listed = PairListOfRun(client, archive)
        # Several pairs may wait for the exchange at a time; one at a time uses memory.
        self._computing = asyncio.Lock()

    async def compare(self, pair: Pair, listener: Listener = ignore) -> ExchangeReport:
        """Compare the exchange's candles of all lengths with the stored trades.

        The exchange's answers are not always stable: an interval that differs is requested and
        compared once more before a difference is reported, and a note says so.

        Args:
            pair: the pair.
            listener: receives a `Step` after each answer and each comparison.

        Raises:
            ExchangeError: a first request of any length got no valid answer.
            NothingStored: the trades were removed meanwhile.
            ArchiveDamaged: a file can't be read.
            ValueDoesNotFit: a sum has more than 38 digits.
        """
        coverage = self._archive.coverage(pair.altname)
        if not coverage:
            return ExchangeReport(pair.altname)
        if not pair.key:
            pair = await self._as_listed(pair)
        # The exchange's first: trades committed meanwhile only add candles that can be compared.
        answers: dict[int, Sequence[Candle]] = {}
        steps = _Steps(listener, pair.altname, 2 * len(INTERVALS_MIN))
        for minutes in INTERVALS_MIN:
            answers[minutes] = await self._client.candles(pair, minutes)
            steps.advance()
        if _printed_decimals(answers.values()) not in (None, pair.pair_decimals):
            pair = await self._as_listed(pair)
        local = LocalCandles(self._archive, pair.altname, pair.pair_decimals, self._memory_limit)

        async def compared(minutes: int, candles: Sequence[Candle]) -> IntervalReport:
            async with self._computing:
                return await asyncio.to_thread(compare_interval, local, coverage, minutes, candles)

        reports: dict[int, IntervalReport] = {}
        for minutes, candles in answers.items():
            reports[minutes] = await compared(minutes, candles)
            steps.advance(more=2 if reports[minutes].differing else 0)
        failure: ExchangeError | None = None
        for minutes in [minutes for minutes, report in reports.items() if report.differing]:
            try:
                second = await self._client.candles(pair, minutes) if failure is None else []
            except ExchangeError as error:
                # The differences found are reported all the same.
                failure = error
            steps.advance()
            if failure is None:
                report = await compared(minutes, _completed(second, answers[minutes]))
                note = f"the second answer {'differs' if report.differing else 'agrees'}"
            else:
                report, note = reports[minutes], f"no second answer: {failure}"
            reports[minutes] = replace(report, notes=(f"requested again: {note}",))
            steps.advance()
        return ExchangeReport(pair.altname, tuple(reports.values()))

    async def _as_listed(self, pair: Pair) -> Pair:
        """The pair as the exchange lists it today; the list is requested once for all pairs."""
        listed = (await self._listed.get()).get(pair.altname, pair)
        if not listed.key:
            raise ExchangeRefused(
                f"{pair.altname}: the exchange does not list it, so the number of decimals in its "
                "candles is unknown, and no candle can be compared"
            )
        return listed


def compare_interval(
    local: LocalCandles, coverage: Sequence[Range], minutes: int, candles: Sequence[Candle]
) -> IntervalReport:
    """Compare the exchange's candles of one length with those of the archive.

    Args:
        local: the archive's candles.
        coverage: the pair's coverage, in order.
        minutes: the candles' length.
        candles: the exchange's candles, in order of time; the last of them is running.
    """
    if not candles:
        return IntervalReport(minutes)
    first, newest = candles[0].time_ns, candles[-1].time_ns

    def compare_once() -> IntervalReport:
        comparison = CandleComparison(local, coverage, minutes, is_filled=True)
        comparison.since_ns, comparison.until_ns = first, newest
        comparison.skipped[RUNNING] = 1
        comparison.add(pa.table(candle_rows(candles[:-1])), Range(max(0, first - 1), newest - 1))
        return comparison.report()

    return retry_if_replaced(local.archive, local.pair, compare_once)


def _completed(second: Sequence[Candle], first: Sequence[Candle]) -> Sequence[Candle]:
    """A second answer, completed with the candles that only the first answer has.

    So a difference does not vanish because the second answer is older, shorter or begins later.

    Args:
        second: the second answer, in order of time; its last candle is running.
        first: the first answer, likewise.
    """
    if not second:
        return first
    begin, newest = second[0].time_ns, second[-1].time_ns
    before = [candle for candle in first if candle.time_ns < begin]
    if first[-1].time_ns <= newest:
        return [*before, *second]
    return [*before, *second[:-1], *(candle for candle in first if candle.time_ns >= newest)]


def _printed_decimals(answers: Iterable[Sequence[Candle]]) -> int | None:
    """The number of decimals with which the exchange prints a vwap; None if there is no candle."""
    printed = (decimals_of(candle.vwap) for answer in answers for candle in answer)
    return max(printed, default=None)
