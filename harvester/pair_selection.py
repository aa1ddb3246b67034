"""Select the pairs of a command or a refresh by name, pattern, quote or class; keep pairs.json."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from harvester.errors import (
    BAD_JSON,
    ArchiveDamaged,
    ExchangeRefused,
    HarvesterError,
    MarketChanged,
    NothingStored,
    UnknownPair,
    UsageError,
    first_few,
    market_changed_text,
)
from harvester.kraken.answers import is_unknown_pair
from harvester.kraken.pairs import (
    Pair,
    PairIndex,
    is_listed,
    is_pattern,
    match_pattern,
    of_class,
    quote_names,
)
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.trade_store import TradeStore
from harvester.times import Range

if TYPE_CHECKING:
    from harvester.kraken.client import Client

# --- pair names -----------------------------------------------------------------------------------


def known_pairs(archive: TradeStore, stored: Iterable[str] | None = None) -> dict[str, Pair]:
    """The pairs of pairs.json and those with stored trades, by altname.

    Args:
        archive: whose pairs.
        stored: altnames of the pairs with stored trades; by default they are listed.

    Raises:
        ArchiveDamaged: pairs.json can't be read.
    """
    raw = archive.store.read("pairs.json")
    try:
        pairs = msgspec.json.decode(raw, type=dict[str, Pair]) if raw else {}
    except BAD_JSON as error:
        raise ArchiveDamaged(
            f"{archive.store.location('pairs.json')} can't be read ({error}): "
            "`harvester pairs --update` writes it again"
        ) from error
    for name in archive.stored_pairs() if stored is None else stored:
        if name not in pairs:
            pairs[name] = _pair_of_segments(archive, name)
    return pairs


def _pair_of_segments(archive: TradeStore, name: str) -> Pair:
    """A pair by its description in a segment, where pairs.json does not have it."""
    footer = archive.market_footer(name)
    if footer is not None:
        with suppress(*BAD_JSON):
            pair = msgspec.json.decode(footer.pair_json, type=Pair)
            return msgspec.structs.replace(pair, altname=name)
    return Pair(altname=name)


def _stored_by_altname(archive: TradeStore, text: str) -> Pair | None:
    """Return the stored pair whose altname is exactly `text`.

    An exact altname wins over other spellings.

    The folders of all other pairs are not listed: of 1,400 pairs, that takes a second.
    """
    pair = known_pairs(archive, stored=()).get(text)
    if pair is None and f"pair={text}" in archive.store.folders("trades"):
        pair = _pair_of_segments(archive, text)
    return pair if pair and pair.altname == text and archive.segments(text) else None


def resolve_stored(archive: TradeStore, text: str) -> Pair:
    """The pair with stored trades that a name means, in any spelling.

    Args:
        archive: whose pairs.
        text: the name.

    Raises:
        UsageError: the name is empty.
        NothingStored: no trades of it are stored; the message names pairs that are.
        AmbiguousPair: several markets have that name, which differ by case.
    """
    if not text.strip():
        raise UsageError("a pair's name is empty: give one such as XBT/USD")
    if pair := _stored_by_altname(archive, text):
        return pair
    stored = archive.stored_pairs()
    pairs = known_pairs(archive, stored)
    pair = PairIndex(pairs.values()).find(text)
    if pair is not None:
        pair = as_stored(pair, pairs, stored)
        if pair.altname in stored:
            return pair
    if pair is None and archive.store.read("pairs.json") is not None:
        # pairs.json lists all markets, so a backfill would refuse the name.
        advice = "`harvester pairs --update` lists the markets"
    else:
        advice = f"`harvester backfill {shlex.quote(text)}` downloads them"
    examples = archive.stored_pairs_text(stored)
    raise NothingStored(
        f"the archive at {archive.path} holds no trades of {text!r}; {examples}. {advice}"
    )


def stored_altnames(archive: TradeStore, texts: Iterable[str]) -> list[str]:
    """The altnames of stored pairs, each once; of all stored pairs if no name is given.

    Args:
        archive: whose pairs.
        texts: names in any spelling.

    Raises:
        NothingStored: no trades of one of them are stored.
    """
    named = dict.fromkeys(resolve_stored(archive, text).altname for text in texts)
    return list(named) or archive.stored_pairs()


def altname_of_known_pair(archive: TradeStore, text: str) -> str:
    """The altname of a pair whose trades are stored, or were ever requested.

    Args:
        archive: whose pairs.
        text: the name, in any spelling.

    Raises:
        NothingStored: there is no such pair; the message names pairs with stored trades.
        AmbiguousPair: several markets have that name, which differ by case.
    """
    if pair := _stored_by_altname(archive, text):
        return pair.altname
    named = archive.stored_or_requested()
    pairs = {**{name: Pair(altname=name) for name in named}, **known_pairs(archive)}
    pair = PairIndex(pairs.values()).find(text)
    return pair.altname if pair and pair.altname in named else resolve_stored(archive, text).altname


# --- pair selection -------------------------------------------------------------------------------

logger = logging.getLogger("harvester.pair_selection")


def renamed(
    listed: Mapping[str, Pair], known: Mapping[str, Pair], stored: Collection[str]
) -> dict[str, Pair]:
    """Find the pairs that the exchange lists under another altname than the archive does.

    A pair whose trades were also downloaded under its new name is not among them: the two stay
    apart.

    Args:
        listed: what the exchange lists now, by altname.
        known: the archive's pairs, by altname.
        stored: altnames of pairs with stored trades.

    Returns:
        The pair as it is listed now, by the altname that the archive has.
    """
    by_key = {pair.key: pair for pair in listed.values() if pair.key}
    found = {}
    for name in stored:
        key = known[name].key if name in known else ""
        now = by_key.get(key)
        if now is None or now.altname == name:
            continue
        there = known.get(now.altname)
        is_apart = now.altname in stored and (there is None or there.key in ("", key))
        if not is_apart:
            found[name] = now
    return found


def as_stored(pair: Pair, known: Mapping[str, Pair], stored: Collection[str]) -> Pair:
    """The pair under the altname of its stored trades, if the exchange renamed it since.

    So its trades have one history in one folder, whichever name is typed or a file has.

    Args:
        pair: the pair under any altname.
        known: the archive's pairs, by altname.
        stored: altnames of pairs with stored trades.
    """
    if not pair.key or pair.altname in stored:
        return pair
    names = (name for name in stored if name in known and known[name].key == pair.key)
    return msgspec.structs.replace(pair, altname=next(names, pair.altname))


class PairName(str):
    """A name or a pattern such as `*/EUR`; `source` is where it was read, for error messages."""

    source: str

    def __new__(cls, text: str, source: str = "") -> Self:
        """`source` is the file and line, such as `pairs.txt, line 3`; empty for an argument."""
        name = super().__new__(cls, text)
        name.source = source
        return name


@dataclass(frozen=True, slots=True)
class PairSelection:
    """Which pairs a user selected.

    Attributes:
        names: names and patterns.
        all_pairs: all pairs that the exchange lists, instead of names.
        quotes: restricts `all_pairs` and patterns to pairs quoted in one of these currencies.
        asset_class: restricts them to pairs of this class; None for all.
    """

    names: Sequence[PairName] = ()
    all_pairs: bool = False
    quotes: Sequence[str] = ()
    asset_class: str | None = None


async def select_pairs(
    client: Client, archive: TradeStore, selection: PairSelection, *, may_write: bool = True
) -> list[Pair]:
    """The selected pairs, each once, in the order of their names.

    Patterns and `all_pairs` select from what the exchange lists now. For names alone the exchange
    is asked only if the archive does not know one of them.

    Args:
        client: of the exchange.
        archive: whose pairs.json is read and updated.
        selection: what the user selected.
        may_write: whether pairs.json may be written.

    Raises:
        UnknownPair: no market has a name, matches a pattern, is quoted in that currency, or is of
            that class.
        UsageError: a pair named in full is not quoted in that currency, or is of another class.
    """
    is_limited, stored = bool(selection.quotes or selection.asset_class), archive.stored_pairs()
    if not (selection.all_pairs or is_limited or any(map(is_pattern, selection.names))):
        with suppress(UnknownPair, ArchiveDamaged):
            pairs = _select(selection, {}, known_pairs(archive, stored), stored)
            # Answers are compared with the pair's key, so a pair without its own needs the list.
            if all(pair.key and not pair.is_delisted for pair in pairs):
                return pairs
    listed, known = await request_pairs(client, archive, may_write=may_write)
    renamed_pairs = renamed(listed, known, stored)
    stored_names = {now.altname: name for name, now in renamed_pairs.items()}
    selectable = {}
    for name, pair in listed.items():
        if name in stored_names:
            old_name = stored_names[name]
            selectable[old_name] = msgspec.structs.replace(pair, altname=old_name)
        elif name not in renamed_pairs:
            selectable[name] = pair
    return _select(selection, selectable, known, stored)


async def request_pairs(
    client: Client, archive: TradeStore, *, may_be_empty: bool = False, may_write: bool = True
) -> tuple[dict[str, Pair], dict[str, Pair]]:
    """Request the exchange's pairs and write pairs.json; pairs with stored trades are kept in it.

    Args:
        client: of the exchange.
        archive: whose pairs.json is written.
        may_be_empty: whether an empty list is a good answer.
        may_write: whether pairs.json may be written.

    Returns:
        The pairs that the exchange lists now, and those of pairs.json, both by altname.

    Raises:
        ExchangeRefused: the exchange lists no pair.
    """
    listed = await client.pairs()
    if not (listed or may_be_empty):
        raise ExchangeRefused("the exchange lists no market at all: try again later")
    names = archive.stored_pairs()
    try:
        before = known_pairs(archive, names)
    except ArchiveDamaged:
        logger.warning("pairs.json could not be read, and is written again")
        before = {name: _pair_of_segments(archive, name) for name in names}
    stored = {name: before[name] for name in names}
    pairs = {**stored, **listed}
    for name, pair in stored.items():
        if pair.key and pairs[name].key != pair.key:
            logger.warning("%s", market_changed_text(name, pair.key, pairs[name].key))
            # The name keeps meaning the market whose trades are stored.
            pairs[name] = pair
    if may_write:
        store_pairs(archive.store, msgspec.json.encode(pairs))
    return listed, pairs


class PairListOfRun:
    """The exchange's pairs, requested when they are first needed, once for all pairs of a run."""

    def __init__(self, client: Client, archive: TradeStore) -> None:
        self._client = client
        self._archive = archive
        # Commands that only read have no use for it, and it takes a twentieth of their time.
        import asyncio  # noqa: PLC0415

        self._pairs: tuple[dict[str, Pair], dict[str, Pair]] | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> dict[str, Pair]:
        """The pairs by altname, with those of stored trades; see `request_pairs`."""
        return (await self._request())[1]

    async def find(self, pair: Pair) -> tuple[Pair, bool]:
        """Complete a pair's key, and say whether the exchange still serves the pair.

        If it is not listed, a page is requested to find out.
        """
        listed, known = await self._request()
        pair = pair if pair.key else known.get(pair.altname, pair)
        if pair.is_delisted or is_listed(pair, listed):
            return pair, not pair.is_delisted
        try:
            await self._client.page(pair, None)
        except ExchangeRefused as refusal:
            if is_unknown_pair(refusal):
                return pair, False
            raise
        return pair, True

    async def _request(self) -> tuple[dict[str, Pair], dict[str, Pair]]:
        async with self._lock:
            if self._pairs is None:
                self._pairs = await request_pairs(self._client, self._archive)
        return self._pairs


