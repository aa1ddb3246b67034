"""Resolve names, patterns, --all and --quote to pairs, from pairs.json or the exchange."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import msgspec

from harvester.errors import (
    BAD_JSON,
    AmbiguousPair,
    ArchiveDamaged,
    ExchangeRefused,
    NothingHeld,
    UnknownPair,
    UsageError,
    another_market,
)
from harvester.kraken.pairs import Names, Pair, is_pattern, matching, quotes_of, resolve
from harvester.storage import metadata
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import keep_pairs

if TYPE_CHECKING:
    from harvester.kraken.client import Client


# --- names ----------------------------------------------------------------------------------------

logger = logging.getLogger("harvester.crawl")


def known_pairs(archive: TradeStore) -> dict[str, Pair]:
    """The pairs that the archive keeps names of, and those it holds, by altname."""
    raw = metadata.known_pairs(archive.store)
    try:
        pairs = msgspec.json.decode(raw, type=dict[str, Pair]) if raw else {}
    except BAD_JSON as error:
        raise ArchiveDamaged(
            f"{archive.store.location('pairs.json')} can't be read ({error}): "
            "remove it; the next backfill writes it anew"
        ) from error
    for name in archive.held():
        if name not in pairs:
            pairs[name] = _of_files(archive, name)
    return pairs


def _of_files(archive: TradeStore, name: str) -> Pair:
    """A pair by what its files tell of the market, where pairs.json does not."""
    footer = archive.market(name)
    if footer is not None:
        with suppress(*BAD_JSON):
            pair = msgspec.json.decode(footer.pair, type=Pair)
            return msgspec.structs.replace(pair, altname=name)
    return Pair(altname=name)


def renamed(
    listed: Mapping[str, Pair], known: Mapping[str, Pair], held: Collection[str]
) -> dict[str, Pair]:
    """By the altname that the archive has, what the exchange lists under that market's key now.

    Only of pairs whose altname is another one now. Where the new name has been fetched by itself,
    the two stay apart.
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
    """Which pairs are meant.

    Attributes:
        names: names and patterns.
        everything: all that the exchange lists, instead of names.
        quotes: of `everything` and of patterns, only pairs quoted in one of these.
    """

    names: Sequence[PairName] = ()
    everything: bool = False
    quotes: Sequence[str] = ()

    @property
    def needs_the_list(self) -> bool:
        """Whether the exchange must be asked for what it lists now."""
        return self.everything or bool(self.quotes) or any(is_pattern(name) for name in self.names)


async def choose(client: Client, archive: TradeStore, choice: PairSelection) -> list[Pair]:
    """The pairs that are meant, each once, in the order they were named in.

    Patterns, and everything, mean what the exchange lists now; for names alone it is asked only
    where the archive does not know one of them.

    Raises:
        UnknownPair: no market goes by a name, fits a pattern, or is quoted so.
        UsageError: a pair named in full is not quoted so.
    """
    if not choice.needs_the_list:
        with suppress(UnknownPair):
            pairs = _chosen(choice, {}, known_pairs(archive))
            # Answers are compared with the key, so the list is asked for one that is not known.
            if all(pair.key for pair in pairs):
                return pairs
    listed = await _listed(client)
    known = _keep(archive, listed)
    here = _under_their_names_here(listed, known, archive.held())
    return _chosen(choice, {pair.altname: pair for pair in here}, known)


async def _listed(client: Client) -> dict[str, Pair]:
    """What the exchange lists now; that it lists nothing is no good answer."""
    listed = await client.pairs()
    if not listed:
        raise ExchangeRefused("the exchange lists no market at all: try again later")
    return listed


async def refresh_pairs(client: Client, archive: TradeStore) -> dict[str, Pair]:
    """Ask the exchange for its markets and keep them; pairs that are held are never dropped."""
    return _keep(archive, await _listed(client))


def _keep(archive: TradeStore, asked: dict[str, Pair]) -> dict[str, Pair]:
    before = known_pairs(archive)
    held = {name: before[name] for name in archive.held()}
    pairs = {**held, **asked}
    for name, kept in held.items():
        if kept.key and pairs[name].key != kept.key:
            logger.warning("%s", another_market(name, kept.key, pairs[name].key))
            # The name goes on meaning the market whose trades are there.
            pairs[name] = kept
    keep_pairs(archive, msgspec.json.encode(pairs))
    return pairs


