"""Markets, and the lookup of their names: any spelling that a person types becomes a `Pair`.

Source: `GET /0/public/AssetPairs`. Kraken writes BTC as XBT and DOGE as XDG.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Iterable
from fnmatch import translate
from typing import Annotated

import msgspec

from harvester.errors import (
    BAD_JSON,
    AmbiguousPair,
    UnknownPair,
    UnreadableAnswer,
    UsageError,
    first_few,
)
from harvester.kraken.answers import OtherMarket

logger = logging.getLogger("harvester.kraken")

CURRENCY = "currency"
TOKENIZED_ASSET = "tokenized_asset"
ASSET_CLASSES = (CURRENCY, TOKENIZED_ASSET)
"""The asset classes, by the exchange's names. Tokenized assets are stocks (xStocks): the exchange
lists and answers them only if the request names their class."""

UNKNOWN = "unknown"
"""The status of a pair if the exchange sends none."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,38}[A-Za-z0-9])?")
_SEPARATORS = re.compile(r"[/\-_: ]")
_ALIASES = {"BTC": "XBT", "DOGE": "XDG"}
_ASSET_PREFIX = re.compile(r"^[XZ](?=[A-Z]{3}$)")
_MAX_LISTED = 5
_DELISTED = "delisted:"
"""Begins the key of a market whose own key nobody knows any more; no key of the exchange's does."""