def _select(
    selection: PairSelection,
    listed: dict[str, Pair],
    known: dict[str, Pair],
    stored: Collection[str],
) -> list[Pair]:
    """The selected pairs of those `listed` now; names in full select from all those `known`."""
    quotes = {quote.strip().upper() for quote in selection.quotes}
    is_limited = selection.asset_class or selection.quotes
    selectable = _selectable(selection, listed) if is_limited else list(listed.values())

    if selection.all_pairs:
        return [pair for pair in selectable if not quotes or quotes & quote_names(pair)]
    names = PairIndex(known.values())
    same_class = names
    if selection.asset_class:
        same_class = PairIndex(of_class(known.values(), selection.asset_class))
    chosen: dict[str, Pair] = {}
    for name in selection.names:
        source = f"{name.source}: " if name.source else ""
        try:
            pairs = (
                match_pattern(name, selectable)
                if is_pattern(name)
                else [as_stored(same_class.find(name) or names.resolve(name), known, stored)]
            )
        except UnknownPair as error:
            raise type(error)(f"{source}{error}") from error
        found = [pair for pair in pairs if not quotes or quotes & quote_names(pair)]
        if not pairs:
            limit = f" in the class {selection.asset_class}" if selection.asset_class else ""
            raise UnknownPair(
                f"{source}no pair{limit} matches {name!r}: `harvester pairs` lists the markets"
            )
        if selection.asset_class and not of_class(pairs, selection.asset_class):
            raise UsageError(
                f"{source}{name!r} is not of the class {selection.asset_class}: "
                "leave out the pair or the class filter"
            )
        if not found and is_pattern(name):
            raise UnknownPair(
                f"{source}no pair matches {name!r} and is quoted in {', '.join(selection.quotes)}"
            )
        if not found:
            raise UsageError(
                f"{source}{name!r} is not quoted in {', '.join(selection.quotes)}: "
                "leave out the pair or the quote filter"
            )
        chosen |= {pair.altname: pair for pair in found}
    return list(chosen.values())


