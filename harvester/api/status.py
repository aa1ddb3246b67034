"""What an archive holds of a pair."""

from __future__ import annotations

from typing import NamedTuple

from harvester.archive.archive import LISTINGS, Archive
from harvester.errors import ArchiveDamaged
from harvester.kraken.pairs import Pair
from harvester.times import Range


class PairStatus(NamedTuple):
    """What an archive holds of a pair. Times are published times, in nanoseconds.

    Attributes:
        pair: the altname.
        wsname: as the exchange writes it, such as XBT/USD.
        trades: how many are held.
        first_ns: when the first was published; None where there is none.
        last_ns: when the last was published.
        coverage: what has been fetched whole, each `(after, through]`.
        holes: what was asked for and is not covered.
        files: segments.
        bytes: their size.
    """

    pair: str
    wsname: str
    trades: int
    first_ns: int | None
    last_ns: int | None
    coverage: list[Range]
    holes: list[Range]
    files: int
    bytes: int


def status_of(archive: Archive, pair: Pair) -> PairStatus:
    """What an archive holds of a pair, by the footers of its files.

    Raises:
        ArchiveDamaged: a footer can't be read, or files keep vanishing.
    """
    for _ in range(LISTINGS):
        try:
            return _status_of(archive, pair)
        except FileNotFoundError:
            continue
    raise ArchiveDamaged(f"files of {pair.altname} keep vanishing while they are read: try again")


def _status_of(archive: Archive, pair: Pair) -> PairStatus:
    segments = archive.segments(pair.altname)
    rows = [one for one in segments if archive.footer(one).rows]
    first = archive.bounds(rows[0]) if rows else None
    last = archive.bounds(rows[-1]) if rows else None
    return PairStatus(
        pair.altname,
        pair.wsname,
        sum(archive.footer(piece.segment).rows for piece in archive.pieces(pair.altname)),
        first and first[0],
        last and last[1],
        archive.coverage(pair.altname),
        archive.holes(pair.altname),
        len(segments),
        sum(one.size for one in segments),
    )
