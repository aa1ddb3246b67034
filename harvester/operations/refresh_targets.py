"""Choose the pairs of a refresh, and recognize renamed and delisted ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from harvester.errors import HarvesterError, MarketChanged, NothingHeld, UnknownPair
from harvester.kraken.pairs import Pair, PairIndex, is_pattern, match_pattern, of_class
from harvester.pair_selection import renamed
from harvester.times import Range


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


def choose_targets(texts: Sequence[str], pairs: KnownPairs) -> list[RefreshTarget]:
    """Choose the pairs that names and patterns mean, each once; all stored pairs without any.

    A pair whose altname changed but whose key did not is the same market, with one trade history:
    it is requested by its key, and stored under the name that it has here. Its new name means the
    same pair.

    Args:
        texts: names in any spelling, and patterns such as `*/EUR`.
        pairs: what they are looked up in.

    Raises:
        NothingHeld: no names are given, and no stored pair is of the asset class.
    """
    renamed_pairs = renamed(pairs.listed, pairs.known, pairs.stored)
    stored_names = {
        now.altname: name for name, now in renamed_pairs.items() if now.altname not in pairs.stored
    }
    spellings = PairIndex(pairs.known.values())
    names: dict[str, UnknownPair | None] = {}
    texts = texts or [pair.altname for pair in pairs.of_class(pairs.stored)]
    if not texts:
        raise NothingHeld(f"no stored pair is of the class {pairs.asset_class}")
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


def last_start(wanted: Sequence[Range], now_ns: int) -> int | None:
    """The time behind which the last request of a pair began, which is continued; None without one.

    Args:
        wanted: the ranges that were requested, in order.
        now_ns: this machine's time: what begins in the future counts only if nothing else does.
    """
    starts = [requested.after for requested in wanted]
    past_starts = [start for start in starts if start < now_ns] or starts
    return past_starts[-1] if past_starts else None


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
    found = match_pattern(text, pairs.of_class(names))
    if not found:
        limit = f" in the class {pairs.asset_class}" if pairs.asset_class else ""
        raise UnknownPair(f"no pair{limit} matches {text!r}: `harvester pairs` lists the markets")
    return found
