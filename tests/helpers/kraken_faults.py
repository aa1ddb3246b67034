"""Faults of the test exchange: refusals, broken answers, wrong cursors, and lies."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Bucket:
    """Calls that one limit still allows; a refused call costs a little, so pestering prolongs."""

    burst: float = 2.0
    penalty: float = 0.25
    tokens: float = 2.0
    at_s: float = 0.0

    def take(self, rate: float, now_s: float) -> bool:
        """Return whether a call may pass now, at `rate` calls a second."""
        self.tokens = min(self.burst, self.tokens + (now_s - self.at_s) * rate)
        self.at_s = now_s
        if self.tokens >= 1:
            self.tokens -= 1
            return True
        self.tokens = max(self.tokens - self.penalty, -3.0)
        return False


REFUSALS = {
    "rate_limit": "EAPI:Rate limit exceeded",
    "too_many": "EGeneral:Too many requests",
    "throttled": "EService: Throttled: ",  # and the UNIX time until which to wait
    "unavailable": "EService:Unavailable",
    "busy": "EService:Busy",
    "deadline": "EService:Deadline elapsed",
    "internal": "EGeneral:Internal error",
    "lockout": "EGeneral:Temporary lockout",
    "denied": "EGeneral:Permission denied",
    "unknown_pair": "EQuery:Unknown asset pair",
    "invalid": "EGeneral:Invalid arguments",
}


DELIVERIES = ("cut", "reset", "close", "hang", "dribble", "drop_after")


BODIES = ("bad_json", "not_json", "big", "warning")


CURSORS = ("last_missing", "last_short", "last_stuck", "last_garbage")


LIES = ("first_rows", "last_rows", "later", "newest", "late_row", "no_ids")


PAGES = ("empty", "stale", "older", "skip", "repeat", "shuffle", *LIES, *CURSORS)


KINDS = (*REFUSALS, "http", *DELIVERIES, *BODIES, *PAGES)


Item = str | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: `kind`, and an amount where the kind has one."""

    kind: str
    amount: float | None = None

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `kind` or `kind:amount`, such as `hang:2` or `http:503`."""
        kind, _, amount = text.partition(":")
        if kind not in KINDS:
            message = f"unknown fault {text!r}; known are {', '.join(KINDS)}"
            raise ValueError(message)
        return cls(kind, float(amount) if amount else None)


def _items(script: Iterable[Item]) -> deque[tuple[Fault, ...]]:
    """Read a script: per call None, one fault, or several at once."""
    texts = ((item,) if isinstance(item, str) else item or () for item in script)
    return deque(tuple(Fault.parse(text) for text in item) for item in texts)


class Faults:
    """What goes wrong, and when: by script, by chance, or both (the script goes first).

    script: faults of the Trades calls, one item a call, over all pairs, or by pair in a mapping
        {altname: items}. An item is None (nothing), "kind", "kind:amount" or a tuple of such.
    elsewhere: scripts of other calls, {"AssetPairs": items}.
    chances: {"kind[:amount]": probability}, drawn per pair from the seed, on `endpoints`.
    hide: {altname: {place in the history: times}}: rows left out of the first so many pages that
        would show them.
    times: how often chance may leave out one row, or empty one place.
    candles: what becomes of the rows of an OHLC answer, given the altname and the minutes.
    Lies: first_rows and last_rows leave out rows at a page's ends; later answers as if `since` were
        so many rows later; newest gives the newest page; late_row prints one row's time later;
        no_ids prints the id 0 in all rows.
    Amounts: http status (503), seconds of hang, dribble and throttled, rows of older, skip,
        repeat, first_rows, last_rows and later, seconds of late_row (6000), digits of
        last_short (16), bytes of big.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        script: Iterable[Item] | Mapping[str, Iterable[Item]] = (),
        elsewhere: Mapping[str, Iterable[Item]] | None = None,
        chances: Mapping[str, float] | None = None,
        endpoints: Iterable[str] = ("Trades",),
        hide: Mapping[str, Mapping[int, int]] | None = None,
        times: int = 1,
        candles: Callable[[str, int, list[Any]], list[Any]] = lambda _pair, _minutes, rows: rows,
        hang_s: float = 30.0,
        dribble_s: float = 5.0,
        throttle_s: float = 1.0,
        retry_after_s: int | None = None,
        big_bytes: int = 64 << 20,
        garbage: str = "not-a-cursor",
    ) -> None:
        """Set the faults up; everything may be changed while the exchange runs."""
        by_pair = dict(script) if isinstance(script, Mapping) else {}
        self.seed = seed
        self.script = _items(() if isinstance(script, Mapping) else script)
        self.by_pair = {pair: _items(items) for pair, items in by_pair.items()}
        self.elsewhere = {name: _items(items) for name, items in (elsewhere or {}).items()}
        self.chances = {Fault.parse(text): chance for text, chance in (chances or {}).items()}
        self.endpoints = frozenset(endpoints)
        self.hide = {pair: dict(rows) for pair, rows in (hide or {}).items()}
        self.times = times
        self.candles = candles
        self.hang_s = hang_s
        self.dribble_s = dribble_s
        self.throttle_s = throttle_s
        self.retry_after_s = retry_after_s
        self.big_bytes = big_bytes
        self.garbage = garbage
        self.done: Counter[str] = Counter()
        self._spent: Counter[tuple[str, str, int]] = Counter()
        self._randoms: dict[str, random.Random] = {}

    def push(self, *items: Item, pair: str | None = None) -> None:
        """Put more items at the end of a script."""
        script = self.script if pair is None else self.by_pair.setdefault(pair, deque())
        script.extend(_items(items))

    def random(self, pair: str) -> random.Random:
        """Give the pair's own source of chance, so that pairs side by side do not disturb it."""
        if pair not in self._randoms:
            self._randoms[pair] = random.Random(f"{self.seed} {pair}")
        return self._randoms[pair]

    def draw(self, endpoint: str, pair: str) -> tuple[tuple[Fault, ...], bool]:
        """Return the fault of this call, and whether it comes from the script."""
        scripts = [self.by_pair.get(pair), self.script] if endpoint == "Trades" else []
        for script in (*scripts, self.elsewhere.get(endpoint)):
            if script:
                return script.popleft(), True
        if not self.chances or endpoint not in self.endpoints:
            return (), False
        source = self.random(pair)
        return tuple(f for f, chance in self.chances.items() if source.random() < chance), False

    def spend(self, kind: str, pair: str, place: int) -> bool:
        """Return whether this place may get another random fault."""
        self._spent[kind, pair, place] += 1
        return self._spent[kind, pair, place] <= self.times

    def hidden(self, pair: str, place: int) -> bool:
        """Return whether the row at this place is left out of this page."""
        left = self.hide.get(pair, {}).get(place, 0)
        if left > 0:
            self.hide[pair][place] = left - 1
        return left > 0
