"""The files of a pair: which follows which, the time that they cover, and whether they change."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harvester.csv_import.csv_files import NO_KNOWN_PERIOD, CompletePeriod, Member
from harvester.csv_import.file_scan import ScannedFile
from harvester.csv_import.missing_trades import MAX_RUNS, NO_RUNS, around, missing_ids
from harvester.errors import DamagedFile
from harvester.schema import Int64s
from harvester.storage.id_gaps import BEFORE_FIRST_ID, IdGap, LastId
from harvester.storage.segment import ImportedRange
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY, END_OF_TIME, SECOND, Range, gap_note, missing, overlap, union


def chains(
    files: Sequence[ScannedFile],
    complete_by_user: CompletePeriod = NO_KNOWN_PERIOD,
    *,
    is_delisted: bool = False,
) -> list[list[ScannedFile]]:
    """Group the files of a pair into chains: a file that begins where another ends follows it.

    The files of a chain all have trade ids, or none has.

    Args:
        files: all scanned files of a pair.
        complete_by_user: the time for which they together contain every trade, if the user said so.
            It counts for the beginning of the first file and the end of the last file, and never
            for an end that another file follows.
        is_delisted: whether nothing of the pair can be downloaded.

    Returns:
        The chains, and the files of each, in order of time.
    """
    found: list[list[ScannedFile]] = []
    complete_by_user = complete_by_user.without_future()
    vouched = [file._replace(is_complete_by_user=None not in complete_by_user) for file in files]
    in_order = sorted(vouched, key=lambda file: (file.begins_ns or 0, file.member))
    for file in _with_true_bounds(in_order):
        since_s = file.member.complete.since_s
        is_next = bool(found and since_s) and found[-1][-1].member.complete.until_s == since_s
        # Of a delisted pair nothing can download the turn from one file to the next: each file is
        # compared with what is stored of the one before it.
        is_next = is_next and not is_delisted
        # Those with ids and those without are apart: ids show how many trades are between them.
        if is_next and len({each.has_ids for each in (*found[-1], file) if each.rows}) < 2:
            found[-1].append(file)
        else:
            found.append([file])
    # An empty file of unknown time has no place in the order; it gets a bound only if it is alone.
    placed = [chain for chain in found if chain[0].begins_ns is not None] or found
    if placed and complete_by_user.since_s is not None:
        # Of files that begin or end alike, the one with more rows.
        first = min(placed, key=lambda chain: (chain[0].begins_ns or 0, -chain[0].rows))
        first[0] = first[0].with_bounds(since_s=complete_by_user.since_s)
    if placed and complete_by_user.until_s is not None:
        last = max(placed, key=lambda chain: (chain[-1].ends_ns, chain[-1].rows))
        last[-1] = last[-1].with_bounds(until_s=complete_by_user.until_s)
    if is_delisted:
        return [[*chain[:-1], _ending_with_last_row(chain[-1])] for chain in found]
    return found


def _with_true_bounds(files: Sequence[ScannedFile]) -> list[ScannedFile]:
    """The files, in order, without the bounds by their names that their rows contradict.

    A file with rows outside of its quarter is not what its name says, so neither end counts. Where
    it meets another file, that one may have the same rows, or lack them: it does not count as whole
    there, either. A row that was rounded into the second after the quarter contradicts that end
    only. A file without rows says nothing, unless it is whole.
    """
    wrong: set[int | None] = set()
    contradicted: set[Member] = set()
    for file in files:
        since_s, until_s = file.member.complete
        if file.first_ns is None or file.last_ns is None:
            if not file.is_complete:
                contradicted.add(file.member)
            continue
        first_s, last_s = file.first_ns // SECOND, file.last_ns // SECOND
        begins_before = since_s is not None and first_s < since_s
        if begins_before or (until_s is not None and first_s >= until_s):
            wrong.add(since_s)
        if (until_s is not None and last_s >= until_s) or (
            since_s is not None and last_s < since_s
        ):
            wrong.add(until_s)
        if begins_before or (until_s is not None and last_s > until_s):
            contradicted.add(file.member)
    return [
        file.with_bounds(
            **{
                name: None
                for name, bound in file.member.complete._asdict().items()
                if bound in wrong or file.member in contradicted
            }
        )
        for file in files
    ]


QUIET_AFTER_LAST_ROW_S = 3
"""A whole history has no trade in so many seconds, more than by which times may be rounded."""


def _ending_with_last_row(file: ScannedFile) -> ScannedFile:
    """A delisted pair's whole history in a ZIP is complete up to shortly after its last row.

    The ZIP has the checksum of the file as Kraken wrote it, and Kraken ends it with a quarter: if
    one ends there, the history is complete up to the second of its last row.
    """
    is_history = file.member.period_by_name == CompletePeriod(0)
    is_checked = file.member.crc is not None and not file.bad
    has_no_end = file.member.complete.until_s is None
    if is_history and is_checked and has_no_end and file.last_ns is not None:
        last_s = file.last_ns // SECOND
        end_s = last_s + QUIET_AFTER_LAST_ROW_S
        is_within_quarter = _quarter_of(last_s - 1) == _quarter_of(end_s)
        return file.with_bounds(until_s=end_s if is_within_quarter else last_s + 1)
    return file


def _quarter_of(stamp_s: int) -> int:
    """The number of the quarter of a year, counted from 1970, that a UNIX time is in."""
    return int(np.datetime64(stamp_s, "s").astype("M8[M]").astype(np.int64)) // 3


def doubtful_ranges(files: Sequence[ScannedFile]) -> list[Range]:
    """Ranges around unreadable rows and around the join of two files.

    Files may round differently: a trade at their join may be in both or in neither. A join is left
    out if the user vouched for the file after it.
    """
    found = [span for file in files for span in file.bad_times]
    for following in files[1:]:
        if not following.is_complete_by_user:
            turn_ns = (following.member.complete.since_s or 0) * SECOND
            found.append(around(turn_ns - 1, turn_ns))
    return found


def complete_period(files: Sequence[ScannedFile]) -> CompletePeriod:
    """The time for which a chain of files is known to contain every trade."""
    return CompletePeriod(files[0].member.complete.since_s, files[-1].member.complete.until_s)


def damaged_times(files: Sequence[ScannedFile]) -> Iterator[Range]:
    """The times of a chain's unreadable rows, as far as an undamaged file covers them.

    That is between its known ends, or else between the seconds of its first and its last row.
    """
    for file in files:
        since_s, until_s = file.member.complete
        begin_s = (file.first_ns or 0) // SECOND if since_s is None else since_s
        end_s = (file.last_ns or 0) // SECOND if until_s is None else until_s
        covered = Range(max(0, begin_s * SECOND - 1), end_s * SECOND - 1)
        yield from filter(None, (overlap(span, covered) for span in file.bad_times))


ADJACENT_NS = 3 * SECOND
"""Ranges that end so near to one another leave a gap between them, as no file covers its ends."""


def ends_to_request(
    files: Sequence[ScannedFile], known: Sequence[Range], *, is_delisted: bool
) -> CompletePeriod:
    """The ends of a chain of files up to which time counts as requested, beyond its rows.

    No file covers the second at its end. That second is a gap if the archive has the time on the
    other side of it, and all up to the end is one if the files may lack rows. Of a delisted pair
    only another file can fill a gap, so a silence is none.

    Args:
        files: the chain.
        known: the ranges that the archive covers already, or that were requested before.
        is_delisted: whether nothing of the pair can be downloaded.
    """
    complete, last = complete_period(files), files[-1]
    lacks_rows = any(file.bad or (file.unproved and not is_delisted) for file in files)
    is_end_bad = any(span.through == END_OF_TIME for span in last.bad_times)
    if is_end_bad and not is_delisted:
        # Nobody knows where the undamaged file ends; the newest day is downloaded in any case.
        yesterday_s = (time.time_ns() - DAY) // SECOND
        complete = CompletePeriod(complete.since_s, complete.until_s or yesterday_s)

    def is_requested(end_s: int) -> bool:
        near = Range(end_s * SECOND - ADJACENT_NS, end_s * SECOND + ADJACENT_NS)
        is_met = any(overlap(near, span) for span in known) and not is_delisted
        return lacks_rows or is_met

    return CompletePeriod(
        *(end if end is not None and is_requested(end) else None for end in complete)
    )


class UncoveredIds(NamedTuple):
    """Where the files of a chain lack trade ids.

    Attributes:
        ranges: the time around these places, which is not covered.
        notes: sentences for users.
        counted: the ids on both sides of the places that count as covered; None if all do.
    """

    ranges: list[Range]
    notes: list[str]
    counted: frozenset[tuple[int, int]] | None

    def are_counted(self, gap: IdGap) -> bool:
        """Whether the time of an id gap counts as covered."""
        return self.counted is None or gap.sides in self.counted


def uncovered_ids(
    files: Sequence[ScannedFile], archive: TradeStore, pair: str, backfill: str
) -> UncoveredIds:
    """Find where trade ids are missing in a chain of files, and which of that time not to cover.

    Also between the files and the stored trades that they meet. In some markets ids skip all the
    time; then missing ids prove nothing.

    Args:
        files: the chain.
        archive: what it covers already is filled.
        pair: altname.
        backfill: the command that downloads what is missing, for the notes; empty if nothing can.
    """
    notes, covered = [], archive.coverage(pair)
    is_known = all(file.id_runs is not None for file in files)
    if not is_known:
        notes.append(
            "its trade ids skip too often, or are in no order: they show no missing trades"
        )
    before, after = _stored_ids(files, archive, pair) if is_known else ([], [])
    within = [file.id_runs for file in files if file.id_runs is not None]
    lacking = missing_ids([*before, *within, *after])
    if len(lacking.counts) <= MAX_RUNS:
        is_open = [bool(missing([around_], covered)) for around_ in lacking.ranges()]
        lacking = lacking.where(np.array(is_open, bool))
    is_split = lacking.to_split_at(sum(file.rows for file in files))
    reason = "too many to be requested, so that time counts as covered"
    if not backfill:
        # All rows are stored, and only whole seconds between them are left out.
        reason = "nothing can download them, so that time counts as covered"
        after, through = lacking.seconds_between().T
        is_split &= after < through
    if files[0].is_complete_by_user:
        # Stored trades say more, if the place can be downloaded.
        stored = [] if not backfill else [runs[0, 0] for runs in (*before, *after)]
        is_split &= np.isin(lacking.before, stored) | np.isin(lacking.after, stored)
        reason = "that time counts as covered, because you gave --whole-since and --whole-until"
    split, counted = lacking.where(is_split), lacking.where(~is_split)
    between = [Range(*span) for span in split.seconds_between().tolist()]
    ranges = union(split.ranges() if backfill else between)
    if ranges:
        advice = f"{backfill} downloads that time; " if backfill else ""
        notes.append(f"{split.text()}; {advice}{gap_note(ranges)}")
    if len(counted.counts):
        notes.append(f"{counted.text()}: {reason}")
    sides = zip(counted.before.tolist(), counted.after.tolist(), strict=True)
    return UncoveredIds(ranges, notes, frozenset(sides) if is_known else None)


def _stored_ids(
    files: Sequence[ScannedFile], archive: TradeStore, pair: str
) -> tuple[list[Int64s], list[Int64s]]:
    """The last stored id before the files and the first one after them, if they meet there.

    They meet if no time between is left uncovered. Before a market's first trade stands id 0. Both
    are lists of one run or none, as there is none if trades without an id are between.
    """
    runs = np.concatenate([NO_RUNS, *(file.id_runs for file in files if file.id_runs is not None)])
    if not len(runs):
        return [], []
    first_ns = min(file.first_ns for file in files if file.first_ns is not None)
    last_ns = max(file.last_ns for file in files if file.last_ns is not None)
    covered, begins_ns = archive.coverage(pair), files[0].begins_ns or 0
    before, after = list[Int64s](), list[Int64s]()
    reached = max((span.through for span in covered if span.after < first_ns), default=0)
    if begins_ns - 1 <= reached < first_ns:
        known = known_last_id(archive, pair, reached)
        if known and not known.rows_without_id and known.trade_id < runs[:, 0].min():
            before = [np.repeat([[known.trade_id, reached]], 2, axis=1)]
    opens = min((span.after for span in covered if span.through > last_ns), default=END_OF_TIME)
    following = (
        archive.first_id_after(pair, opens) if last_ns <= opens <= files[-1].ends_ns else None
    )
    if following and not following.rows_without_id and following.trade_id > runs[:, 1].max():
        after = [np.repeat([[following.trade_id, opens + 1]], 2, axis=1)]
    return before, after


def known_last_id(archive: TradeStore, pair: str, moment: int) -> LastId | None:
    """The last trade with an id up to a moment; id 0 if all time before is covered without trades.

    None if it is not known.
    """
    if known := archive.last_id_before(pair, moment):
        return known
    covered = [*archive.coverage(pair), Range(0, 1)]
    is_first = not missing([Range(0, max(1, moment))], covered)
    return BEFORE_FIRST_ID if is_first and archive.last_time(pair, moment) is None else None


def imported_ranges(files: Sequence[ScannedFile], span: Range) -> tuple[ImportedRange, ...]:
    """The part of a range that came from each file of a chain."""
    ends = (SECOND * (file.member.complete.until_s or 0) - 1 for file in files[:-1])
    found, begin_ns = [], 0
    for file, end_ns in zip(files, [*ends, END_OF_TIME], strict=True):
        if part := overlap(span, Range(begin_ns, end_ns)):
            found.append(ImportedRange(*part, str(file.member), file.checksum))
        begin_ns = end_ns
    return tuple(found)


# --- files that change during an import -----------------------------------------------------------

# The checksum of a file is known to be right only once its last row was read, but segments of its
# first rows are committed long before, and an import may be stopped or killed in between.


class FileStates:
    """The states of some files at one moment, to be compared with those of later moments."""

    def __init__(self, members: Iterable[Member]) -> None:
        """Look at the files (CSV files, or the ZIPs that they are in) now, before they are read."""
        self._states = {member.path: _state(member.path) for member in members}

    def check(self) -> None:
        """Check that the files are as they were.

        Raises:
            DamagedFile: a file was written or replaced meanwhile, or can't be reached.
        """
        for path, state in self._states.items():
            if _state(path) != state:
                raise DamagedFile(f"{path.name} was changed while it was imported")


def _state(path: Path) -> tuple[int, int, int] | None:
    """The size, time of change and inode of a file, which differ once it is written or replaced.

    None if it can't be reached.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
