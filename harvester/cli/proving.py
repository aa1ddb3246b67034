"""What `verify --against-exchange` does beyond its option."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from harvester.cli import output
from harvester.cli.crawling import show_warnings
from harvester.cli.options import Common
from harvester.cli.progress import Display, display
from harvester.download.events import Begun, Step, Waiting
from harvester.errors import HarvesterError
from harvester.kraken.client import Client
from harvester.kraken.ohlc import WEEK_MIN
from harvester.kraken.pairs import Pair
from harvester.pair_names import known_pairs
from harvester.storage.trade_store import TradeStore
from harvester.verify.against_exchange import Comparer
from harvester.verify.reports import Comparison, ExchangeReport, IntervalReport

STEPS = "answers and comparisons"


class Compared(NamedTuple):
    """What comparing one pair came to: a report, or an error that ended it."""

    pair: str
    report: ExchangeReport | None = None
    error: HarvesterError | None = None

    @property
    def exit_status(self) -> int:
        """That of the error, else that of the report."""
        if self.error is not None:
            return self.error.exit_status
        return self.report.exit_status if self.report else 0

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        report = self.report or ExchangeReport(self.pair)
        return {
            **asdict(report),
            "compared": report.compared,
            "differing": report.differing,
            "skipped": report.skipped,
            "error": None if self.error is None else str(self.error),
            "exit_status": self.exit_status,
        }


def against_exchange(
    common: Common, archive: TradeStore, names: Sequence[str], *, as_json: bool
) -> dict[str, Compared]:
    """Hold these pairs of an archive against the exchange, and tell as each is done."""
    show_warnings(verbose=common.verbose > 0)

    with display(quiet=common.quiet, log_json=common.log_json) as shown:

        def tell(compared: Compared) -> None:
            with shown.aside():
                if compared.error is not None:
                    output.error(str(compared.error))
                elif compared.report is not None and not as_json:
                    _print(compared.report)

        shown.tell(Begun(len(names)))
        return asyncio.run(_against_exchange(common, archive, names, (tell, shown)))


async def _against_exchange(
    common: Common,
    archive: TradeStore,
    names: Sequence[str],
    seen: tuple[Callable[[Compared], None], Display],
) -> dict[str, Compared]:
    settings = common.settings
    tell, shown = seen

    def waiting(what: str, why: str) -> None:
        shown.tell(Waiting(what, why))

    async with Client(settings.exchange, on_wait=waiting) as client:
        comparer = Comparer(client, archive, memory_limit=settings.candles.memory_limit)
        turn = asyncio.Semaphore(settings.exchange.jobs)
        known = known_pairs(archive)

        async def compare(name: str) -> Compared:
            async with turn:
                if not (common.quiet or common.log_json or output.is_terminal()):
                    output.hint(f"{name}: asking the exchange for its own candles")
                try:
                    report = await comparer.compare(
                        known.get(name, Pair(altname=name)),
                        lambda done, of: shown.tell(Step(name, done, of, STEPS)),
                    )
                except HarvesterError as error:
                    # Its line goes.
                    shown.tell(Step(name, 1, 1, STEPS))
                    return Compared(name, error=error)
                return Compared(name, report)

        tasks = [asyncio.create_task(compare(name)) for name in names]
        found = {}
        try:
            for task in tasks:
                one = await task
                found[one.pair] = one
                tell(one)
        finally:
            for task in tasks:
                task.cancel()
        return found


def _print(report: ExchangeReport) -> None:
    output.result(f"{report.pair} against the exchange: {verdict(report)}")
    for interval in report.intervals:
        print_interval(f"{interval.minutes}m", interval)
    for interval in report.intervals:
        if interval.minutes == WEEK_MIN:
            output.result(f"  trades a week: {_weeks(interval)}")


def print_interval(title: str, interval: IntervalReport) -> None:
    """What candles of one length came to, and their differences."""
    output.result(f"  {title}: {_line(interval)}")
    for difference in interval.differences:
        output.result(f"    {difference}")
    if interval.more:
        output.result(f"    and {interval.more:,} more values of {interval.minutes}m candles")


def verdict(report: Comparison) -> str:
    """What all candles of a pair came to, in a few words."""
    if not report.intervals:
        return "nothing compared: no trades are held"
    if not report.compared:
        return f"nothing compared: {report.skipped:,} candles skipped"
    done = f"{report.compared:,} candles compared, {report.skipped:,} skipped"
    return f"{report.differing:,} DIFFER: {done}" if report.differing else f"equal: {done}"


def _line(interval: IntervalReport) -> str:
    parts = [f"{interval.compared:,} compared, {interval.differing:,} differ{_skipped(interval)}"]
    if interval.shortened:
        parts.append(
            f"{interval.shortened:,} prices held only to the decimals that the exchange prints"
        )
    if interval.at_edge:
        parts.append(f"{interval.at_edge:,} equal by moving trades published at the very edge")
    if interval.within_float_rounding:
        parts.append(f"{interval.within_float_rounding:,} equal within float rounding")
    return "; ".join([*parts, *interval.notes])


def _weeks(interval: IntervalReport) -> str:
    if not interval.compared:
        return f"no week compared{_skipped(interval)}"
    return (
        f"{interval.compared:,} weeks compared, {interval.miscounted:,} differ: "
        f"{interval.theirs:,} by the exchange's count, {interval.ours:,} held{_skipped(interval)}"
    )


def _skipped(interval: IntervalReport) -> str:
    if not interval.skipped:
        return ""
    return "; skipped " + ", ".join(f"{n:,} {reason}" for reason, n in interval.skipped.items())
