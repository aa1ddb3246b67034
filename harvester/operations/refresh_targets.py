"""Choose the pairs of a refresh, and recognize renamed and delisted ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from harvester.errors import HarvesterError, MarketChanged, UnknownPair
from harvester.kraken.pairs import Pair, PairIndex, is_pattern, match_pattern
from harvester.pair_selection import renamed


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


class KnownPairs(NamedTuple):
    """All pairs that a refresh can mean.

    Attributes:
        listed: what the exchange lists now, by altname.
        known: all pairs that the archive knows the names of, by altname.
        stored: altnames of the pairs that are stored, or were requested.
    """

    listed: Mapping[str, Pair]
    known: Mapping[str, Pair]
    stored: Sequence[str]


def choose_targets(texts: Sequence[str], pairs: KnownPairs) -> list[RefreshTarget]:
    """Choose the pairs that names and patterns mean, each once; all stored pairs without any.

    A pair whose altname changed but whose key did not is the same market, with one trade history:
    it is requested by its key, and stored under the name that it has here. Its new name means the
    same pair.

    Args:
        texts: names in any spelling, and patterns such as `*/EUR`.
        pairs: what they are looked up in.
    """
    renamed_pairs = renamed(pairs.listed, pairs.known, pairs.stored)
    stored_names = {
        now.altname: name for name, now in renamed_pairs.items() if now.altname not in pairs.stored
    }
    spellings = PairIndex(pairs.known.values())
    names: dict[str, UnknownPair | None] = {}
    for text in texts or pairs.stored:
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


def _target(name: str, pairs: KnownPairs, renamed_pairs: Mapping[str, Pair]) -> RefreshTarget:
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


def _matching(text: str, pairs: KnownPairs, spellings: PairIndex) -> list[Pair]:
    """Find the pairs of a name, or the listed and stored pairs that match a pattern."""
    if text in pairs.stored:
        return [pairs.known.get(text, Pair(altname=text))]
    if not is_pattern(text):
        return [spellings.resolve(text)]
    names = [*pairs.listed, *(name for name in pairs.stored if name not in pairs.listed)]
    found = match_pattern(text, [pairs.known.get(name, Pair(altname=name)) for name in names])
    if not found:
        raise UnknownPair(f"no pair matches {text!r}: `harvester pairs` lists the markets")
    return found
