"""Resolve the name of a pair that an archive knows, without asking the exchange."""

from __future__ import annotations

import shlex
from contextlib import suppress

import msgspec

from harvester.errors import BAD_JSON, AmbiguousPair, ArchiveDamaged, NothingHeld, UnknownPair
from harvester.kraken.pairs import Pair, resolve
from harvester.storage.trade_store import TradeStore


def known_pairs(archive: TradeStore) -> dict[str, Pair]:
    """The pairs of pairs.json and those with stored trades, by altname.

    Raises:
        ArchiveDamaged: pairs.json can't be read.
    """
    raw = archive.store.read("pairs.json")
    try:
        pairs = msgspec.json.decode(raw, type=dict[str, Pair]) if raw else {}
    except BAD_JSON as error:
        raise ArchiveDamaged(
            f"{archive.store.location('pairs.json')} can't be read ({error}): "
            "remove it; the next backfill writes it again"
        ) from error
    for name in archive.held():
        if name not in pairs:
            pairs[name] = _pair_of_segments(archive, name)
    return pairs


def _pair_of_segments(archive: TradeStore, name: str) -> Pair:
    """A pair by its description in a segment, where pairs.json does not have it."""
    footer = archive.market_footer(name)
    if footer is not None:
        with suppress(*BAD_JSON):
            pair = msgspec.json.decode(footer.pair, type=Pair)
            return msgspec.structs.replace(pair, altname=name)
    return Pair(altname=name)


def resolve_held(archive: TradeStore, text: str) -> Pair:
    """The pair with stored trades that a name means, in any spelling.

    Args:
        archive: whose pairs.
        text: the name.

    Raises:
        NothingHeld: no trades of it are stored; the message names pairs that are.
        AmbiguousPair: several markets have that name, which differ by case.
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
    if pair is None and archive.store.read("pairs.json") is not None:
        # pairs.json lists all markets, so a backfill would refuse the name.
        advice = "`harvester pairs --update` lists the markets"
    else:
        advice = f"`harvester backfill {shlex.quote(text)}` fetches them"
    names = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")
    raise NothingHeld(
        f"the archive at {archive.path} holds no trades of {text!r}; "
        + (f"it holds {names}. " if held else "it is empty. ")
        + advice
    )


def resolve_named(archive: TradeStore, text: str) -> str:
    """The altname of a pair whose trades are stored, or were ever requested.

    Args:
        archive: whose pairs.
        text: the name, in any spelling.

    Raises:
        NothingHeld: there is no such pair; the message names pairs with stored trades.
        AmbiguousPair: several markets have that name, which differ by case.
    """
    named = archive.stored_or_requested()
    pairs = {**{name: Pair(altname=name) for name in named}, **known_pairs(archive)}
    try:
        name = resolve(text, pairs.values()).altname
    except AmbiguousPair:
        raise
    except UnknownPair:
        name = ""
    return name if name in named else resolve_held(archive, text).altname
