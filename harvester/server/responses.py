"""Response bodies of the API server, computed from request parameters and an archive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Context, Decimal
from typing import Any

import msgspec
import pyarrow as pa

from harvester.errors import UnknownPair
from harvester.kraken.ohlc import INTERVALS_MIN
from harvester.kraken.pairs import ASSET_CLASSES, CURRENCY, UNKNOWN, Pair, of_class, resolve
from harvester.kraken.trades import PAGE_ROWS
from harvester.pair_selection import known_pairs
from harvester.query.arrow_bars import PRICES, begins_ns, candles_of_trades
from harvester.server.pages import LISTING_TTL_S, Clock, RenderedPageCache, TradePages
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, SECOND, UNITS_NS, Range

# --- OHLC -----------------------------------------------------------------------------------------

# Candles are aggregated by pyarrow, not by the SQL that queries run: comparing an archive with an
# API server compares two independent computations.
#
# Source: Kraken's public REST documentation for `GET /0/public/OHLC`, and captured answers
# (docs/kraken.md).

CLOSED_CANDLES = 720
"""Closed candles in an answer; the open one follows them."""

_EXACT = Context(prec=76)

Row = tuple[int, str, str, str, str, str, str, int]
"""Time in seconds, open, high, low, close, vwap, volume, count; prices and volumes as text."""


def ohlc_from_archive(archive: TradeStore, pair: Pair, width_ns: int, now_ns: int) -> list[Row]:
    """The candles of a pair at a point in time, from the first complete one after its last gap.

    Args:
        archive: an archive with trades of the pair.
        pair: the market; prices are printed with its `pair_decimals`.
        width_ns: a candle's length in nanoseconds.
        now_ns: the exchange's clock, UNIX nanoseconds.

    Raises:
        ArchiveDamaged: a file can't be read.
    """
    covered = archive.coverage(pair.altname)[-1]
    begin_ns = max(0, (now_ns // width_ns - CLOSED_CANDLES) * width_ns)
    # A candle without trades repeats the previous close, which may be far back.
    previous_ns = archive.last_time(pair.altname, begin_ns)
    after = max(covered.after, begin_ns - 1 if previous_ns is None else previous_ns - 1)
    batches = archive.scan(pair.altname, Range(after, max(after, now_ns)))
    rows = ohlc_rows(batches, width_ns, now_ns, pair.pair_decimals)
    return [row for row in rows if row[0] * SECOND > covered.after]


def ohlc_rows(
    batches: Iterable[pa.RecordBatch], width_ns: int, now_ns: int, decimals: int
) -> list[Row]:
    """The last 720 closed candles and the open one; fewer if the rows begin later.

    An interval without trades repeats the previous close, with a volume and a vwap of zero. The
    vwap is truncated to the pair's decimals, not rounded.

    Args:
        batches: rows in the trade history's order.
        width_ns: a candle's length in nanoseconds.
        now_ns: the exchange's clock, UNIX nanoseconds: it decides which candle is open.
        decimals: the decimals of the pair's prices.
    """
    by_bucket: dict[int, dict[str, Any]] = {}
    for candles in candles_of_trades(batches, width_ns, "OHLC"):
        values = candles.drop_columns(["first_time", "last_time"]).to_pylist()
        by_bucket |= zip((begins_ns(candles) // width_ns).tolist(), values, strict=True)
    if not by_bucket:
        return []
    open_bucket = now_ns // width_ns
    first = max(min(by_bucket), open_bucket - CLOSED_CANDLES)
    earlier = (bucket for bucket in by_bucket if bucket <= first)
    close = by_bucket[max(earlier, default=min(by_bucket))]["close"]
    rows: list[Row] = []
    for bucket in range(first, open_bucket + 1):
        empty = dict.fromkeys(PRICES, close) | dict.fromkeys(("volume", "value", "count"), 0)
        candle = by_bucket.get(bucket, empty)
        rows.append(_row(bucket * width_ns // SECOND, candle, decimals))
        close = candle["close"]
    return rows


def _row(time_s: int, candle: Mapping[str, Any], decimals: int) -> Row:
    vwap = Decimal(0)
    if candle["volume"]:
        units = _EXACT.divide_int(candle["value"].scaleb(decimals, _EXACT), candle["volume"])
        vwap = units.scaleb(-decimals, _EXACT)
    open_, high, low, close = (_price_text(candle[name], decimals) for name in PRICES)
    vwap_text, volume_text = f"{vwap:.{decimals}f}", f"{candle['volume']:.8f}"
    return (time_s, open_, high, low, close, vwap_text, volume_text, candle["count"])


def _price_text(price: Decimal, decimals: int) -> str:
    """A price with the pair's decimals, or with more if it has more."""
    short = price.quantize(Decimal(1).scaleb(-decimals), context=_EXACT)
    return f"{short if short == price else price.normalize(_EXACT):f}"


