"""Match CSV files to pairs: by their file names, or by the pair that the user gives."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os import PathLike, fspath
from typing import Any, NamedTuple

from harvester.argument_types import Moment, moment_ns
from harvester.csv_import.files import UNKNOWN, KnownComplete, Member, find
from harvester.errors import AmbiguousPair, ExchangeError, UnknownPair, UsageError
from harvester.kraken.pairs import Pair, PairIndex, resolve
from harvester.pair_names import known_pairs
from harvester.storage.trade_store import TradeStore
from harvester.times import MAX_COUNT, SECOND

logger = logging.getLogger("harvester.csv_import")

MAX_FILES_NAMED = 20
"""A message names up to this many files."""
LONGEST_ALTNAME = 40

_PATTERN_CHARACTERS = frozenset("*?[")
_CANDLE_FILE = re.compile(r"(.+)_([0-9]{1,8})", re.ASCII)

AskExchange = Callable[[], dict[str, Pair]]
"""Asks the exchange for its pairs, by altname."""


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
    complete: KnownComplete = UNKNOWN
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
    return ImportRequest(
        [fspath(file) for file in files],
        pair,
        [name.strip() for name in names if name.strip()],
        bool(delisted),
        KnownComplete(
            _whole_second("--whole-since", whole_since), _whole_second("--whole-until", whole_until)
        ),
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
    """

    pair: Pair
    members: list[Member]
    complete: KnownComplete = UNKNOWN

    @property
    def size(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(member.size for member in self.members)


class MatchedFiles(NamedTuple):
    """Files by pair, and the files whose names match no pair."""

    pairs: list[PairFiles]
    unknown: list[Member]


def match_files(
    request: ImportRequest, archive: TradeStore, ask_exchange: AskExchange
) -> MatchedFiles:
    """Find the CSV files of a request and the pair of each of them.

    The exchange is asked only if the archive does not know one of the names. If the exchange can't
    be reached, the names that the archive knows must do, and a warning is logged. So is a warning
    about files whose names match no pair.

    Args:
        request: what to import.
        archive: the archive, which keeps names of pairs.
        ask_exchange: returns the pairs that the exchange lists now.

    Raises:
        BadFile: a file is not there, or is not one of Kraken's.
        UnknownPair: the exchange lists no pair of the name given.
        UsageError: a name in `request.pairs` matches no file, or one pair is given for many files.
    """
    members = find(request.files)

    def ask() -> dict[str, Pair]:
        try:
            return ask_exchange()
        except ExchangeError as error:
            logger.warning("%s; using the pair names that the archive knows", error)
            return known_pairs(archive)

    if request.pair is not None:
        pair = _pair_of_only_file(request, request.pair, members, archive, ask)
        return MatchedFiles([PairFiles(pair, members, request.complete)], [])
    try:
        matched = _match_by_name(request, members, known_pairs(archive))
        needs_exchange = bool(matched.unknown)
    except UsageError:
        needs_exchange = True
    if needs_exchange:
        matched = _match_by_name(request, members, ask())
    if request.delisted:
        matched = _with_delisted(matched, request.complete)
    if matched.unknown:
        logger.warning("%s", unknown_files_message([str(member) for member in matched.unknown]))
    return matched


def unknown_files_message(files: Sequence[str]) -> str:
    """The warning about files whose names match no pair."""
    shown = ", ".join(files[:MAX_FILES_NAMED]) + (" ..." if len(files) > MAX_FILES_NAMED else "")
    count = "1 file" if len(files) == 1 else f"{len(files):,} files"
    return (
        f"{count} skipped, because the exchange lists no pair of that name: {shown} (--delisted "
        "imports pairs that are no longer listed, --pair names the pair of a file)"
    )


def _match_by_name(
    request: ImportRequest, members: Sequence[Member], known: dict[str, Pair]
) -> MatchedFiles:
    selected = select_members(members, request.pairs, known.values()) if request.pairs else members
    return group_by_pair(selected, known.values(), request.complete)


def _pair_of_only_file(
    request: ImportRequest,
    text: str,
    members: Sequence[Member],
    archive: TradeStore,
    ask: AskExchange,
) -> Pair:
    if len(members) != 1:
        raise UsageError(
            f"--pair {text} names the pair of one file, but {len(members)} were given: give one "
            "file, or leave out --pair, so that each file's name says its pair"
        )
    try:
        return resolve(text, known_pairs(archive).values())
    except AmbiguousPair:
        raise
    except UnknownPair:
        if request.delisted and (pair := delisted_pair(text)):
            return pair
    return resolve(text, ask().values())


def _with_delisted(matched: MatchedFiles, complete: KnownComplete) -> MatchedFiles:
    """Turn files whose names match no pair into pairs named after their files."""
    unknown: list[Member] = []
    delisted: dict[str, PairFiles] = {}
    for member in matched.unknown:
        pair = delisted_pair(member.stem)
        if pair is None:
            unknown.append(member)
        else:
            files = delisted.setdefault(pair.altname, PairFiles(pair, [], complete))
            files.members.append(member)
    return MatchedFiles([*matched.pairs, *delisted.values()], unknown)


def group_by_pair(
    members: Iterable[Member], known: Iterable[Pair], complete: KnownComplete = UNKNOWN
) -> MatchedFiles:
    """Group files by pair, in the order of each pair's first file.

    Args:
        members: CSV files; the name of each says its pair.
        known: the pairs there are.
        complete: the time for which the files of a pair together contain every trade.
    """
    names = PairIndex(known)
    found: dict[str, PairFiles] = {}
    unknown = []
    for member in members:
        pair = names.find(member.stem)
        if pair is None:
            unknown.append(member)
        else:
            found.setdefault(pair.altname, PairFiles(pair, [], complete)).members.append(member)
    return MatchedFiles(list(found.values()), unknown)


class CandleFile(NamedTuple):
    """A CSV file of candles, and their length in minutes."""

    member: Member
    minutes: int


def candle_file(member: Member, names: PairIndex) -> tuple[Pair, CandleFile] | None:
    """The pair and the length of a file of candles, by its name.

    `XBTUSD_60.csv` has the hourly candles of XBTUSD.

    Args:
        member: a CSV file.
        names: finds a pair by its name.

    Returns:
        None if the name is not that of a file of candles, or matches no pair.
    """
    match = _CANDLE_FILE.fullmatch(member.stem)
    if match is None or not 0 < int(match[2]) <= MAX_COUNT["m"]:
        return None
    pair = names.find(match[1])
    return None if pair is None else (pair, CandleFile(member, int(match[2])))


def delisted_pair(name: str) -> Pair | None:
    """A pair that the exchange no longer lists, by its altname; None if that can't be an altname.

    The name becomes the name of a folder, so only letters and digits are allowed.
    """
    is_altname = name.isascii() and name.isalnum() and len(name) <= LONGEST_ALTNAME
    return Pair(altname=name) if is_altname else None


def select_members(
    members: Sequence[Member], texts: Sequence[str], known: Iterable[Pair]
) -> list[Member]:
    """Select the files of some pairs.

    Args:
        members: CSV files.
        texts: pairs in any spelling, or patterns such as `*/EUR`.
        known: the pairs there are.

    Raises:
        UsageError: a text matches no file.
    """
    pairs = list(known)
    matched = group_by_pair(members, pairs)
    spellings = {
        member: {*files.pair.spellings, member.stem}
        for files in matched.pairs
        for member in files.members
    }
    spellings |= {member: {member.stem} for member in matched.unknown}
    selected: set[Member] = set()
    for text in texts:
        found = {member for member, names in spellings.items() if text in names}
        if not found and not _PATTERN_CHARACTERS & set(text):
            found = _members_of_pair(text, pairs, matched)
        if not found:
            found = {member for member, names in spellings.items() if _matches(text.upper(), names)}
        if not found:
            raise UsageError(
                f"--pairs {text}: none of the files is of it; --dry-run lists their pairs"
            )
        selected |= found
    return [member for member in members if member in selected]


def _matches(text: str, names: set[str]) -> bool:
    """Whether a name or pattern in capitals matches one of several names."""
    if _PATTERN_CHARACTERS & set(text):
        return any(fnmatchcase(name.upper(), text) for name in names)
    return text in {name.upper() for name in names}


def _members_of_pair(text: str, pairs: list[Pair], matched: MatchedFiles) -> set[Member]:
    try:
        altname = resolve(text, pairs).altname
    except AmbiguousPair:
        raise
    except UnknownPair:
        return set()
    return {
        member
        for files in matched.pairs
        if files.pair.altname == altname
        for member in files.members
    }
