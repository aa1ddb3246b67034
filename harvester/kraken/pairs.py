"""Names of markets: any spelling a person types becomes one `Pair`.

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

from harvester.errors import BAD_JSON, AmbiguousPair, UnknownPair, UnreadableAnswer
from harvester.kraken.decode import OtherMarket

logger = logging.getLogger("harvester.kraken")

UNKNOWN = "unknown"
"""The status of a pair where the exchange gives none."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,38}[A-Za-z0-9])?")
_SEPARATORS = re.compile(r"[/\-_: ]")
_ALIASES = {"BTC": "XBT", "DOGE": "XDG"}
_PREFIX = re.compile(r"^[XZ](?=[A-Z]{3}$)")
_MOST_NAMED = 5


class Pair(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One market in all its spellings, with the decimals the exchange shows it in."""

    altname: str
    key: str = ""
    wsname: str = ""
    base: str = ""
    quote: str = ""
    aclass_base: str = "currency"
    pair_decimals: int = 10
    lot_decimals: int = 8
    cost_decimals: int | None = None
    tick_size: str | None = None
    status: str = UNKNOWN

    @property
    def spellings(self) -> list[str]:
        """Every name the exchange itself gives it."""
        return list(dict.fromkeys(name for name in (self.altname, self.key, self.wsname) if name))


_Decimals = Annotated[int, msgspec.Meta(ge=0, le=40)]


class _Row(msgspec.Struct):
    """A row of AssetPairs: only the altname must be there, any other field may be null."""

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
    """AssetPairs' `result` as pairs by altname; a row that can't be used is skipped with a warning.

    Raises:
        UnreadableAnswer: there are rows, and none of them can be used.
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
            skipped.append(f"{key!r} (its altname {pair.altname} is that of {first.key!r}, too)")
    if not skipped:
        return pairs
    shown = ", ".join(skipped[:_MOST_NAMED])
    more = f" and {len(skipped) - _MOST_NAMED} more" if len(skipped) > _MOST_NAMED else ""
    text = f"{len(skipped)} of {len(result)} pairs that the exchange lists can't be used: {shown}"
    if not pairs:
        raise UnreadableAnswer(text + more)
    logger.warning("AssetPairs: %s%s: skipped", text, more)
    return pairs


def _read_pair(key: str, raw: msgspec.Raw) -> Pair:
    """One row of AssetPairs.

    Raises:
        ValueError: it is not of the documented shape, or its altname must not become a path.
    """
    row = _asset_pair.decode(raw)
    if not _SAFE_NAME.fullmatch(row.altname) or ".." in row.altname:
        raise ValueError(f"its altname {row.altname!r} is no name for a folder")
    given = {
        name: value for name, value in msgspec.structs.asdict(row).items() if value is not None
    }
    return Pair(**given | {"key": key})


def check_market(pair: Pair, name: str) -> None:
    """Compare the name that an answer gives its market with the pair that was asked for.

    Raises:
        OtherMarket: it is another one.
    """
    if name != pair.key and name not in pair.spellings:
        raise OtherMarket(
            f"an answer about the market {name!r} came where "
            f"{pair.key or pair.altname} was asked for"
        )


class Names:
    """Every spelling of some pairs, made ready to be looked up."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        """Of these pairs; where two bear the same spelling, the first of them goes by it."""
        self._exact = _spellings(pairs)
        self._any_case: dict[str, list[str]] = {}
        for spelling in self._exact:
            self._any_case.setdefault(spelling.upper(), []).append(spelling)

    def resolve(self, text: str) -> Pair:
        """The pair that a person means: altname, key or wsname, or BTC for XBT.

        The exact spelling counts first, then any other case.

        Raises:
            UnknownPair: no market goes by that name; the message names near misses.
            AmbiguousPair: only another case fits, and that of several markets.
        """
        pair = self.find(text)
        if pair is not None:
            return pair
        bare = _SEPARATORS.sub("", text.strip().upper())
        near = difflib.get_close_matches(bare, self._any_case, n=8)
        means = [self._exact[self._any_case[name][0]] for name in near]
        hints = list(dict.fromkeys(pair.altname for pair in means))[:3]
        raise UnknownPair(
            f"no pair is called {text!r}"
            + (f"; near it are {', '.join(hints)}" if hints else "")
            + ". `harvester pairs` lists the markets"
        )

    def find(self, text: str) -> Pair | None:
        """The same; None where no market goes by that name. It looks for no near misses."""
        wanted = text.strip()
        bare = _SEPARATORS.sub("", wanted)
        for spelling in (wanted, bare):
            if spelling in self._exact:
                return self._exact[spelling]
        for spelling in (wanted.upper(), bare.upper()):
            if spelling in self._any_case:
                return self._only(text, self._any_case[spelling])
        return None

    def _only(self, text: str, spellings: list[str]) -> Pair:
        """The pair of spellings that differ by case.

        Raises:
            AmbiguousPair: there are several, which are not one market that was renamed.
        """
        pairs = [self._exact[spelling] for spelling in spellings]
        if len({pair.key or pair.altname for pair in pairs}) == 1:
            return pairs[0]
        names = " and ".join(sorted({pair.altname for pair in pairs}))
        raise AmbiguousPair(
            f"{text!r} may mean {names}, which differ by case: give the exact spelling"
        )


def resolve(text: str, pairs: Iterable[Pair]) -> Pair:
    """The pair that a person means by `text`; see `Names.resolve`."""
    return Names(pairs).resolve(text)


def is_pattern(text: str) -> bool:
    """Whether a text means all pairs that fit it, such as `*/EUR`, instead of one."""
    return "*" in text or "?" in text


def matching(pattern: str, pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs whose altname or wsname fits a pattern, in any case, BTC for XBT.

    `*` stands for any characters and `?` for one; `*/EUR` fits wsnames alone, as only they have
    the slash.
    """
    fits = re.compile(translate(pattern.strip().upper())).match
    return [pair for pair in pairs if any(fits(name) for name in _shown_names(pair))]


def quotes_of(pair: Pair) -> set[str]:
    """What a pair is quoted in, as people may call it: USD, ZUSD; BTC, XBT, XXBT."""
    shown = pair.wsname.upper().partition("/")[2]
    own = pair.quote.upper()
    names = {shown or _PREFIX.sub("", own), own} - {""}
    return names | {_with_people(name) for name in names}


def spellings(pairs: Iterable[Pair], held: Collection[str]) -> dict[str, str]:
    """The altname that each spelling of held pairs means, letter by letter: what `resolve` goes by.

    Spellings of other pairs are among them where they differ from one of a held pair by case.

    Args:
        pairs: all that are known.
        held: altnames of those that are asked for.
    """
    exact = _spellings(pairs)
    near = {spelling.upper() for spelling, pair in exact.items() if pair.altname in held}
    return {name: pair.altname for name, pair in exact.items() if name.upper() in near}


def search(text: str, pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs that bear `text` in one of their names, ordered by altname."""
    wanted = _SEPARATORS.sub("", text.strip().upper())
    swapped = _with_aliases(wanted)
    return sorted(
        (
            pair
            for pair in pairs
            if any(
                part in _SEPARATORS.sub("", name.upper())
                for name in pair.spellings
                for part in (wanted, swapped)
            )
        ),
        key=lambda pair: pair.altname,
    )


def _spellings(pairs: Iterable[Pair]) -> dict[str, Pair]:
    """The pair of each spelling: names that the exchange gives, then names that people type."""
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
            people = {kraken: human for human, kraken in _ALIASES.items()}
            for one in {base, people.get(base, base)}:
                for other in {quote, people.get(quote, quote)}:
                    aliases.setdefault(one + other, pair)
    for pair in by_altname.values():
        # Old captures know pairs without a wsname; their altname is all there is to go by.
        for human, kraken in _ALIASES.items():
            aliases.setdefault(pair.altname.replace(kraken, human), pair)
    return aliases | names


def _shown_names(pair: Pair) -> set[str]:
    names = {name.upper() for name in (pair.altname, pair.wsname) if name}
    return names | {_with_people(name) for name in names}


def _with_people(text: str) -> str:
    for human, kraken in _ALIASES.items():
        text = text.replace(kraken, human)
    return text


def _with_aliases(text: str) -> str:
    for human, kraken in _ALIASES.items():
        text = text.replace(human, kraken)
    return text