# --- All endpoints --------------------------------------------------------------------------------

# The shapes are those of Kraken's public REST documentation and captured answers (docs/kraken.md).

SECONDS_DIGITS = 10
"""A `since` with at most so many digits is in seconds, as Kraken reads it."""

LEAD_IN_NS = SECOND
"""Clients request a range from up to this much before its start, and drop the rows before it. So a
gap there does no harm."""

FRACTION_MARGIN_NS = 10_000_000
"""How much earlier a page begins if `since` is in fractional seconds.

Kraken's answer to since=1616666442.304882029 began with a trade 9.7 ms older.
"""

QueryParams = Mapping[str, str]
"""The parameters of a request."""


class InvalidParameter(Exception):
    """A parameter is invalid. The message is its name only, as in Kraken's answers."""


class NotCovered(Exception):
    """The page would cross a gap of the archive."""


class ServedPairs:
    """The pairs of an archive, by any spelling; they are listed again after a second."""

    def __init__(self, archive: TradeStore, clock: Clock) -> None:
        """Nothing is read before the first request; `clock` is a monotonic clock in seconds."""
        self._archive = archive
        self._clock = clock
        self._listed_s: float | None = None
        self._known: bytes | None = None
        self._stored: list[str] = []
        self._pairs: dict[str, Pair] = {}
        self._found: dict[tuple[str, str], Pair] = {}

    @property
    def stored(self) -> list[str]:
        """The altnames of the pairs with trades."""
        self._list()
        return self._stored

    def of_class(self, asset_class: str) -> list[Pair]:
        """The pairs of an asset class that have trades."""
        self._list()
        return of_class([self._pairs[name] for name in self._stored], asset_class)

    def resolve(self, text: str, asset_class: str) -> Pair:
        """Find the known pair with this spelling, whether or not it has trades.

        Args:
            text: its name.
            asset_class: its class: pairs of another one are not found.

        Raises:
            UnknownPair: there is none.
            ArchiveDamaged: the names can't be read.
        """
        self._list()
        if (asset_class, text) not in self._found:
            pairs = of_class(self._pairs.values(), asset_class)
            self._found[asset_class, text] = resolve(text, pairs)
        return self._found[asset_class, text]

    def _list(self) -> None:
        now_s = self._clock()
        if self._listed_s is not None and now_s - self._listed_s < LISTING_TTL_S:
            return
        known, stored = self._archive.store.read("pairs.json"), self._archive.held()
        if self._listed_s is None or (known, stored) != (self._known, self._stored):
            self._pairs, self._found = known_pairs(self._archive), {}
        self._known, self._stored, self._listed_s = known, stored, now_s