def _selectable(selection: PairSelection, listed: dict[str, Pair]) -> list[Pair]:
    """The listed pairs of the selected class; raise UnknownPair if none has its class or quotes."""
    pairs = of_class(listed.values(), selection.asset_class)
    if selection.asset_class and not (pairs or selection.names):
        raise UnknownPair(f"the exchange lists no pair of the class {selection.asset_class}")
    for quote in selection.quotes:
        if not any(quote.strip().upper() in quote_names(pair) for pair in pairs):
            known = Counter(pair.wsname.partition("/")[2] or pair.quote for pair in pairs)
            names = first_few([name for name, _ in known.most_common()], 12)
            raise UnknownPair(f"no pair is quoted in {quote!r}: the exchange quotes in {names}")
    return pairs


# --- pairs of a refresh ---------------------------------------------------------------------------


class RefreshTarget(NamedTuple):
    """A pair to be refreshed.

    Attributes:
        pair: the market as the exchange has it now, with the altname that the archive has.
        listed: whether the exchange still lists it.
        renamed_to: the exchange's present name, if that is another one.
        error: why it can't be refreshed. If the text is no pair's name, `pair.altname` is the text.
    """

    pair: Pair
    listed: bool = True
    renamed_to: str | None = None
    error: HarvesterError | None = None


