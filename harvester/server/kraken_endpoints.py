"""Response bodies of the API server, computed from request parameters and an archive."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress

import msgspec

from harvester.errors import UnknownPair
from harvester.kraken.answers import PREFER_STORED_ROWS
from harvester.kraken.ohlc import INTERVALS_MIN
from harvester.kraken.pairs import ASSET_CLASSES, CURRENCY, UNKNOWN, Pair, PairIndex, of_class
from harvester.kraken.trades import LONGEST_NUMBER, PAGE_ROWS
from harvester.pair_selection import known_pairs
from harvester.server.kraken_json import CLOSED_CANDLES, ohlc_from_archive, ticker_from_archive
from harvester.server.kraken_trade_pages import (
    LISTING_TTL_S,
    Clock,
    RenderedPage,
    RenderedPageCache,
    TradePages,
)
from harvester.storage.trade_store import Piece, SnapshotStore, TradeStore
from harvester.times import END_OF_TIME, SECOND, UNITS_NS, Range

# The shapes are those of Kraken's public REST documentation and captured answers (docs/kraken.md).

DISPLAY_DECIMALS = 5
"""Most decimals that Kraken shows of an asset."""

SECONDS_DIGITS = 10
"""A `since` with at most this many digits is in seconds, as Kraken reads it."""

FRACTION_MARGIN_NS = 10_000_000
"""How much earlier a page begins if `since` is in fractional seconds.

Kraken's answer to since=1616666442.304882029 began with a trade 9.7 ms older.
"""

QueryParams = Mapping[str, str]
"""The parameters of a request, and `PREFER`."""

PREFER = "Prefer"
"""The request header in which harvester's own client asks for `PREFER_STORED_ROWS`, so that a copy
equals the archive."""


class InvalidParameter(Exception):
    """A parameter is invalid. The message is its name only, as in Kraken's answers."""


class UnknownAsset(Exception):
    """No pair of the archive has this asset."""


class NotCovered(Exception):
    """The page would cross a gap of the archive."""


class ImportedTrades(Exception):
    """The page would have imported trades, whose times and ids are not the exchange's.

    A copy would store them as downloaded ones. Continued from Kraken, it could have the trades of
    one second twice.
    """


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
        self._indexes: dict[str, PairIndex] = {}

    @property
    def stored(self) -> list[str]:
        """The altnames of the pairs with trades."""
        self._list()
        return self._stored

    def of_class(self, asset_class: str | None) -> list[Pair]:
        """The pairs of an asset class that have trades; those of all classes for None."""
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
        if asset_class not in self._indexes:
            self._indexes[asset_class] = PairIndex(of_class(self._pairs.values(), asset_class))
        return self._indexes[asset_class].resolve(text)

    def _list(self) -> None:
        now_s = self._clock()
        if self._listed_s is not None and now_s - self._listed_s < LISTING_TTL_S:
            return
        known, stored = self._archive.store.read("pairs.json"), self._archive.stored_pairs()
        if self._listed_s is None or (known, stored) != (self._known, self._stored):
            self._pairs, self._indexes = known_pairs(self._archive), {}
        self._known, self._stored, self._listed_s = known, stored, now_s


