"""Names of pairs for an archive: from what it keeps, else from the exchange."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from harvester.archive import state
from harvester.archive.archive import Archive
from harvester.archive.writer import keep_pairs
from harvester.errors import ArchiveDamaged, NothingHeld, UnknownPair
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair, resolve


def known_pairs(archive: Archive) -> dict[str, Pair]:
    """The pairs that the archive keeps names of, and those it holds, by altname."""
    raw = state.known_pairs(archive.store)
    try:
        pairs = msgspec.json.decode(raw, type=dict[str, Pair]) if raw else {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArchiveDamaged(
            f"{archive.store.location('pairs.json')} can't be read ({error}): "
            "remove it; the next backfill writes it anew"
        ) from error
    for name in archive.held():
        pairs.setdefault(name, Pair(altname=name))
    return pairs


async def resolve_with(client: Client, archive: Archive, texts: Sequence[str]) -> list[Pair]:
    """The pairs that people mean, each once, in their order.

    The exchange is asked only for names that the archive does not know.

    Raises:
        UnknownPair: neither knows one of them.
    """
    try:
        return _resolve(texts, known_pairs(archive).values())
    except UnknownPair:
        pairs = await refresh_pairs(client, archive)
        return _resolve(texts, pairs.values())


async def refresh_pairs(client: Client, archive: Archive) -> dict[str, Pair]:
    """Ask the exchange for its markets and keep them; pairs that are held are never dropped."""
    asked = await client.pairs()
    before = known_pairs(archive)
    held = {name: before[name] for name in archive.held()}
    pairs = {**held, **asked}
    keep_pairs(archive, msgspec.json.encode(pairs))
    return pairs


def resolve_held(archive: Archive, text: str) -> Pair:
    """The pair of an archive that a person means, without asking anybody.

    Raises:
        NothingHeld: the archive holds no trades of it; the message names what it holds.
    """
    held = archive.held()
    pairs = known_pairs(archive)
    try:
        pair = resolve(text, pairs.values())
    except UnknownPair:
        pair = None
    if pair is not None and pair.altname in held:
        return pair
    names = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")
    raise NothingHeld(
        f"the archive at {archive.path} holds no trades of {text!r}; "
        + (f"it holds {names}. " if held else "it is empty. ")
        + f"`harvester backfill {text}` fetches them"
    )


def resolve_named(archive: Archive, text: str) -> str:
    """The altname of a pair that an archive holds, or was ever asked for.

    Raises:
        NothingHeld: it knows no such pair; the message names what it holds.
    """
    named = archive.named()
    pairs = {**{name: Pair(altname=name) for name in named}, **known_pairs(archive)}
    try:
        name = resolve(text, pairs.values()).altname
    except UnknownPair:
        name = ""
    return name if name in named else resolve_held(archive, text).altname


def _resolve(texts: Sequence[str], pairs: Iterable[Pair]) -> list[Pair]:
    book = list(pairs)
    return list({pair.altname: pair for pair in (resolve(text, book) for text in texts)}.values())