class ApiResponder:
    """The answers of all endpoints. Pairs without trades in the archive are unknown pairs."""

    def __init__(self, archive: TradeStore, clock: Clock = time.monotonic) -> None:
        """Nothing is read before the first request; `clock` is a monotonic clock in seconds."""
        self._archive = archive
        self._clock = clock
        self._pairs = ServedPairs(archive, clock)
        self._cache = RenderedPageCache(archive)
        self._pages: dict[str, TradePages] = {}

    def trades(self, params: QueryParams) -> bytes:
        """Answer Trades: up to `count` rows at `since` or later, or the newest rows.

        The cursor `last` is the time of the last row.

        Raises:
            UnknownPair: the archive has no trades of this pair.
            InvalidParameter: a parameter can't be read.
            NotCovered: the page would cross a gap, as if nothing had been traded there.
            ArchiveDamaged: a file can't be read.
        """
        pair = self._pair(params.get("pair") or "", _class(params, "asset_class"))
        since, count = params.get("since"), _count(params)
        since_ns = None if since is None else _since_ns(since)
        pages = self._pages_of(pair.altname)
        page = pages.page(since_ns, count, pair.pair_decimals)
        if since_ns is not None:
            _check_coverage(pages, since_ns, page.last_ns if page.is_full else None)
        last = since or "0" if page.last_ns is None else f"{page.last_ns:019d}"
        name = msgspec.json.encode(pair.key or pair.altname)
        return b'{"error":[],"result":{%b:[%b],"last":"%b"}}' % (
            name,
            page.text[:-1],
            last.encode(),
        )

    def ohlc(self, params: QueryParams) -> Callable[[], bytes]:
        """Prepare the answer of OHLC: it may read many rows, so the caller computes it in a thread.

        The candles begin with the first complete one after the last gap. The clock is that of
        `time`.

        Returns a function that computes the answer; it may raise ArchiveDamaged.

        Raises:
            UnknownPair: the archive has no trades of this pair.
            InvalidParameter: a parameter can't be read.
            ArchiveDamaged: a file can't be read.
        """
        pair = self._pair(params.get("pair") or "", _class(params, "asset_class"))
        interval, since = params.get("interval", "1"), params.get("since", "0")
        if interval not in map(str, INTERVALS_MIN):
            raise InvalidParameter("interval")
        if not _is_whole(since.removeprefix("-")):
            raise InvalidParameter("since")
        now_ns, width_ns = self._now_ns(), int(interval) * UNITS_NS["m"]

        def answer() -> bytes:
            rows = ohlc_from_archive(self._archive, pair, width_ns, now_ns)
            shown = [row for row in rows if row[0] > int(since)]
            last_s = (now_ns // width_ns - 1) * width_ns // SECOND
            return _result({pair.key or pair.altname: shown, "last": last_s})

        return answer

    def asset_pairs(self, params: QueryParams) -> bytes:
        """Answer AssetPairs: all stored pairs of a class, or those in the comma-separated `pair`.

        Raises:
            UnknownPair: the archive has no trades of a pair.
            InvalidParameter: there is no such asset class.
        """
        asset_class = _class(params, "aclass_base")
        requested = [text for text in params.get("pair", "").split(",") if text]
        if requested:
            pairs = [self._pair(text, asset_class) for text in requested]
        else:
            pairs = self._pairs.of_class(asset_class)
        return _result({pair.key or pair.altname: _entry(pair) for pair in pairs})

    def time(self, _params: QueryParams) -> bytes:
        """Answer Time: this machine's clock in seconds, but not after any pair's end of coverage.

        A copy's coverage ends by this clock, and must not claim more than this archive covers.
        """
        now_s = self._now_ns() // SECOND
        rfc1123 = time.strftime("%a, %d %b %y %H:%M:%S +0000", time.gmtime(now_s))
        return _result({"unixtime": now_s, "rfc1123": rfc1123})

    def system_status(self, _params: QueryParams) -> bytes:
        """Answer SystemStatus: always online."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return _result({"status": "online", "timestamp": now})

    def _now_ns(self) -> int:
        ends = [self._pages_of(name).through for name in self._pairs.stored]
        return min([time.time_ns(), *ends])

    def _pair(self, text: str, asset_class: str) -> Pair:
        if not text:
            raise InvalidParameter("pair")
        pair = self._pairs.resolve(text, asset_class)
        # A known pair without coverage is refused too: an empty page would claim that nothing was
        # traded. The name is compared as well, as some disks ignore case.
        if pair.altname not in self._pairs.stored or not self._pages_of(pair.altname).has_coverage:
            raise UnknownPair(f"{self._archive.path} has no trades of {pair.altname}")
        return pair

    def _pages_of(self, altname: str) -> TradePages:
        if altname not in self._pages:
            self._pages[altname] = TradePages(self._archive, altname, self._cache, self._clock)
        return self._pages[altname]


def _check_coverage(pages: TradePages, since_ns: int, last_ns: int | None) -> None:
    """Refuse a page that crosses a gap, except for a gap within `LEAD_IN_NS` after `since_ns`.

    `last_ns` is the time of the page's last row; None for a page that reaches the end of coverage.
    """
    through = pages.through if last_ns is None else last_ns
    gap = pages.first_gap(Range(since_ns + LEAD_IN_NS, through))
    if gap is not None:
        raise NotCovered(f"{gap.after}-{gap.through}")


def _class(params: QueryParams, name: str) -> str:
    """The asset class that a parameter names: currencies without it, as at Kraken."""
    asset_class = params.get(name, CURRENCY)
    if asset_class not in ASSET_CLASSES:
        raise InvalidParameter(name)
    return asset_class


def _count(params: QueryParams) -> int:
    text = params.get("count", str(PAGE_ROWS))
    if not _is_whole(text) or len(text) > 4 or not 1 <= int(text) <= PAGE_ROWS:
        raise InvalidParameter("count")
    return int(text)


def _since_ns(text: str) -> int:
    whole, point, fraction = text.partition(".")
    if not _is_whole(whole) or bool(point) != _is_whole(fraction):
        raise InvalidParameter("since")
    if point:
        if len(whole) > SECONDS_DIGITS:
            raise InvalidParameter("since")
        since_ns = int(whole) * SECOND + int(fraction[:9].ljust(9, "0"))
        return max(0, min(since_ns, END_OF_TIME) - FRACTION_MARGIN_NS)
    if len(text) > 19:
        return END_OF_TIME
    return min(int(text) * (SECOND if len(text) <= SECONDS_DIGITS else 1), END_OF_TIME)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _entry(pair: Pair) -> dict[str, object]:
    fields = msgspec.structs.asdict(pair)
    if pair.status == UNKNOWN:
        del fields["status"]
    return {name: value for name, value in fields.items() if name != "key" and value is not None}


def _result(result: dict[str, object]) -> bytes:
    return msgspec.json.encode({"error": [], "result": result})
