"""Which file of a pair follows which, what each has completely; files that change meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harvester.csv_import.csv_files import UNKNOWN, KnownComplete, Member
from harvester.csv_import.file_scan import ScannedFile
from harvester.csv_import.sorting import MAX_STEP_BACK_S
from harvester.csv_import.uncovered_times import MAX_RUNS, around, missing_ids
from harvester.errors import DamagedFile
from harvester.query.plan import gap_note
from harvester.storage.segment import ImportedRange
from harvester.times import END_OF_TIME, SECOND, Range, missing, overlap, union


def chains(files: Sequence[ScannedFile], said: KnownComplete = UNKNOWN) -> list[list[ScannedFile]]:
    """Group the files of a pair into chains: a file that begins where another ends follows it.

    Args:
        files: all scanned files of a pair.
        said: the time for which they together contain every trade, if the user said so. It counts
            for the beginning of the first file and the end of the last file, and never for an end
            that another file follows.

    Returns:
        The chains, and the files of each, in order of time.
    """
    found: list[list[ScannedFile]] = []
    said = said.without_future()
    vouched = [file._replace(is_vouched_for=None not in said) for file in files]
    in_order = sorted(vouched, key=lambda file: (file.begins_ns or 0, file.member))
    for file in _with_true_bounds(in_order):
        since_s = file.member.complete.since_s
        if found and since_s and found[-1][-1].member.complete.until_s == since_s:
            found[-1].append(file)
        else:
            found.append([file])
    # An empty file of unknown time has no place in the order; it gets a bound only if it is alone.
    placed = [chain for chain in found if chain[0].begins_ns is not None] or found
    if placed and said.since_s is not None:
        # Of files that begin or end alike, the one with more rows.
        first = min(placed, key=lambda chain: (chain[0].begins_ns or 0, -chain[0].rows))
        first[0] = first[0].with_bounds(since_s=said.since_s)
    if placed and said.until_s is not None:
        last = max(placed, key=lambda chain: (chain[-1].ends_ns, chain[-1].rows))
        last[-1] = last[-1].with_bounds(until_s=said.until_s)
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
            if not file.is_whole:
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


def unreadable_times(files: Sequence[ScannedFile]) -> list[Range]:
    """The times of a chain's unreadable rows, and the turns from one of its files to the next.

    Files may be rounded in different ways: a trade at their turn may be in both or neither. It is
    in doubt unless the user vouches for them.
    """
    found = [span for file in files for span in file.bad_times]
    for following in files[1:]:
        if not following.is_vouched_for:
            turn_ns = (following.member.complete.since_s or 0) * SECOND
            found.append(around(turn_ns - 1, turn_ns))
    return found


class UncoveredIds(NamedTuple):
    """Where the files of a chain lack trade ids.

    Attributes:
        ranges: the time around these places, which is not covered.
        notes: sentences for users.
    """

    ranges: list[Range]
    notes: list[str]


def uncovered_ids(
    files: Sequence[ScannedFile], covered: Sequence[Range], pair: str
) -> UncoveredIds:
    """Find where trade ids are missing in a chain of files, and which of that time not to cover.

    In some markets ids skip all the time; then missing ids prove nothing.

    Args:
        files: the chain.
        covered: what the archive covers already; places in it are filled.
        pair: altname, for the notes.
    """
    notes = []
    if not all(file.id_runs.is_known for file in files):
        notes.append("its trade ids skip too often, or are in no order: missing ids are not found")
    lacking = missing_ids([file.id_runs for file in files])
    if len(lacking.counts) <= MAX_RUNS:
        is_open = [bool(missing([around_], covered)) for around_ in lacking.ranges()]
        lacking = lacking.where(np.array(is_open, bool))
    is_split = lacking.to_split_at(sum(file.rows for file in files))
    reason = "too many to be requested, so that time counts as covered"
    if files[0].is_vouched_for:
        is_split = np.zeros_like(is_split)
        reason = "that time counts as covered, because you gave --whole-since and --whole-until"
    split, counted = lacking.where(is_split), lacking.where(~is_split)
    ranges = union(split.ranges())
    if ranges:
        advice = f"`harvester backfill {pair}` downloads that time"
        notes.append(f"{split.text()}; {advice}; {gap_note(ranges)}")
    if len(counted.counts):
        notes.append(f"{counted.text()}: {reason}")
    return UncoveredIds(ranges, notes)


def is_in_order(chain: Sequence[ScannedFile]) -> bool:
    """Whether a chain of files can be read as it is: no time is a minute before an earlier one."""
    latest_ns = 0
    for file in chain:
        if file.first_ns is None or file.last_ns is None:
            continue
        if not file.is_sorted or file.first_ns < latest_ns - MAX_STEP_BACK_S * SECOND:
            return False
        latest_ns = max(latest_ns, file.last_ns)
    return True


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


class _State(NamedTuple):
    """What the operating system says of a file; it differs once the file is written or replaced."""

    size: int
    modified_ns: int
    inode: int


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


def _state(path: Path) -> _State | None:
    """The state of a file; None if it can't be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return _State(found.st_size, found.st_mtime_ns, found.st_ino)
