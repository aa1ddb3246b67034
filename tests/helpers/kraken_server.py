"""A test exchange with Kraken's public API, on loopback sockets, by the standard library alone.

It keeps the truth (nanosecond stamps, order, digits) to itself and shows of it what the exchange
shows: times rounded to a float64, a cursor, pages. `expected()` gives the rows that must be stored.
Faults are plain programs at the socket, so clients are tried as they are, with nothing patched.

As a process of its own: `python tests/helpers/kraken_server.py --trades 300000`; see `--help`.
"""

from __future__ import annotations

import argparse
import gzip as gzip_library
import json
import random
import re
import signal
import sys
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, islice
from types import FrameType, TracebackType
from typing import Any, Self

from kraken_faults import DELIVERIES, REFUSALS, Bucket, Fault, Faults
from kraken_market import EXACT, SECOND_NS, HasNow, Market, Trade, WallClock, named, spellings
from kraken_socket import TITLES, Call, Reply, _html, _Server

PAGE_SIZE = 1000


CANDLES = 720


DAY_NS = 86_400 * SECOND_NS


INTERVALS_MIN = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)


# Below this a `since` is read as seconds: a trade id handed in by mistake means 1970.
SECONDS_BELOW = 10**11


# Seen 2021-03-25 on XBTUSD: since=1616666442.304882029 began with a row 9.7 ms older.
FRACTION_SLIP_NS = 10_000_000


STOCK_AGENT = re.compile(
    r"python-httpx|python-requests|python-urllib|python/|curl|aiohttp|wget|go-http-client|okhttp",
    re.IGNORECASE,
)


class Refused(Exception):
    """The call is answered with an entry in `error`, or with an HTTP status."""

    def __init__(self, label: str, reply: Reply) -> None:
        """Keep what the log is to say and what the client is to see."""
        super().__init__(label)
        self.label = label
        self.reply = reply


def _dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _error(label: str, entry: str | None = None) -> Refused:
    return Refused(label, Reply(_dumps({"error": [entry or REFUSALS[label]]})))


class Shelf:
    """A market made ready to be served: each row's JSON rendered once, in one piece of memory."""

    def __init__(self, market: Market, like: Shelf | None = None) -> None:
        """Render the market, or share what is rendered of one with the very same trades."""
        self.market = market
        if like is None:
            self.stamps = array("q", (trade.true_ns for trade in market.trades))
            rows = [self._render(place) for place in range(len(market.trades))]
            self.offsets = array("q", accumulate(map(len, rows), initial=0))
            self.blob = b"".join(rows)
        else:
            self.stamps, self.offsets, self.blob = like.stamps, like.offsets, like.blob
        self.candles: dict[tuple[int, int, int], bytes] = {}
        self.previous_start: int | None = None
        self.previous_last: str | None = None

    def _render(self, place: int) -> bytes:
        trade = self.market.trades[place]
        number = "" if trade.trade_id is None else f",{trade.trade_id}"
        misc = json.dumps(trade.misc)
        return (
            f'["{trade.price}","{trade.volume}",{self.market.literal(place)},'
            f'"{trade.side}","{trade.order_type}",{misc}{number}],'
        ).encode()

    def rows(self, start: int, stop: int) -> bytes:
        """Give neighbouring rows as JSON, without the brackets around them."""
        return self.blob[self.offsets[start] : max(self.offsets[stop] - 1, self.offsets[start])]

    def picked(self, places: Iterable[int]) -> bytes:
        """Give any rows in any order as JSON."""
        return b",".join(self.rows(place, place + 1) for place in places)

    def has_id(self, place: int) -> bool:
        """Return whether the exchange numbers this row."""
        return bool(self.market.trades[place].trade_id)


@dataclass
class Page:
    """A page in the making: places of rows in the history, and the cursor.

    `later`: the place of a row whose time is printed later, and by how many seconds.
    `has_ids`: whether rows are printed with their ids.
    """

    places: Sequence[int]
    last: str | None
    start: int
    later: tuple[int, int] | None = None
    has_ids: bool = True


