"""Answers of the API server: request parameters to response bodies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import UnknownPair
from harvester.kraken.ohlc import INTERVALS_MIN
from harvester.kraken.pairs import UNKNOWN, Pair, resolve
from harvester.kraken.trades import PAGE_ROWS
from harvester.pair_names import known_pairs
from harvester.schema import PRICE, VOLUME, times
from harvester.server.pages import LISTED_FOR_S, Clock, RenderedPageCache, TradePages
from harvester.storage import metadata
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, SECOND, UNITS_NS, Range

# --- ohlc -----------------------------------------------------------------------------------------

# They share no code with the room `candles`: a comparison of the two compares two ways to count.
#
# Source: Kraken's public REST documentation for `GET /0/public/OHLC`, and captured bodies
# (docs/kraken.md).

CLOSED = 720
"""So many closed candles are shown; the running one comes on top."""

_EXACT = Context(prec=76)

_WIDE_PRICE = pa.decimal256(PRICE.precision, PRICE.scale)
_WIDE_VOLUME = pa.decimal256(VOLUME.precision, VOLUME.scale)
_FIGURES = [
    ("place", "min"),
    ("place", "max"),
    ("place", "count"),
    ("price", "max"),
    ("price", "min"),
    ("volume", "sum"),
    ("value", "sum"),
]

Row = tuple[int, str, str, str, str, str, str, int]
"""Time in seconds, open, high, low, close, vwap, volume, count: numbers as Kraken's texts."""


@dataclass(slots=True)
class _Sums:
    """The trades of one interval, or of a part of it."""

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    count: int
    volume: Decimal
    value: Decimal

    def add(self, later: _Sums) -> None:
        """Take in what comes later on the tape."""
        self.high, self.low = max(self.high, later.high), min(self.low, later.low)
        self.close = later.close
        self.count += later.count
        self.volume = _EXACT.add(self.volume, later.volume)
        self.value = _EXACT.add(self.value, later.value)


