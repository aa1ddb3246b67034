"""Match CSV files to pairs: by their file names, or by the pair that the user gives."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, NamedTuple

import msgspec

from harvester.argument_types import Moment, moment_ns
from harvester.csv_import.csv_files import NO_KNOWN_PERIOD, CompletePeriod, Member, find
from harvester.errors import ExchangeError, UsageError, first_few
from harvester.kraken.pairs import (
    Pair,
    PairIndex,
    delisted_pair,
    is_listed,
    is_pattern,
    kraken_altname,
    match_pattern,
)
from harvester.pair_selection import as_stored, known_pairs
from harvester.storage.trade_store import TradeStore
from harvester.times import SECOND

logger = logging.getLogger("harvester.csv_import")

MAX_FILES_NAMED = 20
"""A message names up to this many files."""
LONGEST_ALTNAME = 40


AskExchange = Callable[[], dict[str, Pair]]
"""Asks the exchange for the pairs that it lists now, by altname; pairs.json has them from then on.
"""
Listed = dict[str, Pair] | None
"""The pairs that the exchange lists now, by altname; None if it did not answer."""


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """Which files to import, and what the caller knows about them.

    Attributes:
        files: paths of CSV files, ZIPs and folders.
        pair: the pair of the only file, in any spelling; None: file names say it.
        pairs: import only these pairs: spellings or patterns such as `*/EUR`; empty for all.
        delisted: import pairs that the exchange no longer lists, named after their files.
        complete: the time for which the files of a pair together contain every trade.
        skip_bad_rows: leave out rows that can't be read, instead of failing.
    """

    files: Sequence[str]
    pair: str | None = None
    pairs: Sequence[str] = ()
    delisted: bool = False
    complete: CompletePeriod = NO_KNOWN_PERIOD
    skip_bad_rows: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The request for the run log; times in UNIX seconds."""
        return {
            "files": list(self.files),
            "pair": self.pair,
            "pairs": list(self.pairs),
            "delisted": self.delisted,
            "whole_since": self.complete.since_s,
            "whole_until": self.complete.until_s,
            "skip_bad_rows": self.skip_bad_rows,
        }


def import_request(  # noqa: PLR0913 - the options of the command
    files: Sequence[str | PathLike[str]],
    *,
    pair: str | None,
    pairs: str | Sequence[str] | None,
    delisted: bool,
    whole_since: Moment | None,
    whole_until: Moment | None,
    skip_bad_rows: bool,
) -> ImportRequest:
    """Parse the arguments of `Archive.import_csv`.

    Args:
        files: at least one CSV file, ZIP or folder.
        pair: the pair of the only file.
        pairs: spellings or patterns, as a list or as text with commas between them.
        delisted: import pairs that the exchange no longer lists.
        whole_since: the files of a pair contain every trade from this time on; a whole second.
        whole_until: the files of a pair contain every trade before this time; a whole second.
        skip_bad_rows: leave out rows that can't be read.

    Raises:
        UsageError: no file is given, or a time is not a whole second.
        BadTime: a time can't be read.
    """
    if not files:
        raise UsageError("no file to import: give a CSV, a ZIP or a folder of Kraken's")
    names = pairs.split(",") if isinstance(pairs, str) else pairs or ()
    since_s = _whole_second("--whole-since", whole_since)
    until_s = _whole_second("--whole-until", whole_until)
    if since_s is not None and until_s is not None and since_s >= until_s:
        raise UsageError(
            f"--whole-since {whole_since} is not before --whole-until {whole_until}: swap them"
        )
    return ImportRequest(
        [fspath(file) for file in files],
        pair,
        [name.strip() for name in names if name.strip()],
        bool(delisted),
        CompletePeriod(since_s, until_s),
        bool(skip_bad_rows),
    )


def _whole_second(option: str, moment: Moment | None) -> int | None:
    if moment is None:
        return None
    time_ns = moment_ns(moment, time.time_ns())
    if time_ns % SECOND:
        raise UsageError(f"{option} {moment}: give a whole second; the files' times have no more")
    return time_ns // SECOND


class PairFiles(NamedTuple):
    """A pair and its files.

    Attributes:
        pair: the pair.
        members: its CSV files.
        complete: the time for which they together contain every trade, as the user said.
        is_delisted: whether nothing of the pair can be downloaded.
    """

    pair: Pair
    members: list[Member]
    complete: CompletePeriod = NO_KNOWN_PERIOD
    is_delisted: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(member.size for member in self.members)


class MatchedFiles(NamedTuple):
    """Files by pair, the files whose names match no pair, and a message about these."""

    pairs: list[PairFiles]
    unknown: list[str]
    message: str = ""


