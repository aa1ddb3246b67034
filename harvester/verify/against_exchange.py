"""Compare the archive's candles with the OHLC endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from harvester.csv_import.ohlcvt import rows_of
from harvester.download.events import Listener, Step, ignore
from harvester.download.pair_selection import refresh_pairs
from harvester.errors import ExchangeError, ExchangeRefused
from harvester.kraken.ohlc import INTERVALS_MIN, Candle
from harvester.kraken.pairs import Pair
from harvester.query.sql import MEMORY_LIMIT
from harvester.storage.trade_store import TradeStore
from harvester.times import Range
from harvester.verify.compare import (
    RUNNING,
    CandleComparison,
    LocalCandles,
    decimals_of,
    retry_if_replaced,
)
from harvester.verify.reports import ExchangeReport, IntervalReport

if TYPE_CHECKING:
    from harvester.kraken.client import Client

EXCHANGE_STEPS = "answers and comparisons"


class _Steps:
    """Counts the answers and comparisons that are done, and reports each."""

    def __init__(self, listener: Listener, pair: str, total: int) -> None:
        self._listener = listener
        self._pair = pair
        self._done, self._total = 0, total

    def advance(self, steps: int = 1, *, more: int = 0) -> None:
        """Count steps as done; `more` is how many were found to follow."""
        self._done += steps
        self._total += more
        self._listener(Step(self._pair, self._done, self._total, EXCHANGE_STEPS))


class Comparer:
    """Compares the candles of an archive's pairs with an exchange's OHLC endpoint."""

    def __init__(
        self, client: Client, archive: TradeStore, *, memory_limit: str = MEMORY_LIMIT
    ) -> None:
        """No request is sent before the first pair is compared."""
        self._client = client
        self._archive = archive
        self._memory_limit = memory_limit
        self._listed: dict[str, Pair] | None = None
        self._listing = asyncio.Lock()
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
            ExchangeError: the first request got no valid answer, or one that can't be read.
            NothingHeld: the trades were removed meanwhile.
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
            return await asyncio.to_thread(compare_interval, local, coverage, minutes, candles)

        reports: dict[int, IntervalReport] = {}
        async with self._computing:
            for minutes, candles in answers.items():
                reports[minutes] = await compared(minutes, candles)
                steps.advance(more=2 if reports[minutes].differing else 0)
        differing = [minutes for minutes, report in reports.items() if report.differing]
        second, failure = await self._second_answers(pair, differing, steps)
        async with self._computing:
            for minutes in differing:
                if minutes in second:
                    candles = _completed(second[minutes], answers[minutes])
                    report = await compared(minutes, candles)
                    note = f"the second answer {'differs' if report.differing else 'agrees'}"
                else:
                    report, note = reports[minutes], f"no second answer: {failure}"
                reports[minutes] = replace(report, notes=(f"requested again: {note}",))
                steps.advance()
        return ExchangeReport(pair.altname, tuple(reports.values()))

    async def _second_answers(
        self, pair: Pair, differing: Sequence[int], steps: _Steps
    ) -> tuple[dict[int, Sequence[Candle]], ExchangeError | None]:
        """Candles of the intervals that differ, requested once more; an error ends the requests.

        It is returned, not raised, so that the differences found are reported all the same.
        """
        answers: dict[int, Sequence[Candle]] = {}
        try:
            for minutes in differing:
                answers[minutes] = await self._client.candles(pair, minutes)
                steps.advance()
        except ExchangeError as error:
            steps.advance(len(differing) - len(answers))
            return answers, error
        return answers, None

    async def _as_listed(self, pair: Pair) -> Pair:
        """The pair as the exchange lists it today; the list is requested once for all pairs."""
        async with self._listing:
            if self._listed is None:
                self._listed = await refresh_pairs(self._client, self._archive)
        listed = self._listed.get(pair.altname, pair)
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
        comparison.add(pa.table(rows_of(candles[:-1])), Range(max(0, first - 1), newest - 1))
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
