"""What a backfill would ask for, pair by pair and in all, before anything is fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from harvester.cli import output
from harvester.cli.crawling import Request, show_warnings
from harvester.cli.options import Common
from harvester.config import ExchangeSettings
from harvester.csv_import.redownload import rows_to_fetch, units
from harvester.download.backfill import lacking
from harvester.download.estimate import MissingData, TradeCountEstimator
from harvester.download.events import CancelToken
from harvester.download.exchange import ExchangeClock
from harvester.download.pair_selection import choose
from harvester.download.request import BackfillRequest
from harvester.kraken.client import Client
from harvester.kraken.trades import PAGE_ROWS
from harvester.storage.replacement_staging import ReplacementView
from harvester.storage.trade_store import TradeStore
from harvester.times import Range, missing

BYTES_A_TRADE = 11
WORTH_SAYING_S = 5.0


class Plan(NamedTuple):
    """What one pair's backfill would ask for; None where the exchange gave no counts.

    `from_files` are the trades among them that take the place of what came from files: about as
    many bytes go as come.
    """

    pair: str
    ranges: int
    trades: int | None
    calls: int | None
    hours: float | None
    bytes: int | None
    from_files: int = 0


class Total(NamedTuple):
    """What all of them would come to.

    Attributes:
        unknown: pairs that the exchange gave no counts of; they are not counted in.
        jobs: pairs side by side.
        hours: at the set rate, so many side by side, the largest first.
        jobs_enough: from so many on, the whole takes no longer than its largest pair.
        hours_at_best: what it takes then.
    """

    pairs: int
    unknown: int
    ranges: int
    trades: int
    calls: int
    bytes: int
    jobs: int
    hours: float
    jobs_enough: int
    hours_at_best: float


class Plans(NamedTuple):
    """A dry run: the largest pair first."""

    pairs: list[Plan]
    total: Total

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"pairs": [pair._asdict() for pair in self.pairs], "total": self.total._asdict()}


def dry_run(request: Request, common: Common) -> Plans:
    """What a backfill would ask for."""
    wanted = request.span()
    archive = TradeStore(common.settings.archive.path)
    show_warnings(verbose=common.verbose > 0)
    return asyncio.run(_dry_run(request, wanted, archive, common))


async def _dry_run(request: Request, wanted: Range, archive: TradeStore, common: Common) -> Plans:
    exchange = common.settings.exchange
    async with Client(exchange) as client:
        pairs = await choose(client, archive, request.choice)
        settled_ns = await ExchangeClock(client, common.settings.refresh.settle_s).settled_ns()
        lacks = [
            MissingData(pair, lacking(archive, BackfillRequest(pair, wanted), settled_ns))
            for pair in pairs
        ]
        asked = [lack for lack in lacks if lack.ranges]
        if not common.quiet:
            _say_how_long(len(asked), exchange)
        appraiser = TradeCountEstimator(client, exchange, CancelToken())
        await appraiser.estimate(asked, exchange.jobs)
    plans = [_plan(lack, appraiser.trades.get(lack.pair.altname), exchange.rate) for lack in lacks]
    if request.upgrade:
        plans = [_with_upgrade(plan, archive, wanted, exchange.rate) for plan in plans]
    plans.sort(key=lambda plan: -1 if plan.trades is None else plan.trades, reverse=True)
    return Plans(plans, total_of(plans, exchange))


def _say_how_long(calls: int, exchange: ExchangeSettings) -> None:
    seconds = (-(-calls // exchange.jobs) - 1) / exchange.rate if exchange.rate else 0.0
    if seconds > WORTH_SAYING_S:
        output.hint(f"asking for the weekly counts of {calls} pairs: about {seconds:.0f} s")


def _plan(lack: MissingData, trades: int | None, rate: float) -> Plan:
    name, ranges = lack.pair.altname, len(lack.ranges)
    if not lack.ranges:
        return Plan(name, 0, 0, 0, 0.0, 0)
    if trades is None:
        return Plan(name, ranges, None, None, None, None)
    # Behind the last trade of a range, a page that brings nothing new and the newest one.
    calls = -(-trades // PAGE_ROWS) + 2 * ranges
    return Plan(name, ranges, trades, calls, _hours(calls, rate), trades * BYTES_A_TRADE)


def _with_upgrade(plan: Plan, archive: TradeStore, wanted: Range, rate: float) -> Plan:
    """A plan, and what of its pair came from files and does not lie aside yet."""
    found = units(archive, plan.pair, wanted)
    aside = [one.range for one in ReplacementView(archive).aside(plan.pair)]
    rows = sum(rows_to_fetch(unit, aside) for unit in found)
    ranges = len(missing([part for unit in found for part in unit.parts], aside))
    plan = plan._replace(ranges=plan.ranges + ranges, from_files=rows)
    if plan.trades is None or plan.calls is None:
        return plan
    # The last page of a range shows what lies behind it as well.
    calls = plan.calls + -(-rows // PAGE_ROWS) + ranges
    return plan._replace(trades=plan.trades + rows, calls=calls, hours=_hours(calls, rate))


def total_of(plans: Sequence[Plan], exchange: ExchangeSettings) -> Total:
    """What some plans come to, so many side by side as are set."""
    calls = [plan.calls for plan in plans if plan.calls is not None]
    largest, total = max(calls, default=0), sum(calls)
    return Total(
        pairs=len(plans),
        unknown=len(plans) - len(calls),
        ranges=sum(plan.ranges for plan in plans),
        trades=sum(plan.trades or 0 for plan in plans),
        calls=total,
        bytes=sum(plan.bytes or 0 for plan in plans),
        jobs=exchange.jobs,
        hours=max(_hours(largest, exchange.rate), _hours(total, exchange.rate) / exchange.jobs),
        jobs_enough=-(-total // largest) if largest else 1,
        hours_at_best=_hours(largest, exchange.rate),
    )


def _hours(calls: int, rate: float) -> float:
    return calls / rate / 3600 if rate else 0.0


def table(plans: Plans) -> str:
    """A dry run as text: a line a pair, and one for all."""
    files = sum(pair.from_files for pair in plans.pairs)
    rows = [[pair.pair, str(pair.ranges), *_expected(pair)] for pair in plans.pairs]
    total = plans.total
    if total.pairs > 1:
        name = f"{total.pairs} pairs" + (f", {total.unknown} unknown" if total.unknown else "")
        rows.append([name, str(total.ranges), *_expected(total)])
    if files:
        counts = [*(pair.from_files for pair in plans.pairs), files]
        rows = [[*row, f"{count:,}"] for row, count in zip(rows, counts, strict=False)]
    names = ["pair", "ranges", "trades", "calls", "hours", "MB", *(["from files"] if files else [])]
    return output.columns(names, rows)


def advice(total: Total) -> str | None:
    """What more pairs side by side would do, where that is anything."""
    if total.jobs >= min(total.jobs_enough, total.pairs) or total.hours <= total.hours_at_best:
        return None
    return (
        f"{total.hours:.2f} hours with {total.jobs} pairs side by side; from --jobs "
        f"{total.jobs_enough} on {total.hours_at_best:.2f}, if the exchange lets so many go"
    )


def _expected(one: Any) -> list[str]:
    if one.trades is None:
        return ["?"] * 4
    return [f"{one.trades:,}", f"{one.calls:,}", f"{one.hours:.2f}", f"{one.bytes / 1e6:.1f}"]