class Pair(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One market: its names, and the decimals that the exchange prints.

    Attributes:
        altname: the short name that harvester uses, such as XBTUSD.
        key: the exchange's own name, such as XXBTZUSD; see `delisted_pair`; empty if it is unknown.
        wsname: the name with a slash, such as XBT/USD; empty in old captures.
        base: the traded asset.
        quote: the asset that prices are in.
        aclass_base: the base's asset class, one of `ASSET_CLASSES`.
        pair_decimals: decimals of a price.
        lot_decimals: decimals of a volume.
        cost_decimals: decimals of a price times a volume.
        tick_size: the smallest step of a price.
        status: online, cancel_only and others; `UNKNOWN` if the exchange sends none.
    """

    altname: str
    key: str = ""
    wsname: str = ""
    base: str = ""
    quote: str = ""
    aclass_base: str = CURRENCY
    pair_decimals: int = 10
    lot_decimals: int = 8
    cost_decimals: int | None = None
    tick_size: str | None = None
    status: str = UNKNOWN

    @property
    def spellings(self) -> list[str]:
        """All names that the exchange itself uses for this market."""
        return list(dict.fromkeys(name for name in (self.altname, self.key, self.wsname) if name))

    @property
    def is_delisted(self) -> bool:
        """Whether it was imported as delisted, so that nothing of it can ever be downloaded."""
        return self.key.startswith(_DELISTED)


_KEY = re.compile(r"[XZ]([A-Z]{3})(?:Z(USD|EUR|GBP|CAD|JPY|KRW|AUD)|X(XBT|ETH))")
_QUOTES = "USD|EUR|GBP|CAD|JPY|KRW|AUD|CHF|ETH|XBT|BTC|USDT|USDC|DAI"
_ALIAS = re.compile(rf"^(?:BTC|DOGE)(?=(?:{_QUOTES})$)|(?<!W)BTC$")


def kraken_altname(name: str) -> str:
    """The altname that a name stands for by the exchange's rules, where no list of pairs has it.

    BTCUSD and XXBTZUSD are XBTUSD, and so is a name without a capital letter.
    """
    if name.islower():
        name = name.upper()
    if match := _KEY.fullmatch(name):
        name = "".join(filter(None, match.groups()))
    return _ALIAS.sub(lambda found: _ALIASES[found.group()], name)


def delisted_pair(altname: str) -> Pair:
    """A market that the exchange lists no more, known by the name of a file only.

    It has a key that no listed market has. Without a key, its folder would accept the trades of the
    next market that is given this name.
    """
    return Pair(altname=altname, key=f"{_DELISTED}{altname}")


def is_listed(pair: Pair, listed: dict[str, Pair]) -> bool:
    """Whether the exchange's list has a market, under its name or another one.

    Args:
        pair: the market; without a key it is known by its altname only.
        listed: the exchange's pairs by altname.
    """
    keys = {other.key for other in listed.values()}
    return pair.key in keys if pair.key else pair.altname in listed


_Decimals = Annotated[int, msgspec.Meta(ge=0, le=40)]


class _Row(msgspec.Struct):
    """A row of AssetPairs: only the altname is required; other fields may be null or missing."""

    altname: str
    wsname: str | None = None
    base: str | None = None
    quote: str | None = None
    aclass_base: str | None = None
    pair_decimals: _Decimals | None = None
    lot_decimals: _Decimals | None = None
    cost_decimals: _Decimals | None = None
    tick_size: str | None = None
    status: str | None = None


_asset_pair = msgspec.json.Decoder(_Row)


def read_pairs(result: dict[str, msgspec.Raw]) -> dict[str, Pair]:
    """Decode the `result` of AssetPairs into pairs by altname; bad rows are skipped with a warning.

    Raises:
        UnreadableAnswer: there are rows, but none of them can be used.
    """
    pairs: dict[str, Pair] = {}
    skipped: list[str] = []
    for key, raw in result.items():
        try:
            pair = _read_pair(key, raw)
        except BAD_JSON as error:
            skipped.append(f"{key!r} ({error})")
            continue
        if (first := pairs.setdefault(pair.altname, pair)) is not pair:
            skipped.append(f"{key!r} ({first.key!r} has the same altname {pair.altname})")
    if not skipped:
        return pairs
    shown = first_few(skipped, _MAX_LISTED)
    text = f"{len(skipped)} of {len(result)} pairs that the exchange lists can't be used: {shown}"
    if not pairs:
        raise UnreadableAnswer(text)
    logger.warning("AssetPairs: %s: skipped", text)
    return pairs


def _read_pair(key: str, raw: msgspec.Raw) -> Pair:
    """Decode one row of AssetPairs.

    Raises:
        ValueError: it does not have the documented shape, or its altname is unsafe as a path.
    """
    row = _asset_pair.decode(raw)
    if not _SAFE_NAME.fullmatch(row.altname) or ".." in row.altname:
        raise ValueError(f"its altname {row.altname!r} is not usable as a folder name")
    fields = {
        name: value for name, value in msgspec.structs.asdict(row).items() if value is not None
    }
    return Pair(**fields | {"key": key})


def check_market(pair: Pair, name: str) -> None:
    """Check that an answer is about the requested pair.

    Args:
        pair: the requested pair.
        name: the name that the answer gives its market.

    Raises:
        OtherMarket: it is another market.
    """
    if name not in pair.spellings:
        raise OtherMarket(
            f"the answer is about the market {name!r}, but {pair.key or pair.altname} was requested"
        )


class PairIndex:
    """Find pairs by any of their spellings."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        """Index these pairs; if two have the same spelling, the first one is found by it."""
        self._exact = _spellings(pairs)
        self._any_case: dict[str, list[str]] = {}
        for spelling in self._exact:
            self._any_case.setdefault(spelling.upper(), []).append(spelling)

    def resolve(self, text: str) -> Pair:
        """Find the pair that a person means by its altname, key or wsname, or with BTC for XBT.

        The exact spelling is tried first, then any case.

        Raises:
            UnknownPair: no market has this name; the message lists similar names.
            AmbiguousPair: no spelling is exact, and several markets differ from it by case only.
        """
        pair = self.find(text)
        if pair is not None:
            return pair
        bare = _SEPARATORS.sub("", text.strip().upper())
        near_misses = difflib.get_close_matches(bare, self._any_case, n=8)
        similar = [self._exact[self._any_case[name][0]] for name in near_misses]
        hints = list(dict.fromkeys(pair.altname for pair in similar))[:3]
        raise UnknownPair(
            f"no pair is called {text!r}"
            + (f"; similar names: {', '.join(hints)}" if hints else "")
            + ". `harvester pairs` lists the markets"
        )

    def find(self, text: str) -> Pair | None:
        """Find a pair like `resolve`, or return None if no market has this name."""
        typed = text.strip()
        bare = _SEPARATORS.sub("", typed)
        for spelling in (typed, bare):
            if spelling in self._exact:
                return self._exact[spelling]
        for spelling in (typed.upper(), bare.upper()):
            if spelling in self._any_case:
                return self._same_market(text, self._any_case[spelling])
        return None

    def _same_market(self, text: str, spellings: list[str]) -> Pair:
        """Return the market, if spellings that differ only by case all mean one.

        Raises:
            AmbiguousPair: they are several markets, and not one market that was renamed.
        """
        pairs = [self._exact[spelling] for spelling in spellings]
        if len({pair.key or pair.altname for pair in pairs}) == 1:
            return pairs[0]
        names = " and ".join(sorted({pair.altname for pair in pairs}))
        raise AmbiguousPair(
            f"{text!r} may mean {names}, which differ by case: give the exact spelling"
        )


def is_pattern(text: str) -> bool:
    """Whether a text is a pattern such as `*/EUR`, which stands for all pairs that match it."""
    return "*" in text or "?" in text


def match_pattern(pattern: str, pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs whose altname or wsname matches a pattern, in any case, also with BTC for XBT.

    `*` stands for any characters and `?` for one. `*/EUR` matches wsnames only, as only they have a
    slash.
    """
    matches = re.compile(translate(pattern.strip().upper())).match
    return [pair for pair in pairs if any(matches(name) for name in _shown_names(pair))]


def of_class(pairs: Iterable[Pair], asset_class: str | None) -> list[Pair]:
    """The pairs of an asset class; all of them if it is None.

    Raises:
        UsageError: there is no such class.
    """
    if asset_class not in (None, *ASSET_CLASSES):
        classes = " or ".join(ASSET_CLASSES)
        raise UsageError(f"there is no asset class {asset_class!r}: give {classes}")
    return [pair for pair in pairs if asset_class in (None, pair.aclass_base)]


def quote_names(pair: Pair) -> set[str]:
    """All names of a pair's quote currency: USD and ZUSD, or BTC, XBT and XXBT."""
    short = pair.wsname.upper().partition("/")[2]
    kraken = pair.quote.upper()
    names = {short or _ASSET_PREFIX.sub("", kraken), kraken} - {""}
    return names | {_with_common_names(name) for name in names}


def altnames_by_spelling(pairs: Iterable[Pair], stored: Collection[str]) -> dict[str, str]:
    """Map each exact spelling of the stored pairs to its altname, by the rules of `resolve`.

    Spellings of other pairs are included if they differ from one of a stored pair by case only.

    Args:
        pairs: all known pairs.
        stored: altnames of the pairs in the archive.
    """
    exact = _spellings(pairs)
    near = {spelling.upper() for spelling, pair in exact.items() if pair.altname in stored}
    return {name: pair.altname for name, pair in exact.items() if name.upper() in near}


def search(text: str, pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs with `text` in one of their names, in any case, ordered by altname."""
    typed = _SEPARATORS.sub("", text.strip().upper())
    swapped = _with_kraken_names(typed)
    return sorted(
        (
            pair
            for pair in pairs
            if any(
                part in _SEPARATORS.sub("", name.upper())
                for name in pair.spellings
                for part in (typed, swapped)
            )
        ),
        key=lambda pair: pair.altname,
    )


def _spellings(pairs: Iterable[Pair]) -> dict[str, Pair]:
    """Map each spelling to its pair: the exchange's names first, then names that people type."""
    by_altname: dict[str, Pair] = {}
    for pair in pairs:
        by_altname.setdefault(pair.altname, pair)
    names, aliases = dict(by_altname), dict[str, Pair]()
    for pair in by_altname.values():
        for name in pair.spellings:
            names.setdefault(name, pair)
            aliases.setdefault(_SEPARATORS.sub("", name), pair)
        base, slash, quote = pair.wsname.partition("/")
        if slash:
            usual = {kraken: human for human, kraken in _ALIASES.items()}
            for base_name in {base, usual.get(base, base)}:
                for quote_name in {quote, usual.get(quote, quote)}:
                    aliases.setdefault(base_name + quote_name, pair)
    for pair in by_altname.values():
        # Pairs in old captures have no wsname, so the alias is made from their altname.
        for human, kraken in _ALIASES.items():
            aliases.setdefault(pair.altname.replace(kraken, human), pair)
    return aliases | names


def _shown_names(pair: Pair) -> set[str]:
    """The altname and wsname in capitals, and both with BTC for XBT."""
    names = {name.upper() for name in (pair.altname, pair.wsname) if name}
    return names | {_with_common_names(name) for name in names}


def _with_common_names(text: str) -> str:
    """A name with BTC for XBT and DOGE for XDG."""
    for human, kraken in _ALIASES.items():
        text = text.replace(kraken, human)
    return text


def _with_kraken_names(text: str) -> str:
    """A name with XBT for BTC and XDG for DOGE."""
    for human, kraken in _ALIASES.items():
        text = text.replace(human, kraken)
    return text