def shuffled(shelf: Shelf, places: Sequence[int], source: random.Random) -> list[int]:
    """Mix rows, but keep those of one printed time in order where ids do not show it.

    Nobody could put such rows back, so no test may ask for it.
    """
    mixed = list(places)
    source.shuffle(mixed)
    groups: dict[str, list[int]] = {}
    for position, place in enumerate(mixed):
        groups.setdefault(shelf.market.literal(place), []).append(position)
    for positions in groups.values():
        members = [mixed[position] for position in positions]
        if not all(shelf.has_id(place) for place in members):
            for position, place in zip(positions, sorted(members), strict=True):
                mixed[position] = place
    return mixed


def skippable(shelf: Shelf, places: Sequence[int]) -> list[int]:
    """Give the rows whose absence their neighbours' ids betray, so neither first nor last."""
    inner = places[1:-1]
    return [p for p in inner if all(shelf.has_id(place) for place in (p - 1, p, p + 1))]


def _money(value: Decimal, decimals: int) -> str:
    """Print with the pair's decimals, or with more where the price has more."""
    short = value.quantize(Decimal(1).scaleb(-decimals))
    return f"{short if short == value else value.normalize(EXACT):f}"


@lru_cache(maxsize=1000)
def _empty(price: str, decimals: int) -> tuple[object, ...]:
    """Make the values of an interval without trades: the price before it, and a vwap of zero."""
    shown = _money(Decimal(price), decimals)
    return (*[shown] * 4, f"{Decimal(0):.{decimals}f}", "0.00000000", 0)


def _candle(trades: Sequence[Trade], opens_s: int, decimals: int) -> list[object]:
    """Make the OHLC row of some trades."""
    prices = [Decimal(trade.price) for trade in trades]
    value, volume = Decimal(0), Decimal(0)
    for trade in trades:
        size = Decimal(trade.volume)
        value = EXACT.add(value, EXACT.multiply(Decimal(trade.price), size))
        volume = EXACT.add(volume, size)
    mean = Fraction(value) / Fraction(volume) if volume else Fraction(0)
    vwap = Decimal(int(mean * 10**decimals)).scaleb(-decimals)  # cut off, not rounded
    shown = [_money(p, decimals) for p in (prices[0], max(prices), min(prices), prices[-1])]
    return [opens_s, *shown, f"{vwap:.{decimals}f}", f"{volume:.8f}", len(trades)]


