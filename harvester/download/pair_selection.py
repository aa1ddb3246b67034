"""Select the pairs of a run by names, patterns, --all and --quote; keep pairs.json up to date."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import msgspec

from harvester.errors import (
    ExchangeRefused,
    UnknownPair,
    UsageError,
    market_changed_text,
)
from harvester.kraken.pairs import Pair, PairIndex, is_pattern, match_pattern, quote_names
from harvester.pair_names import known_pairs
from harvester.storage.archive_files import keep_pairs
from harvester.storage.trade_store import TradeStore

if TYPE_CHECKING:
    from harvester.kraken.client import Client


logger = logging.getLogger("harvester.crawl")


def renamed(
    listed: Mapping[str, Pair], known: Mapping[str, Pair], held: Collection[str]
) -> dict[str, Pair]:
    """Find the pairs that the exchange lists under another altname than the archive does.

    A pair whose trades were also downloaded under its new name is not among them: the two stay
    apart.

    Args:
        listed: what the exchange lists now, by altname.
        known: the archive's pairs, by altname.
        held: altnames of pairs with stored trades.

    Returns:
        The pair as it is listed now, by the altname that the archive has.
    """
    by_key = {pair.key: pair for pair in listed.values() if pair.key}
    found = {}
    for name in held:
        key = known[name].key if name in known else ""
        now = by_key.get(key)
        if now is None or now.altname == name:
            continue
        there = known.get(now.altname)
        is_apart = now.altname in held and (there is None or there.key in ("", key))
        if not is_apart:
            found[name] = now
    return found


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
        everything: all pairs that the exchange lists, instead of names.
        quotes: restricts `everything` and patterns to pairs quoted in one of these currencies.
    """

    names: Sequence[PairName] = ()
    everything: bool = False
    quotes: Sequence[str] = ()

    @property
    def needs_the_list(self) -> bool:
        """Whether the exchange must be asked for what it lists now."""
        return self.everything or bool(self.quotes) or any(is_pattern(name) for name in self.names)


async def choose(client: Client, archive: TradeStore, choice: PairSelection) -> list[Pair]:
    """The selected pairs, each once, in the order of their names.

    Patterns and `everything` select from what the exchange lists now. For names alone the exchange
    is asked only if the archive does not know one of them.

    Args:
        client: of the exchange.
        archive: whose pairs.json is read and updated.
        choice: what the user selected.

    Raises:
        UnknownPair: no market has a name, matches a pattern, or is quoted in that currency.
        UsageError: a pair named in full is not quoted in that currency.
    """
    if not choice.needs_the_list:
        with suppress(UnknownPair):
            pairs = _chosen(choice, {}, known_pairs(archive))
            # Answers are compared with the pair's key, so a pair without a key needs the list.
            if all(pair.key for pair in pairs):
                return pairs
    listed = await _listed(client)
    known = _keep(archive, listed)
    selectable = _with_stored_names(listed, known, archive.held())
    return _chosen(choice, {pair.altname: pair for pair in selectable}, known)


async def _listed(client: Client) -> dict[str, Pair]:
    """The pairs that the exchange lists now, by altname; an empty list is no good answer."""
    listed = await client.pairs()
    if not listed:
        raise ExchangeRefused("the exchange lists no market at all: try again later")
    return listed


async def refresh_pairs(client: Client, archive: TradeStore) -> dict[str, Pair]:
    """Request the exchange's pairs and store them; pairs with stored trades are never dropped.

    Args:
        client: of the exchange.
        archive: whose pairs.json is written.
    """
    return _keep(archive, await _listed(client))


def _keep(archive: TradeStore, listed: dict[str, Pair]) -> dict[str, Pair]:
    """Write listed pairs, and those with stored trades, to pairs.json; returns them."""
    before = known_pairs(archive)
    held = {name: before[name] for name in archive.held()}
    pairs = {**held, **listed}
    for name, kept in held.items():
        if kept.key and pairs[name].key != kept.key:
            logger.warning("%s", market_changed_text(name, kept.key, pairs[name].key))
            # The name keeps meaning the market whose trades are stored.
            pairs[name] = kept
    keep_pairs(archive.store, msgspec.json.encode(pairs))
    return pairs


def _with_stored_names(
    listed: Mapping[str, Pair], known: Mapping[str, Pair], held: Collection[str]
) -> Iterator[Pair]:
    """The listed pairs; one whose trades are stored under another altname has that altname."""
    kept = renamed(listed, known, held)
    names = {now.altname: name for name, now in kept.items()}
    for pair in listed.values():
        if pair.altname in names:
            yield msgspec.structs.replace(pair, altname=names[pair.altname])
        elif pair.altname not in kept:
            yield pair


def _chosen(choice: PairSelection, listed: dict[str, Pair], known: dict[str, Pair]) -> list[Pair]:
    """The selected pairs of those `listed` now; names in full select from all those `known`."""
    quotes = {quote.strip().upper() for quote in choice.quotes}
    for quote in choice.quotes:
        _check_quote(quote, listed.values())

    def quoted(pair: Pair) -> bool:
        return not quotes or bool(quotes & quote_names(pair))

    if choice.everything:
        return [pair for pair in listed.values() if quoted(pair)]
    names = PairIndex(known.values())
    chosen: dict[str, Pair] = {}
    for name in choice.names:
        try:
            found = _pairs_of_name(name, listed, names, quoted)
        except UsageError as error:
            raise type(error)(f"{name.source}: {error}" if name.source else str(error)) from error
        chosen |= {pair.altname: pair for pair in found}
    return list(chosen.values())


def _pairs_of_name(
    text: str, listed: dict[str, Pair], names: PairIndex, quoted: Callable[[Pair], bool]
) -> list[Pair]:
    """The pairs that a name or a pattern selects."""
    if not is_pattern(text):
        pair = names.resolve(text)
        if not quoted(pair):
            raise UsageError(
                f"{text!r} is not quoted in a currency of --quote: leave one of them out"
            )
        return [pair]
    found = match_pattern(text, listed.values())
    if not found:
        raise UnknownPair(f"no pair matches {text!r}: `harvester pairs` lists the markets")
    found = [pair for pair in found if quoted(pair)]
    if not found:
        raise UnknownPair(f"no pair that matches {text!r} is quoted in a currency of --quote")
    return found


def _check_quote(quote: str, pairs: Collection[Pair]) -> None:
    """Raise UnknownPair if no pair is quoted in a currency."""
    known = Counter(pair.wsname.partition("/")[2] or pair.quote for pair in pairs)
    if not any(quote.strip().upper() in quote_names(pair) for pair in pairs):
        names = [name for name, _ in known.most_common()]
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        raise UnknownPair(
            f"no pair is quoted in {quote!r}: the exchange quotes in {', '.join(names[:12])}{more}"
        )


async def listed_and_known(
    client: Client, archive: TradeStore
) -> tuple[dict[str, Pair], dict[str, Pair]]:
    """The pairs that the exchange lists now, and those with the archive's other pairs.

    Both are by altname.

    Args:
        client: of the exchange.
        archive: whose pairs.json is written.
    """
    listed = await client.pairs()
    return listed, _keep(archive, listed)