def candles(archive: TradeStore, pair: Pair, width_ns: int, now_ns: int) -> list[Row]:
    """The candles of a pair at a moment, from the first whole one behind its last gap on.

    Args:
        archive: holds the pair.
        pair: prints with its `pair_decimals`.
        width_ns: the length of a candle.
        now_ns: the exchange's clock.

    Raises:
        ArchiveDamaged: a file can't be read.
    """
    covered = archive.coverage(pair.altname)[-1]
    begin_ns = max(0, (now_ns // width_ns - CLOSED) * width_ns)
    # A candle without trades shows the close before it, from however far back.
    before = archive.last_time(pair.altname, begin_ns)
    after = max(covered.after, begin_ns - 1 if before is None else before - 1)
    batches = archive.scan(pair.altname, Range(after, max(after, now_ns)))
    rows = ohlc_rows(batches, width_ns, now_ns, pair.pair_decimals)
    return [row for row in rows if row[0] * SECOND > covered.after]


def ohlc_rows(
    batches: Iterable[pa.RecordBatch], width_ns: int, now_ns: int, decimals: int
) -> list[Row]:
    """The last 720 closed candles and the running one, fewer where the rows begin later.

    An interval without trades repeats the close before it, with a volume and a vwap of zero. The
    vwap is cut off after the pair's decimals, not rounded.

    Args:
        batches: rows of the tape, in its order.
        width_ns: the length of a candle.
        now_ns: the exchange's clock: it chooses the running candle.
        decimals: the pair's.
    """
    found: dict[int, _Sums] = {}
    for bucket, sums in _sums(batches, width_ns):
        if bucket in found:
            found[bucket].add(sums)
        else:
            found[bucket] = sums
    if not found:
        return []
    running = now_ns // width_ns
    first = max(min(found), running - CLOSED)
    close = found[max((one for one in found if one <= first), default=min(found))].close
    shown: list[Row] = []
    for bucket in range(first, running + 1):
        sums = found.get(bucket) or _Sums(close, close, close, close, 0, Decimal(0), Decimal(0))
        shown.append(_row(bucket * width_ns // SECOND, sums, decimals))
        close = sums.close
    return shown


def _row(time_s: int, sums: _Sums, decimals: int) -> Row:
    vwap = Decimal(0)
    if sums.volume:
        units = _EXACT.divide_int(sums.value.scaleb(decimals, _EXACT), sums.volume)
        vwap = units.scaleb(-decimals, _EXACT)
    return (
        time_s,
        _money(sums.open, decimals),
        _money(sums.high, decimals),
        _money(sums.low, decimals),
        _money(sums.close, decimals),
        f"{vwap:.{decimals}f}",
        f"{sums.volume:.8f}",
        sums.count,
    )


def _money(price: Decimal, decimals: int) -> str:
    """With the pair's decimals, or with more where the price has more."""
    short = price.quantize(Decimal(1).scaleb(-decimals), context=_EXACT)
    return f"{short if short == price else price.normalize(_EXACT):f}"


def _sums(batches: Iterable[pa.RecordBatch], width_ns: int) -> Iterator[tuple[int, _Sums]]:
    for batch in batches:
        price, volume = batch.column("price"), batch.column("volume")
        columns = {
            "bucket": pa.array(times(batch) // width_ns),
            "place": pa.array(np.arange(batch.num_rows)),
            "price": price,
            "volume": volume.cast(pa.decimal128(38, VOLUME.scale)),
            "value": pc.multiply(price.cast(_WIDE_PRICE), volume.cast(_WIDE_VOLUME)),
        }
        table = pa.table(columns).group_by("bucket").aggregate(_FIGURES)
        for row in table.to_pylist():
            yield (
                row["bucket"],
                _Sums(
                    open=price[row["place_min"]].as_py(),
                    high=row["price_max"],
                    low=row["price_min"],
                    close=price[row["place_max"]].as_py(),
                    count=row["place_count"],
                    volume=row["volume_sum"],
                    value=row["value_sum"],
                ),
            )


# --- answers --------------------------------------------------------------------------------------

# Shapes: Kraken's public REST documentation and captured bodies (docs/kraken.md).

SECONDS_DIGITS = 10
"""A `since` of no more digits is in seconds, as Kraken reads it."""

FOREGROUND_NS = SECOND
"""A range is asked for from up to so long before it begins; what is shown there is dropped."""

FRACTION_MARGIN_NS = 10_000_000
"""How much earlier a page begins if `since` is in fractional seconds.

Kraken's answer to since=1616666442.304882029 began with a trade 9.7 ms older.
"""

Question = Mapping[str, str]


class Invalid(Exception):
    """A parameter makes no sense; its name is all that Kraken would tell."""


class NotCovered(Exception):
    """The page would reach over time that the archive never asked for."""


class ServedNames:
    """The pairs of an archive, looked up by any spelling; read again once a second at most."""

    def __init__(self, archive: TradeStore, clock: Clock) -> None:
        """Nothing is read before it is asked for."""
        self._archive = archive
        self._clock = clock
        self._read_s: float | None = None
        self._mark: tuple[bytes | None, list[str]] = (None, [])
        self._pairs: dict[str, Pair] = {}
        self._found: dict[str, Pair] = {}

    def resolve(self, text: str) -> Pair:
        """The pair that goes by this spelling, held or not.

        Raises:
            UnknownPair: none does.
            ArchiveDamaged: the names can't be read.
        """
        self._refresh()
        if text not in self._found:
            self._found[text] = resolve(text, self._pairs.values())
        return self._found[text]

    def _refresh(self) -> None:
        now = self._clock()
        if self._read_s is not None and now - self._read_s < LISTED_FOR_S:
            return
        store = self._archive.store
        mark = (metadata.known_pairs(store), store.folders("trades"))
        if mark != self._mark:
            pairs = known_pairs(self._archive)
            for folder in mark[1]:
                name = folder.removeprefix("pair=")
                pairs.setdefault(name, Pair(altname=name))
            self._mark, self._pairs, self._found = mark, pairs, {}
        self._read_s = now


class ApiResponder:
    """The endpoints of the mirror. A pair that the archive does not hold is unknown to it."""

    def __init__(self, archive: TradeStore, clock: Clock = time.monotonic) -> None:
        """`clock` tells seconds that never run back."""
        self._archive = archive
        self._clock = clock
        self._names = ServedNames(archive, clock)
        self._shelf = RenderedPageCache(archive)
        self._tapes: dict[str, TradePages] = {}
        self._held: tuple[float, list[str]] | None = None

    def trades(self, question: Question) -> bytes:
        """A page: up to `count` rows at `since` or later, or the newest; `last` is its last time.

        Raises:
            UnknownPair: the archive holds no such pair.
            Invalid: a parameter can't be read.
            NotCovered: the page would reach over a gap, as if nothing had been traded there.
            ArchiveDamaged: a file can't be read.
        """
        pair = self._pair(question.get("pair") or "")
        since, count = question.get("since"), _count(question)
        since_ns = None if since is None else _since_ns(since)
        tape = self._tape(pair)
        page = tape.page(since_ns, count, pair.pair_decimals)
        if since_ns is not None:
            _check_cover(tape, since_ns, page.last_ns if page.whole else None)
        last = since or "0" if page.last_ns is None else f"{page.last_ns:019d}"
        name = msgspec.json.encode(pair.key or pair.altname)
        return b'{"error":[],"result":{%b:[%b],"last":"%b"}}' % (
            name,
            page.text[:-1],
            last.encode(),
        )

    def ohlc(self, question: Question) -> Callable[[], bytes]:
        """What makes the answer of candles: for long ones it reads many rows, so it bears a thread.

        They begin with the first whole one behind the last gap that saw a trade. The clock is
        that of `time`.

        Raises:
            UnknownPair: the archive holds no such pair.
            Invalid: a parameter can't be read.
            ArchiveDamaged: a file can't be read, then or now.
        """
        pair = self._pair(question.get("pair") or "")
        interval, since = question.get("interval", "1"), question.get("since", "0")
        if interval not in map(str, INTERVALS_MIN):
            raise Invalid("interval")
        if not _is_whole(since.removeprefix("-")):
            raise Invalid("since")
        now_ns, width_ns = self._now_ns(), int(interval) * UNITS_NS["m"]

        def answer() -> bytes:
            rows = candles(self._archive, pair, width_ns, now_ns)
            shown = [row for row in rows if row[0] > int(since)]
            last_s = (now_ns // width_ns - 1) * width_ns // SECOND
            return _result({pair.key or pair.altname: shown, "last": last_s})

        return answer

    def asset_pairs(self, question: Question) -> bytes:
        """The pairs held, or those of them that `pair` names, by commas between.

        Raises:
            UnknownPair: the archive holds no such pair.
        """
        asked = [text for text in question.get("pair", "").split(",") if text]
        if asked:
            pairs = [self._pair(text) for text in asked]
        else:
            pairs = [self._names.resolve(name) for name in self._held_names()]
        return _result({pair.key or pair.altname: _entry(pair) for pair in pairs})

    def time(self, _question: Question) -> bytes:
        """This machine's clock, to the second, but no later than all pairs are covered.

        A copy's coverage ends by this clock, and must not claim what is not here.
        """
        now_s = self._now_ns() // SECOND
        spoken = time.strftime("%a, %d %b %y %H:%M:%S +0000", time.gmtime(now_s))
        return _result({"unixtime": now_s, "rfc1123": spoken})

    def system_status(self, _question: Question) -> bytes:
        """A mirror that answers is online."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return _result({"status": "online", "timestamp": now})

    def _now_ns(self) -> int:
        reached = [self._tape(self._names.resolve(name)).through for name in self._held_names()]
        return min([time.time_ns(), *reached])

    def _pair(self, text: str) -> Pair:
        if not text:
            raise Invalid("pair")
        pair = self._names.resolve(text)
        # An empty page would say that nothing was traded, where nothing was ever asked.
        # A disk that ignores case finds the trades of a pair by the name of another one, too.
        if pair.altname not in self._held_names() or not self._tape(pair).held:
            raise UnknownPair(f"{self._archive.path} holds no trades of {pair.altname}")
        return pair

    def _tape(self, pair: Pair) -> TradePages:
        if pair.altname not in self._tapes:
            self._tapes[pair.altname] = TradePages(
                self._archive, pair.altname, self._shelf, self._clock
            )
        return self._tapes[pair.altname]

    def _held_names(self) -> list[str]:
        now = self._clock()
        if self._held is None or now - self._held[0] >= LISTED_FOR_S:
            self._held = (now, self._archive.held())
        return self._held[1]


def _check_cover(tape: TradePages, since_ns: int, last_ns: int | None) -> None:
    """Refuse a page over a gap. Who begins at a gap's end asks from a moment before it."""
    through = tape.through if last_ns is None else last_ns
    gap = tape.gap_within(Range(since_ns + FOREGROUND_NS, through))
    if gap is not None:
        raise NotCovered(f"{gap.after}-{gap.through}")


def _count(question: Question) -> int:
    text = question.get("count", str(PAGE_ROWS))
    if not _is_whole(text) or len(text) > 4 or not 1 <= int(text) <= PAGE_ROWS:
        raise Invalid("count")
    return int(text)


def _since_ns(text: str) -> int:
    whole, point, fraction = text.partition(".")
    if not _is_whole(whole) or bool(point) != _is_whole(fraction):
        raise Invalid("since")
    if point:
        if len(whole) > SECONDS_DIGITS:
            raise Invalid("since")
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
