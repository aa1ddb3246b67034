"""Holds the candles of an archive against the exchange's own, value by value."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from harvester.archive.archive import Archive
from harvester.candles.engine import MEMORY_LIMIT
from harvester.checks.intervals import compare_interval
from harvester.checks.ours import Asker
from harvester.checks.report import ExchangeReport
from harvester.checks.values import decimals_of
from harvester.crawl.names import refresh_pairs
from harvester.errors import ExchangeRefused
from harvester.kraken.candles import INTERVALS_MIN, Candle
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair


class Comparer:
    """Compares pair after pair of an archive with one exchange."""

    def __init__(
        self, client: Client, archive: Archive, *, memory_limit: str = MEMORY_LIMIT
    ) -> None:
        """Nothing is asked before the first pair is."""
        self._client = client
        self._archive = archive
        self._memory_limit = memory_limit
        self._asked: dict[str, Pair] | None = None
        self._asking = asyncio.Lock()
        # Several pairs may wait for the exchange at a time; one at a time has the memory.
        self._computing = asyncio.Lock()

    async def compare(
        self, pair: Pair, progress: Callable[[int, int], None] = lambda _done, _all: None
    ) -> ExchangeReport:
        """Hold the exchange's candles of all its lengths against the trades held.

        Args:
            pair: which.
            progress: told how many answers and comparisons are done, and how many there are.

        Raises:
            ExchangeError: no good answer came, or one that can't be read.
            NothingHeld: the trades went while they were asked for.
            ArchiveDamaged: a file can't be read.
            ValueDoesNotFit: a sum has more than 38 digits.
        """
        coverage = self._archive.coverage(pair.altname)
        if not coverage:
            return ExchangeReport(pair.altname)
        if not pair.key:
            pair = await self._as_listed(pair)
        # Theirs first: what is committed meanwhile only widens what can be compared.
        answers: dict[int, Sequence[Candle]] = {}
        steps = 2 * len(INTERVALS_MIN)
        for minutes in INTERVALS_MIN:
            answers[minutes] = await self._client.candles(pair, minutes)
            progress(len(answers), steps)
        if _printed_decimals(answers.values()) not in (None, pair.pair_decimals):
            pair = await self._as_listed(pair)
        asker = Asker(self._archive, pair.altname, pair.pair_decimals, self._memory_limit)
        intervals = []
        async with self._computing:
            for minutes, theirs in answers.items():
                work = asyncio.to_thread(compare_interval, asker, coverage, minutes, theirs)
                intervals.append(await work)
                progress(len(answers) + len(intervals), steps)
        return ExchangeReport(pair.altname, tuple(intervals))

    async def _as_listed(self, pair: Pair) -> Pair:
        """The pair as the exchange lists it today, asked once for all pairs."""
        async with self._asking:
            if self._asked is None:
                self._asked = await refresh_pairs(self._client, self._archive)
        listed = self._asked.get(pair.altname, pair)
        if not listed.key:
            raise ExchangeRefused(
                f"{pair.altname}: the exchange does not list it, so nothing tells with how many "
                "decimals it prints its candles, and none can be compared"
            )
        return listed


def _printed_decimals(answers: Iterable[Sequence[Candle]]) -> int | None:
    """With how many decimals the exchange prints a vwap; None where it prints none."""
    return max((decimals_of(one.vwap) for answer in answers for one in answer), default=None)
