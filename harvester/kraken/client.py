"""Client of Kraken's public REST API, with rate limits and retries.

An answer counts only if it is complete and about the market that was requested. Everything that may
pass by itself (refusals, timeouts, damaged answers) is retried here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
import stamina

from harvester.config import ExchangeSettings
from harvester.errors import (
    BAD_JSON,
    ExchangeRefused,
    ExchangeUnreachable,
    UnreadableAnswer,
    shortened,
)
from harvester.kraken.answers import (
    Transient,
    check_errors,
    check_status,
    decompress,
    read_result,
)
from harvester.kraken.ohlc import WEEK_MIN, Candle, read_candles
from harvester.kraken.pairs import CURRENCY, TOKENIZED_ASSET, Pair, check_market, read_pairs
from harvester.kraken.rate_limit import LONGEST_WAIT_S, PaceState, RateLimiter
from harvester.kraken.trades import TradesPage, decode_page
from harvester.kraken.transport import HttpAnswer, HttpClient
from harvester.times import SECOND

logger = logging.getLogger("harvester.kraken")
# stamina would log each retry; the client reports waits by `on_wait` instead.
logging.getLogger("stamina").addHandler(logging.NullHandler())

NEVER_ANSWERED_GIVE_UP_S = 15.0
"""How long calls are retried while no call of this client has ever had a valid answer."""

T = TypeVar("T")
OnWait = Callable[[str, str], None]
"""Called before every wait with the pair (or the endpoint) and the reason."""

OnPace = Callable[[PaceState], None]
"""Called whenever the rate of a pair has changed."""

OnAnswer = Callable[[HttpAnswer, float], None]
"""Called with each answer as it was sent, and the seconds from the request to its last byte."""


class Client(AbstractAsyncContextManager["Client"]):
    """Kraken's public endpoints, for use as an async context manager.

    Each call is retried, with growing waits, while its failures are transient, for up to
    `give_up_s` seconds from its first failure; for 15 s as long as no call was ever answered.

    Attributes:
        calls: requests sent so far.
        refusals: how many of them were refused because of the rate.
        coverage_ends_ns: end of coverage (ns), by key, of pairs that an API server covers less far
            than its clock, as of the last answer of Time. Kraken sends none.

    Raises (each call):
        ExchangeUnreachable: no valid answer within the time allowed.
        ExchangeRefused: the exchange answered with an error that retrying does not resolve.
        UnreadableAnswer, ValueDoesNotFit: the answer can't be stored exactly.
    """

    def __init__(
        self,
        settings: ExchangeSettings,
        *,
        on_wait: OnWait = lambda _what, _why: None,
        on_pace: OnPace = lambda _state: None,
        on_answer: OnAnswer | None = None,
    ) -> None:
        """Prepare the client; nothing is sent before the first call.

        Args:
            settings: the `[exchange]` section of the configuration.
            on_wait: called before every wait with the pair (or the endpoint) and the reason.
            on_pace: called whenever the rate of a pair has changed.
            on_answer: called with each answer as it was sent, and the seconds that it took.
        """
        self._settings = settings
        self._on_wait = on_wait
        self._on_pace = on_pace
        self._on_answer = on_answer
        self._limiter = RateLimiter(settings.rate, settings.retry_wait_s, settings.jobs)
        self._turn_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._call_ended = asyncio.Event()
        self._reported_rates: dict[str, float] = {}
        self._has_answered = False
        self._warned_about_column = False
        self._http = HttpClient(settings)
        self.calls = 0
        self.refusals = 0
        self.coverage_ends_ns: dict[str, int] = {}

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.close()

    def pace(self, pair: Pair) -> PaceState:
        """How fast this pair is requested at present, and how many requests were sent."""
        return self._limiter.state(pair.altname, time.monotonic())

    async def page(self, pair: Pair, since_ns: int | None) -> TradesPage:
        """Request one page of trades.

        Args:
            pair: the market.
            since_ns: the time of the first trade, UNIX nanoseconds; None for the newest page.
        """
        params = _pair_params(pair)
        if since_ns is not None:
            params["since"] = str(since_ns)
        read = partial(_read_page, pair=pair)
        page = await self._call("Trades", params, read, pair.altname)
        if page.unknown is not None and not self._warned_about_column:
            self._warned_about_column = True
            logger.warning(
                "%s: the exchange sends a column of trades that this version does not know, such "
                "as %s: it is not kept; all others are",
                pair.altname,
                page.unknown,
            )
        return page

    async def pairs(self) -> dict[str, Pair]:
        """Request all markets, of both asset classes; returned by altname.

        If the exchange refuses the request for tokenized assets, it has none.
        """
        currencies = await self._call("AssetPairs", {}, read_result)
        stocks: dict[str, msgspec.Raw] = {}
        with suppress(ExchangeRefused):
            params = {"aclass_base": TOKENIZED_ASSET}
            stocks = await self._call("AssetPairs", params, read_result)
        # A server that does not know the parameter answers with the currencies again.
        return read_pairs(currencies | stocks | currencies)

    async def daily_trade_counts(self, asset_class: str = CURRENCY) -> dict[str, int]:
        """Request each market's number of trades of the last 24 hours, by the exchange's key.

        One attempt only: it serves an order, and no download waits for it.

        Args:
            asset_class: of the markets.
        """
        params = _CLASS_PARAMS.get(asset_class, {})
        try:
            return await self._request("Ticker", params, _read_daily_counts, "")
        except Transient as error:
            raise ExchangeUnreachable(f"no trade counts: {error}") from error

    async def clock_ns(self) -> int:
        """Request the exchange's clock: UNIX nanoseconds, rounded down to the second."""
        now_s, self.coverage_ends_ns = await self._call(
            "Time",
            {},
            lambda body: (
                _read_field(body, "unixtime", int),
                _read_field(body, "coverage_ends", dict[str, int], default=b"{}"),
            ),
        )
        return now_s * SECOND

    async def status(self) -> str:
        """Request the exchange's status: online, maintenance, cancel_only or post_only."""
        read = partial(_read_field, name="status", kind=str)
        return shortened(await self._call("SystemStatus", {}, read))

    async def candles(self, pair: Pair, minutes: int) -> list[Candle]:
        """Request the exchange's own candles: its last 720, then the one still open.

        Args:
            pair: the market.
            minutes: the candles' length, one of `ohlc.INTERVALS_MIN`.
        """
        params = _pair_params(pair) | {"interval": str(minutes)}
        return await self._call(
            "OHLC", params, lambda body: read_candles(body, minutes, pair), pair.altname
        )

    async def weekly_counts(self, pair: Pair) -> list[tuple[int, int]]:
        """Request the trades per week, as (open time in ns, count): up to 720 weeks, from OHLC.

        One attempt only: the counts serve estimates, and no download waits for them.
        """
        return [(week.time_ns, week.count) for week in await self.weekly_candles(pair)]

    async def weekly_candles(self, pair: Pair) -> list[Candle]:
        """Request weekly candles in one attempt: transient failures raise ExchangeUnreachable."""
        params = _pair_params(pair) | {"interval": str(WEEK_MIN)}
        read = partial(read_candles, minutes=WEEK_MIN, pair=pair)
        try:
            return await self._request("OHLC", params, read, pair.altname)
        except (Transient, UnreadableAnswer) as error:
            raise ExchangeUnreachable(f"no weekly counts: {error}") from error

    async def body(self, endpoint: str, params: dict[str, str], pair: Pair | None = None) -> bytes:
        """Request any endpoint in one attempt, and return the body without decoding its result.

        The rate limit of the pair counts; requests without a pair have one for each endpoint.

        Args:
            endpoint: the last part of the address, such as `Trades`.
            params: the query, without the parameters that name the pair.
            pair: the market; None if the endpoint needs none.
        """
        query = params if pair is None else _pair_params(pair) | params
        try:
            return await self._request(endpoint, query, bytes, pair.altname if pair else endpoint)
        except Transient as error:
            raise ExchangeUnreachable(f"{endpoint}: no good answer: {error}") from error

    async def _call(
        self,
        endpoint: str,
        params: dict[str, str],
        read: Callable[[bytes], T],
        pair: str = "",
    ) -> T:
        """Make a request, again as long as its failures may pass; for the arguments see below."""
        once = partial(self._request, endpoint, params, read, pair)
        try:
            return await once()
        except Transient as failure:
            # stamina takes 0.08 ms a call, so it is used from the second attempt on only.
            return await self._retry(failure, once, pair or endpoint)

    async def _request(
        self, endpoint: str, params: dict[str, str], read: Callable[[bytes], T], pair: str
    ) -> T:
        """Wait until the pair may be requested, send one request, and read its answer.

        Args:
            endpoint: the last part of the address.
            params: the query.
            read: decodes the body of an answer without an error.
            pair: altname; empty for a request that belongs to no pair: it is not limited.
        """
        started_s = await self._wait_for_turn(pair) if pair else 0.0
        self.calls += 1
        path = f"/0/public/{endpoint}"
        sent_s = time.monotonic()
        try:
            answer = await self._http.get(f"{path}?{urlencode(params)}" if params else path)
            if self._on_answer is not None:
                self._on_answer(answer, time.monotonic() - sent_s)
            body = decompress(answer.body, answer.codings, answer.status)
            if answer.status != 200:
                check_status(answer.status, f"{self._settings.shown_url}{path}", body)
            check_errors(body, pair or endpoint)
        except Transient as transient:
            if pair and transient.is_refusal:
                self.refusals += 1
                limiter = self._limiter
                record = (
                    limiter.record_throttling if transient.is_throttled else limiter.record_refusal
                )
                record(pair, started_s, time.monotonic(), transient.reason, transient.wait_s)
            raise
        else:
            if pair:
                self._limiter.record_success(pair, started_s)
        finally:
            if pair:
                self._limiter.record_end(pair)
                self._call_ended.set()
                self._call_ended.clear()
                self._report_pace(pair)
        result = read(body)
        self._has_answered = True
        return result

    async def _retry(self, failure: Transient, once: Callable[[], Awaitable[T]], what: str) -> T:
        """Repeat a failed call until it succeeds or the time allowed is over."""
        failures = [failure]
        try:
            async for attempt in self._attempts(what):
                with attempt:
                    if failures:
                        raise failures.pop()
                    return await once()
        except Transient as transient:
            raise ExchangeUnreachable(
                f"{what}: {self._settings.shown_url} gave no good answer for "
                f"{self._give_up_s:g} s (at last: {transient.reason}); nothing that is stored is "
                "lost, run the same command again"
            ) from transient
        raise AssertionError("unreachable: attempts are unlimited")  # pragma: no cover

    @property
    def _give_up_s(self) -> float:
        give_up_s: float = self._settings.give_up_s
        return give_up_s if self._has_answered else min(give_up_s, NEVER_ANSWERED_GIVE_UP_S)

    def _attempts(self, what: str) -> Any:  # noqa: ANN401 - the type is private to stamina
        wait_s = self._settings.retry_wait_s
        first_failure_s: float | None = None

        def wait_or_stop(error: Exception) -> bool | float:
            nonlocal first_failure_s
            first_failure_s = first_failure_s or time.monotonic()
            # The limit is read each time: the first valid answer of any call raises it.
            if not isinstance(error, Transient) or (
                time.monotonic() - first_failure_s >= self._give_up_s
            ):
                return False
            self._on_wait(what, error.reason)
            if error.is_refusal and what in self._turn_locks:
                # The rate limiter delays all calls of the pair, not only this one.
                return 0.0
            self.refusals += error.is_refusal
            return True if error.wait_s is None else error.wait_s

        return stamina.retry_context(
            on=wait_or_stop,
            attempts=None,
            timeout=None,
            wait_initial=wait_s,
            wait_max=max(wait_s, LONGEST_WAIT_S),
            wait_jitter=wait_s / 4,
        )

    async def _wait_for_turn(self, pair: str) -> float:
        """Wait until the next request of this pair may be sent; returns the time of that moment."""
        # One caller at a time, so that a refusal that arrives meanwhile delays all that wait.
        async with self._turn_locks[pair]:
            while True:
                now_s = time.monotonic()
                if (delay_s := self._limiter.delay_s(pair, now_s)) > 0:
                    await asyncio.sleep(delay_s)
                elif self._limiter.is_full:
                    await self._call_ended.wait()
                else:
                    self._limiter.record_start(pair, now_s)
                    return now_s

    def _report_pace(self, pair: str) -> None:
        """Report a pair's rate if it has changed by a tenth, or has reached the set rate."""
        state = self._limiter.state(pair, time.monotonic())
        reported = self._reported_rates.setdefault(pair, state.set_rate)
        if state.rate == reported or (state.is_slowed and 0.9 < state.rate / reported < 1.1):
            return
        self._reported_rates[pair] = state.rate
        self._on_pace(state)


