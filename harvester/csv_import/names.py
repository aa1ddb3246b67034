"""Which pair a file is of, by its name; and which of many are wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from harvester.csv_import.sources import Member
from harvester.errors import AmbiguousPair, UnknownPair, UsageError
from harvester.kraken.pairs import Names, Pair, resolve
from harvester.times import LONGEST

_PATTERN = frozenset("*?[")
_CANDLES = re.compile(r"(.+)_([0-9]{1,8})", re.ASCII)


class Named(NamedTuple):
    """Members by their pairs, and those whose names nobody knows."""

    pairs: list[tuple[Pair, list[Member]]]
    unknown: list[Member]


def by_pair(members: Iterable[Member], known: Iterable[Pair]) -> Named:
    """The pair of each member, from its file's name; in the order of the first of each."""
    book = Names(known)
    found: dict[str, tuple[Pair, list[Member]]] = {}
    unknown = []
    for member in members:
        pair = book.find(member.stem)
        if pair is None:
            unknown.append(member)
        else:
            found.setdefault(pair.altname, (pair, []))[1].append(member)
    return Named(list(found.values()), unknown)


class CandleFile(NamedTuple):
    """A member that holds candles of so many minutes."""

    member: Member
    minutes: int


def candle_file(member: Member, book: Names) -> tuple[Pair, CandleFile] | None:
    """Whose candles a member holds, and which, by its name: `XBTUSD_60.csv` is XBTUSD's of an hour.

    None where its name is none of candles, or no pair fits it.
    """
    match = _CANDLES.fullmatch(member.stem)
    if match is None or not 0 < int(match[2]) <= LONGEST["m"]:
        return None
    pair = book.find(match[1])
    return None if pair is None else (pair, CandleFile(member, int(match[2])))


def as_named(name: str) -> Pair | None:
    """A pair that the exchange lists no more, by its altname; None where that can be none."""
    return Pair(altname=name) if name.isascii() and name.isalnum() and len(name) <= 40 else None


def chosen(members: Sequence[Member], texts: Sequence[str], known: Iterable[Pair]) -> list[Member]:
    """The members of some pairs: each named in any spelling, or by a pattern such as `*/EUR`.

    Raises:
        UsageError: one of the texts fits no member.
    """
    book = list(known)
    named = by_pair(members, book)
    spelled = {
        member: {*pair.spellings, member.stem} for pair, some in named.pairs for member in some
    }
    spelled |= {member: {member.stem} for member in named.unknown}
    wanted: set[Member] = set()
    for text in texts:
        fits = {member for member, names in spelled.items() if text in names}
        if not fits and not _PATTERN & set(text):
            fits = _of_pair(text, book, named)
        if not fits:
            fits = {member for member, names in spelled.items() if _fits(text.upper(), names)}
        if not fits:
            raise UsageError(
                f"--pairs {text}: none of the files is of it; --dry-run lists what they hold"
            )
        wanted |= fits
    return [member for member in members if member in wanted]


def _fits(text: str, names: set[str]) -> bool:
    if _PATTERN & set(text):
        return any(fnmatchcase(name.upper(), text) for name in names)
    return text in {name.upper() for name in names}


def _of_pair(text: str, book: list[Pair], named: Named) -> set[Member]:
    try:
        altname = resolve(text, book).altname
    except AmbiguousPair:
        raise
    except UnknownPair:
        return set()
    return {member for pair, some in named.pairs if pair.altname == altname for member in some}