def match_files(
    request: ImportRequest, archive: TradeStore, ask_exchange: AskExchange
) -> MatchedFiles:
    """Find the CSV files of a request and the pair of each of them.

    The exchange is asked only if the archive does not know one of the names, or to know which pairs
    are delisted. If it can't be reached, the names that the archive knows must do, and a warning is
    logged. So is a warning about files whose names match no pair.

    Args:
        request: what to import.
        archive: the archive, which keeps names of pairs.
        ask_exchange: returns the pairs that the exchange lists now.

    Raises:
        BadFile: a file is not there, or is not one of Kraken's.
        UnknownPair: the exchange lists no pair of the name given.
        UsageError: a name in `request.pairs` matches no file, or one pair is given for many files.
    """
    members, stored = find(request.files), archive.stored_pairs()

    def ask() -> tuple[dict[str, Pair], Listed]:
        try:
            listed = ask_exchange()
        except ExchangeError as error:
            logger.warning("%s; using the pair names that the archive knows", error)
            return known_pairs(archive, stored), None
        return listed | known_pairs(archive, stored), listed

    if request.pair is not None:
        files = _pair_of_only_file(request, request.pair, members, archive, ask)
        return MatchedFiles([files], [])
    try:
        matched = _match_by_name(request, members, known_pairs(archive, stored), stored)
        needs_exchange = request.delisted or bool(matched.unknown)
    except UsageError:
        needs_exchange = True
    if needs_exchange:
        known, listed = ask()
        matched = _match_by_name(request, members, known, stored, listed)
        if matched.unknown:
            message = _unknown_files_message(matched.unknown, is_answered=listed is not None)
            matched = matched._replace(message=message)
            logger.warning("%s", message)
    return matched


def _unknown_files_message(files: Sequence[str], *, is_answered: bool) -> str:
    shown = first_few(files, MAX_FILES_NAMED)
    count = "1 file" if len(files) == 1 else f"{len(files):,} files"
    if not is_answered:
        return (
            f"{count} skipped, because the archive does not know the name, and the exchange could "
            f"not be asked: {shown} (try again later, or name the pair of a file with --pair)"
        )
    return (
        f"{count} skipped, because the exchange lists no pair of that name: {shown} (--delisted "
        "imports pairs that are no longer listed, --pair names the pair of a file)"
    )


def _match_by_name(
    request: ImportRequest,
    members: Sequence[Member],
    known: dict[str, Pair],
    stored: Collection[str],
    listed: Listed = None,
) -> MatchedFiles:
    """Group files by the pair that their names say, in the order of each pair's first file.

    A renamed market keeps the name of its stored trades. A file whose name matches no pair counts
    as one of a pair of that name, which is imported only if delisted pairs are, and the exchange
    does not list it.
    """
    names = PairIndex(known.values())
    files: dict[str, PairFiles] = {}
    for member in members:
        pair = names.find(member.stem) or delisted_pair(kraken_altname(member.stem))
        pair = as_stored(pair, known, stored)
        if pair.altname not in files:
            files[pair.altname] = _pair_files(request, pair, [], listed)
        files[pair.altname].members.append(member)
    if request.pairs:
        selected = _select(request.pairs, files, known, stored)
        files = {name: found for name, found in files.items() if name in selected}
    pairs, unknown = [], list[str]()
    for name, found in files.items():
        if name in known or (request.delisted and listed is not None and _is_altname(name)):
            pairs.append(found)
        else:
            unknown += map(str, found.members)
    return MatchedFiles(pairs, unknown)


def _select(
    texts: Sequence[str],
    files: dict[str, PairFiles],
    known: dict[str, Pair],
    stored: Collection[str],
) -> set[str]:
    """The names of the pairs, of those with files, that names and patterns stand for.

    Raises:
        UsageError: a text matches no file.
    """
    pairs = [found.pair for found in files.values()]
    names = PairIndex([*known.values(), *pairs])
    selected: set[str] = set()
    for text in texts:
        found = match_pattern(text, pairs) if is_pattern(text) else [names.find(text)]
        found_pairs = [as_stored(pair, known, stored) for pair in found if pair is not None]
        matched = {pair.altname for pair in found_pairs} & files.keys()
        if not matched:
            raise UsageError(
                f"--pairs {text}: none of the files is of it; --dry-run lists their pairs"
            )
        selected |= matched
    return selected


def _pair_of_only_file(
    request: ImportRequest,
    text: str,
    members: Sequence[Member],
    archive: TradeStore,
    ask: Callable[[], tuple[dict[str, Pair], Listed]],
) -> PairFiles:
    if len(members) != 1:
        raise UsageError(
            f"--pair {text} names the pair of one file, but {len(members)} were given: give one "
            "file, or leave out --pair, so that each file's name says its pair"
        )
    known, listed = known_pairs(archive), None
    names = PairIndex(known.values())
    if request.delisted or names.find(text) is None:
        known, listed = ask()
        names = PairIndex(known.values())
    pair = names.find(text)
    if pair is None and request.delisted and _is_altname(text):
        pair = Pair(altname=kraken_altname(text))
    pair = as_stored(pair or names.resolve(text), known, archive.stored_pairs())
    return _pair_files(request, pair, list(members), listed)


def _pair_files(
    request: ImportRequest, pair: Pair, members: list[Member], listed: Listed
) -> PairFiles:
    """A pair with its files, delisted if the exchange was asked and does not list its market.

    The market is known by its key: the exchange may list it under another name, or another market
    under this name. A market whose key nobody knows any more gets that of a delisted one.
    """
    is_delisted = pair.is_delisted
    if request.delisted and listed is not None:
        is_delisted = not is_listed(pair, listed)
        if is_delisted and not pair.key:
            pair = msgspec.structs.replace(pair, key=delisted_pair(pair.altname).key)
    return PairFiles(pair, members, request.complete, is_delisted)


def _is_altname(name: str) -> bool:
    """Whether a name may be that of a folder of trades: only letters and digits are allowed."""
    return name.isascii() and name.isalnum() and len(name) <= LONGEST_ALTNAME