_CLASS_PARAMS = {TOKENIZED_ASSET: {"asset_class": TOKENIZED_ASSET}}
"""The query parameters that name an asset class; currencies, the default, have none."""


def _pair_params(pair: Pair) -> dict[str, str]:
    """The query parameters that name a pair."""
    return {"pair": pair.key or pair.altname} | _CLASS_PARAMS.get(pair.aclass_base, {})


def _read_page(body: bytes, pair: Pair) -> TradesPage:
    try:
        page = decode_page(body)
    except BAD_JSON as error:
        raise Transient(f"the body is not a complete answer ({error})") from error
    check_market(pair, page.market)
    return page


class _TickerRow(msgspec.Struct):
    t: tuple[int, int]
    """Trades today and of the last 24 hours."""


def _read_daily_counts(body: bytes) -> dict[str, int]:
    counts = {}
    for market, row in read_result(body).items():
        with suppress(*BAD_JSON):
            counts[market] = msgspec.json.decode(row, type=_TickerRow).t[1]
    return counts


def _read_field(body: bytes, name: str, kind: type[T], default: bytes = b"") -> T:
    """A field of a result; `default` is its JSON where there is none."""
    try:
        return msgspec.json.decode(read_result(body).get(name, default), type=kind)
    except BAD_JSON as error:
        raise Transient(f"the answer has no {name} that can be read ({error})") from error