def ohlc_rows(shelf: Shelf, minutes: int, now_ns: int) -> list[list[object]]:
    """Make the last 720 closed candles and the running one, by true stamps."""
    step = minutes * 60 * SECOND_NS
    seen = bisect_right(shelf.stamps, now_ns)
    if not seen:
        return []
    first = max(shelf.stamps[0] // step, now_ns // step - CANDLES)
    rows: list[list[object]] = []
    start = bisect_left(shelf.stamps, first * step, 0, seen)
    for bucket in range(first, now_ns // step + 1):
        stop = bisect_left(shelf.stamps, (bucket + 1) * step, start, seen)
        opens_s, decimals = bucket * step // SECOND_NS, shelf.market.pair_decimals
        if trades := shelf.market.trades[start:stop]:
            rows.append(_candle(trades, opens_s, decimals))
        else:
            before = shelf.market.trades[max(start - 1, 0)]
            rows.append([opens_s, *_empty(before.price, decimals)])
        start = stop
    return rows


class Exchange:
    """Kraken's public endpoints on 127.0.0.1; a context manager with an address in `url`.

    since_mode: "inclusive" or "exclusive". page_size: the most rows of a page. clock: anything
    with `now_ns`. limit: calls a second and pair of Trades and OHLC; limit_total: of all calls.
    `limit`, `limit_total`, `latency_s`, `faults`, `since_mode`, `status` and
    `unlisted` (altnames that AssetPairs leaves out) may change meanwhile, as may `odd_pairs`:
    rows of AssetPairs by key, in the place of the true ones or beside them. Tokenized stocks are
    listed and answered only if the call names their class. `classes`: "known" as today; "ignored",
    as by a server that does not know the parameters; "refused".
    """

    def __init__(
        self,
        markets: Iterable[Market] = (),
        *,
        since_mode: str = "inclusive",
        page_size: int = PAGE_SIZE,
        clock: HasNow | None = None,
        latency_s: float = 0.0,
        gzip: bool = True,
        cache_gzip: bool = False,
        limit: float | None = None,
        limit_total: float | None = None,
        burst: float = 2.0,
        faults: Faults | None = None,
        check_agent: bool = True,
        port: int = 0,
    ) -> None:
        """Render the markets; nothing listens yet."""
        self.since_mode = since_mode
        self.page_size = page_size
        self.clock: HasNow = clock or WallClock()
        self.latency_s = latency_s
        self.gzip = gzip
        self.cache_gzip = cache_gzip
        self.limit = limit
        self.limit_total = limit_total
        self.burst = burst
        self.faults = faults or Faults()
        self.check_agent = check_agent
        self.port = port
        self.status = "online"
        self.unlisted: set[str] = set()
        self.odd_pairs: dict[str, object] = {}
        self.classes = "known"
        self.calls: list[Call] = []
        self.connections = 0
        self._pages: Counter[str] = Counter()
        self._shelves: dict[str, Shelf] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._buckets: dict[str, Bucket] = {}
        self._zipped: dict[bytes, bytes] = {}
        self._server = _Server(self)
        for market in markets:
            self.add(market)

    @property
    def url(self) -> str:
        """The address, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Listen; the port stays the same over stops and starts."""
        self.port = self._server.start(self.port)
        return self

    def stop(self) -> None:
        """Stop listening and cut every connection, those that hang included."""
        self._server.stop()

    def __enter__(self) -> Self:
        """Listen."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self.stop()

    def add(self, market: Market) -> None:
        """List a market, or put another in the place of one of the same altname."""
        alike = (shelve for shelve in self._shelves.values() if shelve.market.shows_as(market))
        self._shelves[market.altname] = Shelf(market, next(alike, None))
        for name in spellings(market):
            self._names.setdefault((market.aclass_base, name), market.altname)

    def extend(self, altname: str, trades: Iterable[Trade]) -> None:
        """Let trades happen."""
        market = self._shelves[altname].market
        self.add(replace(market, trades=[*market.trades, *trades]))

    def delist(self, altname: str) -> None:
        """Take a pair off: from now on nobody knows it."""
        del self._shelves[altname]
        self._names = {name: known for name, known in self._names.items() if known != altname}

    def change(self, name: str, /, **fields: Any) -> None:
        """Let a pair have another altname, status or the like; its trades stay."""
        market = self._shelves[name].market
        self.delist(name)
        self.add(replace(market, **fields))

    def _meant(self, name: str, of_class: str = "currency") -> str | None:
        """Give the altname of a pair that is asked for: by its exact spelling, else in any case."""
        return self._names.get((of_class, name), self._names.get((of_class, name.upper())))

    def pages(self, pair: str | None = None) -> int:
        """Count the Trades pages answered, of one pair or of all."""
        if pair is None:
            return self._pages.total()
        return self._pages[pair if pair in self._shelves else self._meant(pair) or pair]

    def zipped(self, body: bytes) -> bytes:
        """Compress as lightly as can be; benchmarks of clients may have it done once a body."""
        if not self.cache_gzip:
            return gzip_library.compress(body, 1)
        if body not in self._zipped:
            self._zipped[body] = gzip_library.compress(body, 1)
        return self._zipped[body]

    # One call: limits, then faults, then the endpoint.

    def answer(self, path: str, params: dict[str, str], agent: str | None) -> Reply:
        """Answer one call and write it down."""
        name = path.rpartition("/")[2]
        pair = self._meant(params.get("pair", ""), self._class(params))
        try:
            self._admit(path, agent)
            self._limit(name, pair)
            faults, scripted = self.faults.draw(name, pair or "")
            self._refuse(faults)
            reply, rows, done = self._endpoint(name, params, faults, scripted=scripted)
        except Refused as refused:
            self._note(path, params, refused.label, pair, 0)
            return refused.reply
        self._note(path, params, "+".join(("ok", *done)), pair, rows)
        if name == "Trades" and pair is not None:
            self._pages[pair] += 1
        return reply

    def _note(
        self, path: str, params: dict[str, str], outcome: str, pair: str | None, rows: int
    ) -> None:
        for label in outcome.split("+"):
            self.faults.done[label] += 1
        self.calls.append(Call(time.monotonic(), path, params, outcome, pair, rows))

    def _admit(self, path: str, agent: str | None) -> None:
        if self.check_agent and (not agent or STOCK_AGENT.match(agent)):
            raise Refused(label="403", reply=_html(403, TITLES[403]))
        if path not in ENDPOINTS:
            raise Refused(label="404", reply=_html(404, TITLES[404]))

    def _limit(self, name: str, pair: str | None) -> None:
        limits = [("", self.limit_total)]
        if pair is not None and name in {"Trades", "OHLC"}:
            limits.append((pair, self.limit))
        for key, rate in limits:
            bucket = self._buckets.setdefault(key, Bucket(burst=self.burst, tokens=self.burst))
            if rate is not None and not bucket.take(rate, time.monotonic()):
                raise _error(label="limited", entry=REFUSALS["rate_limit"])

    def _refuse(self, faults: tuple[Fault, ...]) -> None:
        for fault in faults:
            if fault.kind == "throttled":
                wait_s = self.faults.throttle_s if fault.amount is None else fault.amount
                raise _error(
                    label="throttled", entry=f"{REFUSALS['throttled']}{int(time.time() + wait_s)}"
                )
            if fault.kind in REFUSALS:
                raise _error(fault.kind)
            if fault.kind == "http":
                raise Refused(label=f"http:{int(fault.amount or 503)}", reply=self._http(fault))
            if fault.kind in {"reset", "close", "hang"}:
                raise Refused(fault.kind, Reply(b"", delivery=self._timed(fault)))

    def _http(self, fault: Fault) -> Reply:
        status = int(fault.amount or 503)
        after = self.faults.retry_after_s
        return _html(
            status,
            TITLES.get(status, "Unknown error"),
            f"Retry-After: {after}\r\n" if status == 429 and after is not None else "",
        )

    def _timed(self, fault: Fault) -> Fault:
        default = {"hang": self.faults.hang_s, "dribble": self.faults.dribble_s}
        return fault if fault.amount is not None else replace(fault, amount=default.get(fault.kind))

    def _endpoint(
        self, name: str, params: dict[str, str], faults: tuple[Fault, ...], *, scripted: bool
    ) -> tuple[Reply, int, list[str]]:
        if name == "Trades":
            body, rows, done = self._trades(params, faults, scripted=scripted)
        else:
            rows, done = 0, []
            body = {
                "OHLC": self._ohlc,
                "AssetPairs": self._asset_pairs,
                "Assets": self._assets,
                "Ticker": self._ticker,
                "Time": self._time,
                "SystemStatus": self._system_status,
            }[name](params)
        return self._spoil(Reply(body), faults, done), rows, done

    def _spoil(self, reply: Reply, faults: tuple[Fault, ...], done: list[str]) -> Reply:
        """Do to a good answer what the faults of body and delivery say."""
        for fault in faults:
            if fault.kind == "warning":
                warned = reply.body.replace(b'"error":[]', b'"error":["WSomething: odd"]', 1)
                reply = replace(reply, body=warned)
            elif fault.kind == "bad_json":
                reply = replace(reply, body=reply.body[: len(reply.body) // 2])
            elif fault.kind == "not_json":
                reply = replace(reply, body=b"<html><body>One moment, please</body></html>")
            elif fault.kind == "big":
                size = int(fault.amount or self.faults.big_bytes)
                reply = replace(reply, body=reply.body.ljust(size))
            elif fault.kind in DELIVERIES:
                reply = replace(reply, delivery=self._timed(fault))
            else:
                continue
            done.append(fault.kind)
        return reply

    # The endpoints.

    def _class(self, params: Mapping[str, str]) -> str:
        """Give the asset class that a call is for; AssetPairs names it by another parameter."""
        named = params.get("asset_class", params.get("aclass_base", "currency"))
        return "currency" if self.classes == "ignored" else named

    def _of_class(self, params: Mapping[str, str]) -> list[Shelf]:
        wanted = self._class(params)
        if wanted not in {"currency", "tokenized_asset"} or (
            self.classes == "refused" and wanted != "currency"
        ):
            raise _error(label="invalid")
        return [s for s in self._shelves.values() if s.market.aclass_base == wanted]

    def _shelf(self, params: Mapping[str, str]) -> Shelf:
        if not params.get("pair"):
            raise _error(label="invalid")
        altname = self._meant(params["pair"], self._class(params))
        if altname is None:
            raise _error(label="unknown_pair")
        return self._shelves[altname]

    def _trades(
        self, params: Mapping[str, str], faults: tuple[Fault, ...], *, scripted: bool
    ) -> tuple[bytes, int, list[str]]:
        shelf = self._shelf(params)
        size = min(self._count(params), self.page_size)
        end = bisect_right(shelf.stamps, self.clock.now_ns)
        start = max(end - size, 0)
        if "since" in params:
            start = min(self._first(shelf, params["since"]), end)
        page = Page(range(start, min(start + size, end)), None, start)
        if not scripted and "since" not in params:
            # By chance the newest page stays whole: it is what a client asks to be sure.
            whole = {"empty", "older", "stale", "later", "first_rows", "last_rows"}
            faults = tuple(f for f in faults if f.kind not in whole)
        done: list[str] = []
        if faults or shelf.market.altname in self.faults.hide:
            done = self._alter_rows(shelf, page, faults, (size, end), scripted=scripted)
        page.last = str(shelf.stamps[max(page.places)]) if page.places else params.get("since", "0")
        if faults:
            done += self._alter_last(shelf, page, faults, params)
        shelf.previous_start, shelf.previous_last = start, page.last
        return _trades_body(shelf, page), len(page.places), done

    def _count(self, params: Mapping[str, str]) -> int:
        count = params.get("count", str(PAGE_SIZE))
        if not count.isdecimal() or not 1 <= int(count) <= PAGE_SIZE:
            raise _error(label="invalid")
        return int(count)

    def _first(self, shelf: Shelf, since: str) -> int:
        """Find the first row that `since` lets through."""
        if not re.fullmatch(r"\d+(\.\d+)?", since):
            raise _error(label="invalid")
        if "." in since:
            stamp = int(Decimal(since) * SECOND_NS) - FRACTION_SLIP_NS
        else:
            stamp = int(since) * (SECOND_NS if int(since) < SECONDS_BELOW else 1)
        search = bisect_left if self.since_mode == "inclusive" else bisect_right
        # Nothing traded at 0, and no stamp is wider than 63 bits.
        return search(shelf.stamps, min(stamp, 2**63 - 1))

    def _alter_rows(
        self,
        shelf: Shelf,
        page: Page,
        faults: tuple[Fault, ...],
        bounds: tuple[int, int],
        *,
        scripted: bool,
    ) -> list[str]:
        """Let the faults of rows loose on a page; give the kinds that did something."""
        size, end = bounds
        acts: dict[str, Callable[[Fault], None]] = {
            "older": lambda fault: self._step_back(shelf, page, fault, size, end),
            "stale": lambda fault: self._step_back(shelf, page, fault, size, end),
            "later": lambda fault: self._step_on(shelf, page, fault, size, end),
            "newest": lambda _: self._show_newest(page, size, end),
            # Before rows are mixed: else any rows would be left out, not those at an end.
            "first_rows": lambda fault: self._cut(shelf, page, fault, first=True),
            "last_rows": lambda fault: self._cut(shelf, page, fault, first=False),
            "empty": lambda _: self._empty(shelf, page, scripted=scripted),
            "skip": lambda fault: self._skip(shelf, page, fault),
            "repeat": lambda fault: self._repeat(shelf, page, fault, size),
            "shuffle": lambda _: self._shuffle(shelf, page),
            "late_row": lambda fault: self._print_later(shelf, page, fault),
            "no_ids": lambda _: setattr(page, "has_ids", False),
        }
        done = []
        for kind, act in acts.items():
            for fault in (fault for fault in faults if fault.kind == kind):
                before = replace(page, places=list(page.places))
                act(fault)
                if before != replace(page, places=list(page.places)):
                    done.append(kind)
            if kind == "stale" and page.places and shelf.market.altname in self.faults.hide:
                self._hide(shelf, page, size, end)
        return done

    def _empty(self, shelf: Shelf, page: Page, *, scripted: bool) -> None:
        if scripted or self.faults.spend("empty", shelf.market.altname, page.start):
            page.places = ()

    def _shuffle(self, shelf: Shelf, page: Page) -> None:
        page.places = shuffled(shelf, page.places, self.faults.random(shelf.market.altname))

    def _step_back(self, shelf: Shelf, page: Page, fault: Fault, size: int, end: int) -> None:
        """Answer as if `since` were earlier: by some rows, or as the call before had it."""
        source = self.faults.random(shelf.market.altname)
        most = max(size // 2, 1) if fault.kind == "older" else size
        rows = source.randint(1, most) if fault.amount is None else int(fault.amount)
        before = shelf.previous_start
        start = max(page.start - rows, 0)
        if fault.kind == "stale" and before is not None and before < page.start:
            start = before
        page.start, page.places = start, range(start, min(start + size, end))

    def _cut(self, shelf: Shelf, page: Page, fault: Fault, *, first: bool) -> None:
        """Leave rows out at the beginning or at the end of a page."""
        source = self.faults.random(shelf.market.altname)
        rows = int(fault.amount or source.randint(1, max(1, len(page.places))))
        page.places = (
            page.places[rows:] if first else page.places[: max(0, len(page.places) - rows)]
        )

    def _step_on(self, shelf: Shelf, page: Page, fault: Fault, size: int, end: int) -> None:
        """Answer as if `since` were later by some rows."""
        source = self.faults.random(shelf.market.altname)
        rows = int(fault.amount or source.randint(1, max(1, end)))
        page.start = min(page.start + rows, end)
        page.places = range(page.start, min(page.start + size, end))

    def _show_newest(self, page: Page, size: int, end: int) -> None:
        page.start = max(end - size, 0)
        page.places = range(page.start, end)

    def _print_later(self, shelf: Shelf, page: Page, fault: Fault) -> None:
        if page.places:
            place = self.faults.random(shelf.market.altname).choice(page.places)
            page.places, page.later = list(page.places), (place, int(fault.amount or 6_000))

    def _skip(self, shelf: Shelf, page: Page, fault: Fault) -> None:
        """Leave neighbouring rows out of the middle, each at most `times` times."""
        candidates = skippable(shelf, page.places)
        if not candidates:
            return
        pair, known = shelf.market.altname, set(candidates)
        source = self.faults.random(pair)
        first = source.choice(candidates)
        span = range(first, first + int(fault.amount or source.randint(1, 5)))
        gone = {p for p in span if p in known and self.faults.spend("skip", pair, p)}
        page.places = [place for place in page.places if place not in gone]

    def _repeat(self, shelf: Shelf, page: Page, fault: Fault, size: int) -> None:
        """Show numbered rows twice; what no longer fits falls off the end."""
        source = self.faults.random(shelf.market.altname)
        numbered = [place for place in page.places if shelf.has_id(place)]
        rows = int(fault.amount or source.randint(1, 5))
        twice = set(source.sample(numbered, min(rows, len(numbered))))
        doubled = [p for place in page.places for p in [place] * (1 + (place in twice))]
        page.places = doubled[:size]

    def _hide(self, shelf: Shelf, page: Page, size: int, end: int) -> None:
        """Leave out the rows that a fault names, and fill the page with the next rows."""
        pair = shelf.market.altname
        shown = (place for place in range(page.start, end) if not self.faults.hidden(pair, place))
        page.places = list(islice(shown, size))

    def _alter_last(
        self, shelf: Shelf, page: Page, faults: tuple[Fault, ...], params: Mapping[str, str]
    ) -> list[str]:
        done = []
        for fault in faults:
            if fault.kind == "last_missing":
                page.last = None
            elif fault.kind == "last_short":
                page.last = (page.last or "")[: int(fault.amount or 16)]
            elif fault.kind == "last_stuck":
                page.last = shelf.previous_last or params.get("since", "0")
            elif fault.kind == "last_garbage":
                page.last = self.faults.garbage
            else:
                continue
            done.append(fault.kind)
        return done

    def _ohlc(self, params: Mapping[str, str]) -> bytes:
        shelf = self._shelf(params)
        interval, since = params.get("interval", "1"), params.get("since", "-1")
        if interval not in map(str, INTERVALS_MIN) or not re.fullmatch(r"-?\d+", since):
            raise _error(label="invalid")
        now_ns, step_s = self.clock.now_ns, int(interval) * 60
        key = (step_s, now_ns // SECOND_NS // step_s, bisect_right(shelf.stamps, now_ns))
        if key not in shelf.candles:
            shelf.candles[key] = _dumps(ohlc_rows(shelf, int(interval), now_ns))
        shown = json.loads(shelf.candles[key])
        if since != "-1":
            shown = [row for row in shown if row[0] > int(since)]
        rows = _dumps(self.faults.candles(shelf.market.altname, int(interval), shown))
        last = (key[1] - 1) * step_s
        name = shelf.market.key.encode()
        return b'{"error":[],"result":{"%b":%b,"last":%d}}' % (name, rows, last)

    def _asset_pairs(self, params: Mapping[str, str]) -> bytes:
        asked = [name for name in params.get("pair", "").split(",") if name]
        listed = [s for s in self._of_class(params) if s.market.altname not in self.unlisted]
        named = [self._shelf({**params, "pair": name}) for name in asked]
        rows: dict[str, object] = {s.market.key: _asset_pair(s.market) for s in named or listed}
        if self._class(params) == "currency":
            rows |= self.odd_pairs
        return _dumps({"error": [], "result": rows})

    def _assets(self, _params: Mapping[str, str]) -> bytes:
        """What other clients ask for before anything else; harvester does not."""
        markets = [shelf.market for shelf in self._shelves.values()]
        names = {name for market in markets for name in (market.base, market.quote)}
        about = {"aclass": "currency", "decimals": 10, "display_decimals": 5, "status": "enabled"}
        return _dumps({"error": [], "result": {n: {"altname": n} | about for n in sorted(names)}})

    def _ticker(self, params: Mapping[str, str]) -> bytes:
        """Of each market no more than its trades of today and of the last 24 hours."""
        now_ns, result = self.clock.now_ns, {}
        for shelf in self._of_class(params):
            end = bisect_right(shelf.stamps, now_ns)
            starts = (now_ns - now_ns % DAY_NS, now_ns - DAY_NS)
            counts = [end - bisect_left(shelf.stamps, start, 0, end) for start in starts]
            result[shelf.market.key] = {"t": counts}
        return _dumps({"error": [], "result": result})

    def _time(self, _params: Mapping[str, str]) -> bytes:
        now_s = self.clock.now_ns // SECOND_NS
        spoken = time.strftime("%a, %d %b %y %H:%M:%S +0000", time.gmtime(now_s))
        return _dumps({"error": [], "result": {"unixtime": now_s, "rfc1123": spoken}})

    def _system_status(self, _params: Mapping[str, str]) -> bytes:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.clock.now_ns // SECOND_NS))
        return _dumps({"error": [], "result": {"status": self.status, "timestamp": now}})


ENDPOINTS = frozenset(
    f"/0/public/{name}"
    for name in ("Trades", "OHLC", "AssetPairs", "Assets", "Ticker", "Time", "SystemStatus")
)


def _trades_body(shelf: Shelf, page: Page) -> bytes:
    places = page.places
    if isinstance(places, range):
        rows = shelf.rows(places.start, places.stop) if places else b""
    else:
        rows = shelf.picked(places)
    if page.later is not None:
        place, seconds = page.later
        row, literal = shelf.picked([place]), shelf.market.literal(place)
        whole, dot, fraction = literal.partition(".")
        late = row.replace(literal.encode(), f"{int(whole) + seconds}{dot}{fraction}".encode(), 1)
        rows = rows.replace(row, late, 1)
    if not page.has_ids:
        rows = re.sub(rb",\d+\]", b",0]", rows)
    last = b"" if page.last is None else b',"last":%b' % json.dumps(page.last).encode()
    return b'{"error":[],"result":{"%b":[%b]%b}}' % (shelf.market.key.encode(), rows, last)


def _asset_pair(market: Market) -> dict[str, object]:
    return {
        "altname": market.altname,
        "wsname": market.wsname,
        "aclass_base": market.aclass_base,
        "base": market.base,
        "aclass_quote": "currency",
        "quote": market.quote,
        "lot": "unit",
        "cost_decimals": market.cost_decimals,
        "pair_decimals": market.pair_decimals,
        "lot_decimals": market.lot_decimals,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": [[0, 0.4]],
        "fees_maker": [[0, 0.25]],
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": "0.00005",
        "costmin": "0.5",
        "tick_size": market.tick_size,
        "status": market.status,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Serve made trades as Kraken would.")
    parser.add_argument("--trades", type=int, default=300_000, help="trades a pair")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--alike", action="store_true", help="all pairs show the same trades")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--first-id", type=int, default=1, help="id of each pair's first trade")
    parser.add_argument("--gap-s", type=float, default=6.0, help="mean time between bursts")
    parser.add_argument("--since-mode", choices=("inclusive", "exclusive"), default="inclusive")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--gzip", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache-gzip", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--limit", type=float, help="calls a second and pair")
    parser.add_argument("--seconds", type=float, default=3600.0, help="longest lifetime")
    parser.add_argument("--port", type=int, default=0)
    return parser


def main() -> None:
    """Serve until killed, or until the lifetime has passed."""
    from sample_trades import xbtusd_like

    options = _parser().parse_args()
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    trades_by_seed: dict[int, list[Trade]] = {}
    for seed in range(options.seed, options.seed + (1 if options.alike else options.pairs)):
        trades_by_seed[seed] = xbtusd_like(
            options.trades, seed, gap_s=options.gap_s, first_id=options.first_id
        )
    markets = [
        named(n, trades_by_seed[options.seed + (0 if options.alike else n)])
        for n in range(options.pairs)
    ]
    exchange = Exchange(
        markets,
        since_mode=options.since_mode,
        latency_s=options.latency_ms / 1000,
        gzip=options.gzip,
        cache_gzip=options.cache_gzip,
        limit=options.limit,
        port=options.port,
    )
    with exchange:
        sys.stdout.write(f"{exchange.url}\n")
        sys.stdout.flush()
        ended.wait(options.seconds)


if __name__ == "__main__":
    main()
