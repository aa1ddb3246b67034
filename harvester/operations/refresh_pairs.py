"""Choose the pairs of a refresh; find renamed and delisted pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from harvester.download.pair_selection import renamed
from harvester.errors import HarvesterError, MarketChanged, UnknownPair
from harvester.kraken.pairs import Names, Pair, is_pattern, matching

# --- targets --------------------------------------------------------------------------------------


class RefreshTarget(NamedTuple):
    """A pair to be refreshed.

    Attributes:
        pair: as the exchange is to be asked for it, under the name that the archive has for it.
        listed: whether the exchange has it still.
        renamed_to: what the exchange calls it now, where that is another name.
        error: why it can't be refreshed; where the text means no pair, `pair` bears the text.
    """

    pair: Pair
    listed: bool = True
    renamed_to: str | None = None
    error: HarvesterError | None = None


class Market(NamedTuple):
    """What the exchange lists now and what else the archive holds, both by altname."""

    listed: Mapping[str, Pair]
    known: Mapping[str, Pair]
    held: Sequence[str]


def targets(texts: Sequence[str], market: Market) -> list[RefreshTarget]:
    """The pairs that are meant, each once; those held where no text is given.

    A pair that bears another altname by now, but its key still, is one market with one tape: it is
    asked for by its key and kept on under the name that it has here. Its new name means the same.

    Args:
        texts: names in any spelling, and patterns such as `*/EUR`.
        market: see `Market`.
    """
    kept = renamed(market.listed, market.known, market.held)
    ours = {now.altname: name for name, now in kept.items() if now.altname not in market.held}
    book = Names(market.known.values())
    names: dict[str, UnknownPair | None] = {}
    for text in texts or market.held:
        try:
            found = [one.altname for one in _meant(text, market, book)]
        except UnknownPair as error:
            names[text] = error
            continue
        names |= {ours.get(name, name): None for name in found}
    return [
        RefreshTarget(Pair(altname=name), listed=False, error=error)
        if error
        else _target(name, market, kept)
        for name, error in names.items()
    ]


def _target(name: str, market: Market, kept: Mapping[str, Pair]) -> RefreshTarget:
    if name in kept:
        now = kept[name]
        return RefreshTarget(msgspec.structs.replace(now, altname=name), renamed_to=now.altname)
    if name in market.listed:
        before, now = market.known.get(name), market.listed[name]
        if before is not None and before.key and before.key != now.key:
            return RefreshTarget(before, error=MarketChanged(name, before.key, now.key))
        return RefreshTarget(now)
    gone = market.known.get(name, Pair(altname=name))
    return RefreshTarget(gone, listed=False, renamed_to=_successor(gone, market))


def _successor(gone: Pair, market: Market) -> str | None:
    now = _by_key(gone, market)
    return None if now is None else now.altname


def _by_key(pair: Pair, market: Market) -> Pair | None:
    if not pair.key:
        return None
    return next((one for one in market.listed.values() if one.key == pair.key), None)


def _meant(text: str, market: Market, names: Names) -> list[Pair]:
    """The pairs of a name or of a pattern; a pattern means what is listed, and what is held."""
    if text in market.held:
        return [market.known.get(text, Pair(altname=text))]
    if not is_pattern(text):
        return [names.resolve(text)]
    there = [*market.listed, *(name for name in market.held if name not in market.listed)]
    found = matching(text, [market.known.get(name, Pair(altname=name)) for name in there])
    if not found:
        raise UnknownPair(f"no pair matches {text!r}: `harvester pairs` lists the markets")
    return found