class ApiResponder:
    """The answers of all endpoints. Pairs without trades in the archive are unknown pairs.

    Each pair has a clock of its own: this machine's, but not after the end of the pair's coverage.
    """

    def __init__(
        self, archive: TradeStore, clock: Clock = time.monotonic, *, guess_sides: bool = False
    ) -> None:
        """Nothing is read before the first request.

        Args:
            archive: the archive to serve.
            clock: a monotonic clock in seconds, by which the archive is listed again.
            guess_sides: whether trades without a side have one by the tick rule.
        """
        self._archive = archive
        self._clock = clock
        self._pairs = ServedPairs(archive, clock)
        self._cache = RenderedPageCache(archive, guess_sides=guess_sides)
        self._pages: dict[str, TradePages] = {}

    def trades(self, params: QueryParams) -> bytes:
        """Answer Trades: up to `count` rows at `since` or later, or the newest rows.

        The cursor `last` is that of the last row. A trade without an id has one more than the trade
        before it, unless `PREFER_STORED_ROWS` is preferred.

        Raises:
            UnknownPair: the archive has no trades of this pair.
            InvalidParameter: a parameter can't be read.
            NotCovered: the page would cross a gap, as if nothing had been traded there.
            ImportedTrades: `PREFER_STORED_ROWS` is preferred, and the page has imported trades.
            SideUnknown: a trade has no side.
            ArchiveDamaged: a file can't be read.
        """
        pair = self._pair(params.get("pair") or "", _class(params, "asset_class"))
        since, count = params.get("since"), _count(params)
        since_ns = None if since is None else _since_ns(since)
        pages = self._pages_of(pair.altname)
        as_stored = _is_as_stored(params)
        margin_ns = FRACTION_MARGIN_NS if since is not None and "." in since else 0
        from_ns = None if since_ns is None else max(0, since_ns - margin_ns)
        page = pages.page(from_ns, count, pair.pair_decimals, as_stored=as_stored)
        if since_ns is not None:
            _check_coverage(pages, since_ns, page, as_stored=as_stored)
        elif page.last_ns is not None:
            # Newer trades may be missing where a gap lies after the newest that are stored.
            _check_no_gap(pages, page.last_ns, pages.furthest_ns)
        last = since or "0" if page.cursor_ns is None else f"{page.cursor_ns:019d}"
        return b'{"error":[],"result":{%b:[%b],"last":"%b"}}' % (
            msgspec.json.encode(pair.key or pair.altname),
            page.text[:-1],
            last.encode(),
        )

    def ohlc(self, params: QueryParams) -> Callable[[], bytes]:
        """Prepare the answer of OHLC: it may read many rows, so the caller computes it in a thread.

        Without `since`, or with 0, it has the last 720 closed candles and the open one, from the
        first complete one after the last gap. With `since`, it has up to 721 candles that open
        later, however old they are: an extension. `last` is the next page's `since`.

        Returns a function that computes the answer; it may raise ArchiveDamaged.

        Raises:
            UnknownPair: the archive has no trades of this pair.
            InvalidParameter: a parameter can't be read.
            NotCovered: the candles after `since` are not covered.
            ArchiveDamaged: a file can't be read.
        """
        pair = self._pair(params.get("pair") or "", _class(params, "asset_class"))
        interval, since = params.get("interval", "1"), params.get("since", "0")
        if interval not in map(str, INTERVALS_MIN):
            raise InvalidParameter("interval")
        if not _is_whole(since.removeprefix("-")) or len(since) > LONGEST_NUMBER:
            raise InvalidParameter("since")
        archive, pages = self._new_listing(pair)
        now_ns, width_ns = min(time.time_ns(), pages.through), int(interval) * UNITS_NS["m"]
        numbers = _candle_numbers(pages, int(since), width_ns, now_ns)

        def answer() -> bytes:
            rows = ohlc_from_archive(archive, pair, width_ns, numbers, now_ns)
            shown = [row for row in rows if row[0] > int(since)]
            last_s = min(numbers.stop, now_ns // width_ns) - 1
            return _result({pair.key or pair.altname: shown, "last": last_s * width_ns // SECOND})

        return answer

    def ticker(self, params: QueryParams) -> Callable[[], bytes]:
        """Prepare the answer of Ticker: figures of the day and of the last 24 hours.

        Without `pair`, it has all pairs of the class that ever traded.

        Returns a function that computes the answer; it may raise ArchiveDamaged.

        Raises:
            UnknownPair: the archive has no trades of a pair.
            InvalidParameter: there is no such asset class.
        """
        # Listed here: pages are not used in several threads. Of all pairs, one may just have gone.
        clocks = []
        for pair in self._requested(params, "asset_class"):
            with nullcontext() if params.get("pair") else suppress(UnknownPair):
                archive, pages = self._new_listing(pair)
                clocks.append((pair, archive, min(time.time_ns(), pages.through)))

        def answer() -> bytes:
            tickers = {
                pair.key or pair.altname: ticker_from_archive(archive, pair, now_ns)
                for pair, archive, now_ns in clocks
            }
            return _result({name: found for name, found in tickers.items() if found is not None})

        return answer

    def asset_pairs(self, params: QueryParams) -> bytes:
        """Answer AssetPairs: all stored pairs of a class, or those in the comma-separated `pair`.

        Raises:
            UnknownPair: the archive has no trades of a pair.
            InvalidParameter: there is no such asset class.
        """
        as_stored = _is_as_stored(params)
        pairs = self._requested(params, "aclass_base")
        entries: dict[str, object] = {
            pair.key or pair.altname: _entry(pair, as_stored) for pair in pairs
        }
        return _result(entries)

    def assets(self, params: QueryParams) -> bytes:
        """Answer Assets: the assets of the stored pairs, or those in the comma-separated `asset`.

        The archive knows the decimals that a pair prints for an asset; the most of them are given.

        Raises:
            UnknownAsset: no stored pair has an asset.
            InvalidParameter: there is no such asset class.
        """
        asset_class = _class(params, "aclass")
        found: dict[str, dict[str, object]] = {}
        decimals: dict[str, int] = {}
        for pair in self._pairs.of_class(None):
            base, _, quote = pair.wsname.partition("/")
            cost_decimals = pair.cost_decimals or pair.pair_decimals
            for key, altname, its_class, digits in (
                (pair.base, base, pair.aclass_base, pair.lot_decimals),
                (pair.quote, quote, CURRENCY, cost_decimals),
            ):
                if key and its_class == asset_class:
                    decimals[key] = max(digits, decimals.get(key, 0))
                    found[key] = {
                        "aclass": its_class,
                        "altname": altname or key,
                        "decimals": decimals[key],
                        "display_decimals": min(decimals[key], DISPLAY_DECIMALS),
                        "status": "enabled",
                    }
        requested = [text for text in params.get("asset", "").split(",") if text]
        if not requested:
            return _result(dict(found))
        by_name = {str(asset["altname"]): key for key, asset in found.items()} | {
            key: key for key in found
        }
        if unknown := [text for text in requested if text not in by_name]:
            raise UnknownAsset(unknown[0])
        return _result({by_name[text]: found[by_name[text]] for text in requested})

    def time(self, _params: QueryParams) -> bytes:
        """Answer Time: this machine's clock, but not later than the latest end of any coverage.

        `coverage_ends` (an extension) lists the pairs whose coverage ends earlier, in nanoseconds;
        a copy of such a pair ends there, too.
        """
        pairs = self._pairs.of_class(None)
        ends = {pair.key or pair.altname: self._pages_of(pair.altname).through for pair in pairs}
        now_s = min([time.time_ns(), max(ends.values(), default=END_OF_TIME)]) // SECOND
        earlier = {name: end_ns for name, end_ns in ends.items() if end_ns < now_s * SECOND}
        rfc1123 = time.strftime("%a, %d %b %y %H:%M:%S +0000", time.gmtime(now_s))
        result: dict[str, object] = {"unixtime": now_s, "rfc1123": rfc1123}
        return _result(result | ({"coverage_ends": earlier} if earlier else {}))

    def system_status(self, _params: QueryParams) -> bytes:
        """Answer SystemStatus: always online."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return _result({"status": "online", "timestamp": now})

    def _requested(self, params: QueryParams, class_name: str) -> list[Pair]:
        """The pairs that `pair` names, each once; without it, all of the class in `class_name`."""
        asset_class = _class(params, class_name)
        if requested := [text for text in params.get("pair", "").split(",") if text]:
            pairs = (self._pair(text, asset_class) for text in dict.fromkeys(requested))
            return list({pair.altname: pair for pair in pairs}.values())
        return self._pairs.of_class(asset_class)

    def _pair(self, text: str, asset_class: str) -> Pair:
        if not text:
            raise InvalidParameter("pair")
        pair = self._pairs.resolve(text, asset_class)
        # A known pair without coverage is refused too: an empty page would claim that nothing was
        # traded. The name is compared as well, as some disks ignore case.
        if pair.altname not in self._pairs.stored or not self._pages_of(pair.altname).has_coverage:
            raise UnknownPair(f"{self._archive.path} has no trades of {pair.altname}")
        return pair

    def _pages_of(self, altname: str, pieces: list[Piece] | None = None) -> TradePages:
        """The pages of a pair, of a listing that was just made or of the last one."""
        if altname not in self._pages:
            self._pages[altname] = TradePages(self._archive, altname, self._cache, self._clock)
        self._pages[altname].update(pieces)
        return self._pages[altname]

    def _new_listing(self, pair: Pair) -> tuple[SnapshotStore, TradePages]:
        """The archive as one answer reads it, and the pair's pages, by the same listing.

        Raises:
            UnknownPair: the pair's last file was moved away a moment ago.
        """
        store = SnapshotStore(self._archive)
        pages = self._pages_of(pair.altname, store.pieces(pair.altname))
        if not pages.has_coverage:
            raise UnknownPair(f"{self._archive.path} has no trades of {pair.altname} any more")
        return store, pages


def _check_coverage(
    pages: TradePages, since_ns: int, page: RenderedPage, *, as_stored: bool
) -> None:
    """Refuse a page that crosses a gap, or that a copy can't store as downloaded trades.

    A page that is not full goes to the end of what was ever covered.

    Args:
        pages: of the pair.
        since_ns: the time that it was requested from. A row whose cursor is later than its time may
            be from before.
        page: the page.
        as_stored: whether it is for a copy.
    """
    first_ns = since_ns if page.first_ns is None else min(since_ns, page.first_ns)
    through = page.last_ns if page.is_full and page.last_ns is not None else pages.furthest_ns
    shown = _check_no_gap(pages, first_ns - 1, through)
    if as_stored and (imported := pages.first_imported(shown)):
        raise ImportedTrades(str(imported))


def _check_no_gap(pages: TradePages, after: int, through: int) -> Range:
    """The range from a time, exclusive, to another; an error where a gap is in it."""
    within = Range(max(after, 0), max(after, through, 0))
    if gap := pages.first_gap(within):
        raise NotCovered(f"{gap.after}-{gap.through}")
    return within


def _candle_numbers(pages: TradePages, since_s: int, width_ns: int, now_ns: int) -> range:
    """The numbers of the candles of an answer, see `ohlc_from_archive`.

    Args:
        pages: of the pair.
        since_s: candles that open later, UNIX seconds; 0 for the newest.
        width_ns: a candle's length in nanoseconds.
        now_ns: the pair's clock.

    Raises:
        NotCovered: with `since`, candles are not covered.
    """
    open_number = now_ns // width_ns
    newest = range(max(0, open_number - CLOSED_CANDLES), open_number + 1)
    if since_s == 0:
        return newest
    first = max(since_s * SECOND // width_ns + 1, pages.first_ns // width_ns, 0)
    # As many as without `since`: ccxt requests one before the 720 that it wants.
    numbers = newest if first >= newest.start else range(first, first + CLOSED_CANDLES + 1)
    begin_ns = max(first, numbers.start) * width_ns
    _check_no_gap(pages, begin_ns - 1, min(numbers.stop * width_ns - 1, now_ns))
    return numbers


def _is_as_stored(params: QueryParams) -> bool:
    return params.get(PREFER) == PREFER_STORED_ROWS


def _class(params: QueryParams, name: str) -> str:
    """Parse the parameter with the asset class; `currency` if it is absent, as at Kraken."""
    asset_class = params.get(name, CURRENCY)
    if asset_class not in ASSET_CLASSES:
        raise InvalidParameter(name)
    return asset_class


def _count(params: QueryParams) -> int:
    """Parse `count`, the most rows of a page; more than Kraken's page size means that size."""
    text = params.get("count", str(PAGE_ROWS))
    if not _is_whole(text) or len(text) > LONGEST_NUMBER or int(text) == 0:
        raise InvalidParameter("count")
    return min(int(text), PAGE_ROWS)


def _since_ns(text: str) -> int:
    whole, point, fraction = text.partition(".")
    if not _is_whole(whole) or bool(point) != _is_whole(fraction):
        raise InvalidParameter("since")
    if point:
        if len(whole) > SECONDS_DIGITS:
            raise InvalidParameter("since")
        since_ns = int(whole) * SECOND + int(fraction[:9].ljust(9, "0"))
        return min(since_ns, END_OF_TIME)
    if len(text) > 19:
        return END_OF_TIME
    return min(int(text) * (SECOND if len(text) <= SECONDS_DIGITS else 1), END_OF_TIME)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _entry(pair: Pair, as_stored: bool) -> dict[str, object]:
    """A row of AssetPairs. ccxt does not use a pair without a status, so an unknown one is online.

    Args:
        pair: the pair.
        as_stored: whether an unknown status is left out.
    """
    fields = msgspec.structs.asdict(pair)
    if pair.status == UNKNOWN:
        fields["status"] = None if as_stored else "online"
    return {name: value for name, value in fields.items() if name != "key" and value is not None}


def _result(result: dict[str, object]) -> bytes:
    return msgspec.json.encode({"error": [], "result": result})
