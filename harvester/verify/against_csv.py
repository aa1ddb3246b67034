"""Holds the candles of an archive against the exchange's downloadable files of candles (OHLCVT)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from harvester.csv_import.files import Member
from harvester.csv_import.ohlcvt import Block, read_candles
from harvester.csv_import.run import CandleFile, candle_file
from harvester.errors import HarvesterError
from harvester.kraken.pairs import Names, Pair
from harvester.query.connection import MEMORY_LIMIT
from harvester.storage.trade_store import Archive
from harvester.times import Range
from harvester.verify.ours import Asker
from harvester.verify.report import CsvReport, FileReport, IntervalReport
from harvester.verify.side_by_side import compare_blocks
from harvester.verify.steady import steady

Progress = Callable[[int, int], None]
"""Told how many bytes are done, and how many there are."""


class Chosen(NamedTuple):
    """Which files are compared, and which are not.

    Attributes:
        files: by pair, for all that are wanted, in order of their lengths.
        passed_over: how many are of other pairs.
        unknown: those whose names are none of candles, or that no pair fits.
    """

    files: dict[str, list[CandleFile]]
    passed_over: int
    unknown: list[Member]


def choose(members: Iterable[Member], wanted: Iterable[str], known: Iterable[Pair]) -> Chosen:
    """The files of some pairs, by their names.

    Args:
        members: all that were found.
        wanted: the pairs, by altname.
        known: the pairs that a name can mean.
    """
    files: dict[str, list[CandleFile]] = {name: [] for name in wanted}
    book = Names(known)
    passed_over, unknown = 0, []
    for member in members:
        found = candle_file(member, book)
        if found is None:
            unknown.append(member)
        elif found[0].altname in files:
            files[found[0].altname].append(found[1])
        else:
            passed_over += 1
    for some in files.values():
        some.sort(key=lambda one: one.minutes)
    return Chosen(files, passed_over, unknown)


def compare(
    archive: Archive,
    pair: Pair,
    files: Sequence[CandleFile],
    memory_limit: str = MEMORY_LIMIT,
    progress: Progress = lambda _done, _all: None,
) -> CsvReport:
    """Hold the candles of some files of one pair against the trades held.

    A file that can't be read, or not be compared, ends with an error of its own.

    Args:
        archive: holds the trades.
        pair: which.
        files: its files, as `choose` gives them.
        memory_limit: what DuckDB may use.
        progress: told how far it is.
    """
    coverage = archive.coverage(pair.altname)
    if not coverage:
        return CsvReport(pair.altname, is_held=False)
    asker = Asker(archive, pair.altname, pair.pair_decimals, memory_limit)
    total, before = sum(one.member.size for one in files), 0
    reports = []
    for file in files:

        def read(size: int, before: int = before) -> None:
            # The last bytes end nothing: what they held is being compared.
            progress(min(before + size, total - 1), total)

        reports.append(_compare_one(asker, coverage, file, read))
        before += file.member.size
    progress(total, total)
    return CsvReport(pair.altname, tuple(reports))


def _compare_one(
    asker: Asker, coverage: Sequence[Range], file: CandleFile, read: Callable[[int], None]
) -> FileReport:
    member, minutes = file

    def compared() -> IntervalReport:
        blocks = _told(read_candles(member, minutes), read)
        return compare_blocks(asker, coverage, minutes, member.whole, blocks)

    try:
        found = steady(asker.archive, asker.pair, compared)
    except HarvesterError as error:
        return FileReport(str(member), IntervalReport(minutes), error)
    return FileReport(str(member), found)


def _told(blocks: Iterable[Block], read: Callable[[int], None]) -> Iterator[Block]:
    """The same blocks; tells how many bytes they came to."""
    done = 0
    for block in blocks:
        yield block
        done += block.size
        read(done)