def _under_their_names_here(
    listed: Mapping[str, Pair], known: Mapping[str, Pair], held: Collection[str]
) -> Iterator[Pair]:
    """What is listed now; a pair that is held under another altname goes by that one."""
    kept = renamed(listed, known, held)
    names = {now.altname: name for name, now in kept.items()}
    for pair in listed.values():
        if pair.altname in names:
            yield msgspec.structs.replace(pair, altname=names[pair.altname])
        elif pair.altname not in kept:
            yield pair


def _chosen(choice: PairSelection, listed: dict[str, Pair], known: dict[str, Pair]) -> list[Pair]:
    """What is meant of the pairs `listed` now, or named in full of all those `known`."""
    quotes = {quote.strip().upper() for quote in choice.quotes}
    for quote in choice.quotes:
        _mind_the_quote(quote, listed.values())

    def quoted(pair: Pair) -> bool:
        return not quotes or bool(quotes & quotes_of(pair))

    if choice.everything:
        return [pair for pair in listed.values() if quoted(pair)]
    book = Names(known.values())
    chosen: dict[str, Pair] = {}
    for name in choice.names:
        try:
            found = _meant(name, listed, book, quoted)
        except UsageError as error:
            raise type(error)(f"{name.source}: {error}" if name.source else str(error)) from error
        chosen |= {pair.altname: pair for pair in found}
    return list(chosen.values())


def _meant(
    text: str, listed: dict[str, Pair], book: Names, quoted: Callable[[Pair], bool]
) -> list[Pair]:
    if not is_pattern(text):
        pair = book.resolve(text)
        if not quoted(pair):
            raise UsageError(
                f"{text!r} is quoted in something else than --quote asks for: leave one of them out"
            )
        return [pair]
    found = matching(text, listed.values())
    if not found:
        raise UnknownPair(f"no pair fits {text!r}: `harvester pairs` lists the markets")
    found = [pair for pair in found if quoted(pair)]
    if not found:
        raise UnknownPair(f"no pair that fits {text!r} is quoted in what --quote asks for")
    return found


def _mind_the_quote(quote: str, pairs: Collection[Pair]) -> None:
    known = Counter(pair.wsname.partition("/")[2] or pair.quote for pair in pairs)
    if not any(quote.strip().upper() in quotes_of(pair) for pair in pairs):
        names = [name for name, _ in known.most_common()]
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        raise UnknownPair(
            f"no pair is quoted in {quote!r}: the exchange quotes in {', '.join(names[:12])}{more}"
        )


def resolve_held(archive: TradeStore, text: str) -> Pair:
    """The pair of an archive that a person means, without asking anybody.

    Raises:
        NothingHeld: the archive holds no trades of it; the message names what it holds.
        AmbiguousPair: several markets go by that name, which differ by case.
    """
    held = archive.held()
    pairs = known_pairs(archive)
    try:
        pair = resolve(text, pairs.values())
    except AmbiguousPair:
        raise
    except UnknownPair:
        pair = None
    if pair is not None and pair.altname in held:
        return pair
    if pair is None and metadata.known_pairs(archive.store) is not None:
        # The list that is kept is of all markets, so a backfill would refuse the name.
        advice = "`harvester pairs --update` lists the markets"
    else:
        advice = f"`harvester backfill {shlex.quote(text)}` fetches them"
    names = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")
    raise NothingHeld(
        f"the archive at {archive.path} holds no trades of {text!r}; "
        + (f"it holds {names}. " if held else "it is empty. ")
        + advice
    )


async def listed_and_known(
    client: Client, archive: TradeStore
) -> tuple[dict[str, Pair], dict[str, Pair]]:
    """What the exchange lists now, and with it what else the archive holds; both by altname."""
    listed = await client.pairs()
    return listed, _keep(archive, listed)


def resolve_named(archive: TradeStore, text: str) -> str:
    """The altname of a pair that an archive holds, or was ever asked for.

    Raises:
        NothingHeld: it knows no such pair; the message names what it holds.
        AmbiguousPair: several markets go by that name, which differ by case.
    """
    named = archive.named()
    pairs = {**{name: Pair(altname=name) for name in named}, **known_pairs(archive)}
    try:
        name = resolve(text, pairs.values()).altname
    except AmbiguousPair:
        raise
    except UnknownPair:
        name = ""
    return name if name in named else resolve_held(archive, text).altname
