"""The client of Kraken's public API: pooled, paced, patient, and never fooled by half an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import httpx
import msgspec
import stamina

from harvester.config import ExchangeSettings
from harvester.errors import BAD_JSON, BadSetting, ExchangeUnreachable, UnreadableAnswer
from harvester.escaping import shortened
from harvester.kraken.decode import (
    Transient,
    check_errors,
    check_status,
    read_raw,
    read_result,
    unpacked,
)
from harvester.kraken.http import http_client
from harvester.kraken.ohlc import WEEK_MIN, Candle, read_candles
from harvester.kraken.pairs import Pair, check_market, read_pairs
from harvester.kraken.rate_limit import LONGEST_WAIT_S, SPANS_A_PAIR, Paces, PaceState
from harvester.kraken.trades import TradesPage, decode_page
from harvester.times import SECOND

logger = logging.getLogger("harvester.kraken")
# stamina reports each retry to the log; `on_wait` tells ours.
logging.getLogger("stamina").addHandler(logging.NullHandler())

NEVER_ANSWERED_GIVE_UP_S = 15.0

T = TypeVar("T")
Waiting = Callable[[str, str], None]
"""Told of every wait: the pair (or the endpoint), and why."""

Pacing = Callable[[PaceState], None]
"""Told how a pair is asked whenever its rate has changed."""


class Client:
    """Kraken's public endpoints, for use as an async context manager.

    Every call is asked again, with growing waits, for as long as what went wrong is transient
    and a good answer came within `give_up_s`.

    Raises (each call):
        ExchangeUnreachable: no good answer within the time allowed.
        ExchangeRefused: the exchange answered with an error that waiting does not mend.
        UnreadableAnswer, ValueDoesNotFit: the answer can't be kept exactly.
    """

    def __init__(
        self,
        settings: ExchangeSettings,
        *,
        on_wait: Waiting = lambda _what, _why: None,
        on_pace: Pacing = lambda _state: None,
    ) -> None:
        """Nothing is sent before the first call."""
        self._settings = settings
        self._on_wait = on_wait
        self._on_pace = on_pace
        in_flight = SPANS_A_PAIR * settings.jobs
        self._paces = Paces(settings.rate, settings.retry_wait_s, in_flight)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._landed = asyncio.Event()
        self._told_rates: dict[str, float] = {}
        self._answered = False
        self._warned_of_column = False
        self._http = http_client(settings)
        self.calls = 0
        self.refusals = 0

    async def __aenter__(self) -> Self:
        """Open the pool."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pool."""
        await self._http.aclose()

    def slowed(self, pair: Pair) -> bool:
        """Whether refusals keep this pair under its set rate at present."""
        return self.pace(pair).slowed

    def pace(self, pair: Pair) -> PaceState:
        """How a pair is asked at present, and how often it was."""
        return self._paces.state(pair.altname, time.monotonic())

    def starved(self, pair: Pair) -> bool:
        """Whether answers take longer than the pace: one call after another can't keep it then."""
        return self._paces.of(pair.altname).starved

    async def page(self, pair: Pair, since_ns: int | None) -> TradesPage:
        """One page of trades: those from `since_ns` on, or the newest when it is None."""
        params = _of(pair)
        if since_ns is not None:
            params["since"] = str(since_ns)
        read = partial(_read_page, pair=pair)
        page = await self._ask("Trades", params, read, pair.altname)
        if page.unknown is not None and not self._warned_of_column:
            self._warned_of_column = True
            logger.warning(
                "%s: the exchange sends a column of trades that this version does not know, such "
                "as %s: it is not kept; all others are",
                pair.altname,
                page.unknown,
            )
        return page

    async def pairs(self) -> dict[str, Pair]:
        """All markets, by altname."""
        return await self._ask("AssetPairs", {}, lambda body: read_pairs(read_result(body)))

    async def clock_ns(self) -> int:
        """The exchange's clock, in nanoseconds, to the second below."""
        return await self._ask("Time", {}, _read_clock)

    async def status(self) -> str:
        """What the exchange says of itself: online, maintenance, cancel_only or post_only."""
        return await self._ask("SystemStatus", {}, _read_status)

    async def candles(self, pair: Pair, minutes: int) -> list[Candle]:
        """The exchange's own candles: its last 720, and behind them the one that is running."""
        params = _of(pair) | {"interval": str(minutes)}
        return await self._ask(
            "OHLC", params, lambda body: read_candles(body, minutes, pair), pair.altname
        )

    async def weekly_counts(self, pair: Pair) -> list[tuple[int, int]]:
        """Trades a week, as (open time in ns, count): up to 720 weeks, from OHLC.

        One try only: it serves estimates, and no crawl waits for it.
        """
        return [(week.time_ns, week.count) for week in await self.weeks(pair)]

    async def weeks(self, pair: Pair) -> list[Candle]:
        """Weekly candles, from one try only: what fails in passing is ExchangeUnreachable."""
        params = _of(pair) | {"interval": str(WEEK_MIN)}
        try:
            async with self._flight(pair.altname):
                body = await self._get("OHLC", params, pair.altname)
            return read_candles(body, WEEK_MIN, pair)
        except (Transient, UnreadableAnswer) as error:
            raise ExchangeUnreachable(f"no weekly counts: {error}") from error

    async def _ask(
        self,
        endpoint: str,
        params: dict[str, str],
        read: Callable[[bytes], T],
        pair: str = "",
    ) -> T:
        async def once() -> T:
            async with self._flight(pair):
                body = await self._get(endpoint, params, pair)
            answer = read(body)
            self._answered = True
            return answer

        try:
            return await once()
        except Transient as failure:
            # Only now stamina, which takes 0.08 ms a call: most calls need no second one.
            return await self._again(failure, once, pair or endpoint)

    async def _again(self, failure: Transient, once: Callable[[], Awaitable[T]], what: str) -> T:
        """Make a call that has failed again, until it comes off or patience ends."""
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
                f"{self._patience_s:g} s (at last: {transient.reason}); the same command goes on "
                "where it stopped"
            ) from transient
        raise AssertionError("unreachable: attempts are unlimited")  # pragma: no cover

    @property
    def _patience_s(self) -> float:
        patience: float = self._settings.give_up_s
        return patience if self._answered else min(patience, NEVER_ANSWERED_GIVE_UP_S)

    def _attempts(self, what: str) -> Any:  # noqa: ANN401 - stamina keeps the type to itself
        wait_s = self._settings.retry_wait_s
        failing_s: float | None = None

        def judge(error: Exception) -> bool | float:
            nonlocal failing_s
            failing_s = failing_s or time.monotonic()
            # A good answer of another pair counts too, so patience is looked up each time.
            if not isinstance(error, Transient) or (
                time.monotonic() - failing_s >= self._patience_s
            ):
                return False
            self._on_wait(what, error.reason)
            if error.refusal and what in self._turns:
                # Its pace holds all calls of the pair back, not only this one.
                return 0.0
            self.refusals += error.refusal
            return True if error.wait_s is None else error.wait_s

        return stamina.retry_context(
            on=judge,
            attempts=None,
            timeout=None,
            wait_initial=wait_s,
            wait_max=max(wait_s, LONGEST_WAIT_S),
            wait_jitter=wait_s / 4,
        )

    @asynccontextmanager
    async def _flight(self, pair: str) -> AsyncIterator[None]:
        """Wait for the pair's turn; the call that is then made tells its pace how it went.

        Calls that belong to no pair are not paced.
        """
        if not pair:
            yield
            return
        started_s = await self._turn(pair)
        try:
            yield
        except Transient as transient:
            if transient.refusal:
                self.refusals += 1
                now_s = time.monotonic()
                note = self._paces.throttled if transient.throttled else self._paces.refused
                note(pair, started_s, now_s, transient.reason, transient.wait_s)
            raise
        else:
            self._paces.passed(pair, started_s, time.monotonic())
        finally:
            self._paces.end(pair, started_s, time.monotonic())
            self._landed.set()
            self._landed.clear()
            self._tell_pace(pair)

    async def _turn(self, pair: str) -> float:
        """Wait until this pair may be asked; returns when that was."""
        # One at a time, so that a refusal that comes meanwhile holds back all who wait.
        async with self._turns[pair]:
            while True:
                now_s = time.monotonic()
                if (delay_s := self._paces.delay_s(pair, now_s)) > 0:
                    await asyncio.sleep(delay_s)
                elif self._paces.full:
                    await self._landed.wait()
                else:
                    self._paces.start(pair, now_s)
                    return now_s

    def _tell_pace(self, pair: str) -> None:
        state = self._paces.state(pair, time.monotonic())
        if state.rate != self._told_rates.setdefault(pair, state.set_rate):
            self._told_rates[pair] = state.rate
            self._on_pace(state)

    async def _get(self, endpoint: str, params: dict[str, str], what: str) -> bytes:
        """One request, its answer judged; foreign errors become ours here and nowhere else."""
        self.calls += 1
        path = f"/0/public/{endpoint}"
        try:
            # Put together here, as httpx would take the address apart three times for each page.
            asked = f"{path}?{urlencode(params)}" if params else path
            url = httpx.URL(self._settings.url.rstrip("/") + asked)
            # httpx times each read alone: a body that dribbles would never end.
            async with (
                asyncio.timeout(self._settings.timeout_s),
                self._http.stream("GET", url) as response,
            ):
                raw = await read_raw(response)
        except TimeoutError as error:
            raise Transient(f"no answer within {self._settings.timeout_s:g} s") from error
        except httpx.UnsupportedProtocol as error:
            raise BadSetting(
                f"[exchange] url {self._settings.shown_url!r} is no address: {error}"
            ) from error
        except httpx.TransportError as error:
            raise Transient(str(error) or type(error).__name__) from error
        body = unpacked(raw, response)
        check_status(response.status_code, f"{self._settings.shown_url}{path}", body)
        check_errors(body, what or endpoint)
        return body


def _of(pair: Pair) -> dict[str, str]:
    """The parameters that name a pair."""
    params = {"pair": pair.key or pair.altname}
    if pair.aclass_base == "tokenized_asset":
        params["asset_class"] = "tokenized_asset"
    return params


def _read_page(body: bytes, pair: Pair) -> TradesPage:
    try:
        page = decode_page(body)
    except BAD_JSON as error:
        raise Transient(f"the body is no whole answer ({error})") from error
    check_market(pair, page.market)
    return page


def _read_clock(body: bytes) -> int:
    try:
        return msgspec.json.decode(read_result(body)["unixtime"], type=int) * SECOND
    except (KeyError, *BAD_JSON) as error:
        raise Transient(f"the clock can't be read ({error})") from error


def _read_status(body: bytes) -> str:
    try:
        return shortened(msgspec.json.decode(read_result(body)["status"], type=str))
    except (KeyError, *BAD_JSON) as error:
        raise Transient(f"the exchange's status can't be read ({error})") from error