class RefreshCandidates(NamedTuple):
    """All pairs that a refresh can mean.

    Attributes:
        listed: what the exchange lists now, by altname.
        known: all pairs that the archive knows the names of, by altname.
        stored: altnames of the pairs that are stored, or were requested.
        asset_class: restricts patterns, and the stored pairs where no names are given; None for all
            classes.
    """

    listed: Mapping[str, Pair]
    known: Mapping[str, Pair]
    stored: Sequence[str]
    asset_class: str | None = None

    def of_class(self, names: Iterable[str]) -> list[Pair]:
        """The pairs of the asset class that have these altnames."""
        return of_class(
            [self.known.get(name, Pair(altname=name)) for name in names], self.asset_class
        )


def select_refresh_targets(texts: Sequence[str], pairs: RefreshCandidates) -> list[RefreshTarget]:
    """Select the pairs that names and patterns mean, each once; all stored pairs without any.

    A pair whose altname changed but whose key did not is the same market, with one trade history:
    it is requested by its key, and stored under the name that it has here. Its new name means the
    same pair.

    Args:
        texts: names in any spelling, and patterns such as `*/EUR`.
        pairs: what they are looked up in.

    Raises:
        NothingStored: no names are given, and no stored pair is of the asset class.
    """
    renamed_pairs = renamed(pairs.listed, pairs.known, pairs.stored)
    stored_names = {
        now.altname: name for name, now in renamed_pairs.items() if now.altname not in pairs.stored
    }
    spellings = PairIndex(pairs.known.values())
    names: dict[str, UnknownPair | None] = {}
    texts = texts or [pair.altname for pair in pairs.of_class(pairs.stored)]
    if not texts:
        raise NothingStored(f"no stored pair is of the class {pairs.asset_class}")
    for text in texts:
        try:
            found = [pair.altname for pair in _matching(text, pairs, spellings)]
        except UnknownPair as error:
            names[text] = error
            continue
        names |= {stored_names.get(name, name): None for name in found}
    return [
        RefreshTarget(Pair(altname=name), listed=False, error=error)
        if error
        else _target(name, pairs, renamed_pairs)
        for name, error in names.items()
    ]


def last_start(requested: Sequence[Range], now_ns: int) -> int | None:
    """Return `after` of the last requested range, from which a refresh continues.

    None if nothing was requested.

    Args:
        requested: the ranges that were requested, in order.
        now_ns: this machine's time: what begins in the future counts only if nothing else does.
    """
    starts = [part.after for part in requested]
    past_starts = [start for start in starts if start < now_ns] or starts
    return past_starts[-1] if past_starts else None


def _target(
    name: str, pairs: RefreshCandidates, renamed_pairs: Mapping[str, Pair]
) -> RefreshTarget:
    if name in renamed_pairs:
        now = renamed_pairs[name]
        return RefreshTarget(msgspec.structs.replace(now, altname=name), renamed_to=now.altname)
    if name in pairs.listed:
        before, now = pairs.known.get(name), pairs.listed[name]
        if before is not None and before.key and before.key != now.key:
            return RefreshTarget(before, error=MarketChanged(name, before.key, now.key))
        return RefreshTarget(now)
    gone = pairs.known.get(name, Pair(altname=name))
    present_names = (pair.altname for pair in pairs.listed.values() if pair.key == gone.key)
    renamed_to = next(present_names, None) if gone.key else None
    return RefreshTarget(gone, listed=False, renamed_to=renamed_to)


def _matching(text: str, pairs: RefreshCandidates, spellings: PairIndex) -> list[Pair]:
    """Find the pairs of a name, or the listed and stored pairs that match a pattern."""
    if text in pairs.stored:
        return [pairs.known.get(text, Pair(altname=text))]
    if not is_pattern(text):
        return [spellings.resolve(text)]
    names = [*pairs.listed, *(name for name in pairs.stored if name not in pairs.listed)]
    found = match_pattern(text, pairs.of_class(names))
    if not found:
        limit = f" in the class {pairs.asset_class}" if pairs.asset_class else ""
        raise UnknownPair(f"no pair{limit} matches {text!r}: `harvester pairs` lists the markets")
    return found
