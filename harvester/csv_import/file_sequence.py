"""Which file of a pair follows which, and what they have: completely, and stored already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.csv_import.csv_files import UNKNOWN, KnownComplete, Member
from harvester.csv_import.file_scan import ScannedFile
from harvester.csv_import.sorting import MAX_STEP_BACK_S, Sorter
from harvester.csv_import.stored_check import (
    TOLERANCE_NS,
    Flags,
    KeyedRows,
    joined,
    rows_by_id,
    rows_of,
)
from harvester.csv_import.uncovered_times import MAX_RUNS, IdRuns, around, missing_ids
from harvester.errors import ArchiveHasGaps, DamagedFile
from harvester.query.plan import gap_note
from harvester.schema import Int64s, clip, int64s_as, times, trade_ids
from harvester.storage.id_gaps import BEFORE_FIRST_ID, IdGap
from harvester.storage.segment import ImportedRange
from harvester.storage.trade_store import TradeStore
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
    is_known = all(file.id_runs.is_known for file in files)
    if not is_known:
        notes.append("its trade ids skip too often, or are in no order: missing ids are not found")
    before, behind = _stored_ids(files, archive, pair) if is_known else ([], [])
    lacking = missing_ids([*before, *(file.id_runs for file in files), *behind])
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
    if files[0].is_vouched_for:
        # Stored trades say more, if the place can be downloaded.
        stored = [] if not backfill else [found.runs[0, 0] for found in (*before, *behind)]
        is_split &= np.isin(lacking.before, stored) | np.isin(lacking.behind, stored)
        reason = "that time counts as covered, because you gave --whole-since and --whole-until"
    split, counted = lacking.where(is_split), lacking.where(~is_split)
    between = [Range(*span) for span in split.seconds_between().tolist()]
    ranges = union(split.ranges() if backfill else between)
    if ranges:
        advice = f"{backfill} downloads that time; " if backfill else ""
        notes.append(f"{split.text()}; {advice}{gap_note(ranges)}")
    if len(counted.counts):
        notes.append(f"{counted.text()}: {reason}")
    sides = zip(counted.before.tolist(), counted.behind.tolist(), strict=True)
    return UncoveredIds(ranges, notes, frozenset(sides) if is_known else None)


def _stored_ids(
    files: Sequence[ScannedFile], archive: TradeStore, pair: str
) -> tuple[list[IdRuns], list[IdRuns]]:
    """The last stored id before the files and the first one behind them, if they meet there.

    They meet if no time between is left uncovered. Before a market's first trade stands id 0.
    """
    runs = np.concatenate([file.id_runs.runs for file in files])
    if not len(runs):
        return [], []
    first_ns = min(file.first_ns for file in files if file.first_ns is not None)
    last_ns = max(file.last_ns for file in files if file.last_ns is not None)
    covered, begins_ns = archive.coverage(pair), files[0].begins_ns or 0
    before, behind = list[IdRuns](), list[IdRuns]()
    reached = max((span.through for span in covered if span.after < first_ns), default=0)
    if begins_ns - 1 <= reached < first_ns:
        known = archive.last_id_before(pair, reached)
        is_first = not missing([Range(0, max(1, reached))], [*covered, Range(0, 1)])
        has_all_ids = not any(file.id_runs.rows_without_id for file in files)
        if is_first and has_all_ids and archive.last_time(pair, reached) is None:
            known = BEFORE_FIRST_ID
        if known is not None and known[0] < runs[:, 0].min():
            before = [IdRuns(np.repeat([[known[0], reached, 0]], 2, axis=1), known[1])]
    opens = min((span.after for span in covered if span.through > last_ns), default=END_OF_TIME)
    following = (
        archive.first_id_after(pair, opens) if last_ns <= opens <= files[-1].ends_ns else None
    )
    if following is not None and following[0] > runs[:, 1].max():
        number, without_id = following
        behind = [IdRuns(np.repeat([[number, opens + 1, without_id]], 2, axis=1))]
    return before, behind


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


# --- rows at the ends of covered time -------------------------------------------------------------

# Nothing of a delisted pair can be downloaded, so its imported ranges meet covered time between any
# two trades. There, the time of a row does not show on which side its trade is, as it was rounded.
# But the trades that are stored show it. Rows and trades of the same price and volume form a series
# as long as each follows within a second, the most by which the times of a row and its trade
# differ. If the file has all trades of a series, it has as many more rows as are not stored yet.

CONTEXT_NS = 60 * SECOND
"""Rows and trades this far from an end of covered time are compared."""


class RowsAtEnds(NamedTuple):
    """The rows of a file that are not imported as they are, by their indexes in order of time.

    Attributes:
        stored: indexes of rows that are stored already.
        moved: of rows that are not stored though their time is covered, the nearest time that is
            not covered, in nanoseconds, by index.
        in_doubt: the seconds of rows of which that can't be decided.
    """

    stored: set[int]
    moved: dict[int, int]
    in_doubt: list[Range]

    def raise_doubt(self) -> None:
        """Report rows that may be stored already.

        Raises:
            ArchiveHasGaps: there are such rows.
        """
        if self.in_doubt:
            raise ArchiveHasGaps(
                f"rows of {', '.join(map(str, self.in_doubt))} were not imported, as they may be "
                "trades that are stored with the second before or after: import a file that has "
                "the minute on both sides, such as a newer Kraken_Trading_History.zip"
            )

    def applied(
        self, batches: Iterable[pa.RecordBatch], on_stored: Callable[[pa.RecordBatch], None]
    ) -> Iterator[pa.RecordBatch]:
        """Pass on the rows that are not stored already, the moved ones with their new time.

        Args:
            batches: all rows of the file, in order of time.
            on_stored: called with the rows that are stored already.
        """
        if not (self.stored or self.moved):
            yield from batches
            return
        sorter, start = Sorter(), 0
        for rows in batches:
            here = range(start, start := start + rows.num_rows)
            stored = [index - here.start for index in self.stored if index in here]
            moved = {index - here.start: ns for index, ns in self.moved.items() if index in here}
            stamps, is_new = times(rows).copy(), np.ones(rows.num_rows, bool)
            stamps[[*moved]], is_new[stored] = [*moved.values()], False
            at = rows.schema.get_field_index("time")
            field = rows.schema.field(at)
            placed = rows.set_column(at, field, int64s_as(field.type, stamps)) if moved else rows
            on_stored(placed.filter(pa.array(~is_new)))
            yield sorter.push(placed.filter(pa.array(is_new)))
        yield sorter.finish()


def rows_at_ends(
    archive: TradeStore,
    pair: str,
    files: Sequence[ScannedFile],
    batches: Iterable[pa.RecordBatch],
    unknown: Sequence[Range],
) -> RowsAtEnds:
    """Compare the rows of a chain of files with the stored trades around ends of covered time.

    Args:
        archive: where the trades are.
        pair: altname.
        files: the chain.
        batches: all rows of the files, in order of time.
        unknown: ranges in which the files may lack rows.
    """
    whole = _whole_range(files)
    covered = archive.coverage(pair)
    ends = np.array([end for span in covered for end in span], np.int64)
    windows = union(Range(end - CONTEXT_NS, end + CONTEXT_NS) for end in ends.tolist())
    inside = {window: list[pa.RecordBatch]() for window in windows}
    firsts, start = dict[Range, int](), 0
    for rows in batches:
        for window, parts in inside.items():
            part = clip(rows, window)
            if part.num_rows:
                firsts.setdefault(window, start + int(times(rows).searchsorted(times(part)[0])))
                parts.append(part)
        start += rows.num_rows
    found = RowsAtEnds(set(), {}, [])
    for window, first in firsts.items():
        parts = inside[window]
        stored = list(archive.scan(pair, window._replace(after=max(0, window.after))))
        has_ids = all((trade_ids(batch) > 0).all() for batch in (*parts, *stored))
        keyed = rows_by_id if has_ids else rows_of
        rows, trades = (joined([*map(keyed, some)]) for some in (parts, stored))
        is_sure = np.full(len(trades.stamps), has_ids)
        for span in missing(filter(None, [overlap(window, whole)]), unknown):
            inner = Range(span.after + TOLERANCE_NS, span.through - TOLERANCE_NS)
            is_sure |= (trades.stamps > inner.after) & (trades.stamps <= inner.through)
        _decide(_Window(rows, trades, is_sure, ends, whole), first, found)
    return found._replace(in_doubt=missing(found.in_doubt, unknown))


def _whole_range(files: Sequence[ScannedFile]) -> Range:
    """The range in which a chain has every trade; at an unknown end, without the second there."""
    since_s, until_s = files[0].member.complete.since_s, files[-1].member.complete.until_s
    if since_s is None:
        since_s = min((file.first_ns for file in files if file.first_ns), default=0) // SECOND + 1
    if until_s is None:
        until_s = max(file.last_ns or 0 for file in files) // SECOND
    return Range(since_s * SECOND - 1, until_s * SECOND - 1)


class _Window(NamedTuple):
    """Rows and trades around ends of covered time.

    Attributes:
        rows: of the file.
        trades: that are stored.
        is_sure: which trades the file has for sure; shape (trades,).
        ends: of covered time, in order: where a range begins, where it ends, and so on.
        whole: the range in which the file has every trade.
    """

    rows: KeyedRows
    trades: KeyedRows
    is_sure: Flags
    ends: Int64s
    whole: Range

    def target(self, stamp: int, place: int) -> int | None:
        """The time nearest to a row's that is not covered, at an end where both times meet.

        Args:
            stamp: the row's time.
            place: how many ends are before it.

        Returns:
            The time; None if no end is within a second, or the file ends there as well.
        """
        near = enumerate(self.ends[max(0, place - 1) : place + 1].tolist(), max(0, place - 1))
        # The time at which a covered range begins is not covered.
        targets = [end + index % 2 for index, end in near if abs(end - stamp) <= TOLERANCE_NS]
        inside = [ns for ns in targets if self.whole.after < ns <= self.whole.through]
        return min(inside, key=lambda ns: abs(ns - stamp), default=None)


def _decide(window: _Window, first: int, found: RowsAtEnds) -> None:
    """Decide which rows of a window are stored; `first` is the index of its first row."""
    both = joined([window.rows, window.trades])
    stamps, count = both.stamps, len(window.rows.stamps)
    # Covered time has odd places.
    places = window.ends.searchsorted(stamps)
    order = np.lexsort((stamps, both.hashes))
    is_break = (np.diff(both.hashes[order]) != 0) | (np.diff(stamps[order]) > TOLERANCE_NS)
    for series in np.split(order, is_break.nonzero()[0] + 1):
        rows, trades = series[series < count], series[series >= count]
        is_outside = places[series[0]] == places[series[-1]] and places[series[0]] % 2 == 0
        if is_outside or not len(rows):
            continue
        is_sure = bool(window.is_sure[trades - count].all())
        new = _new_rows(window.ends, stamps[series], places[trades], len(rows)) if is_sure else None
        for index, row in enumerate(rows.tolist()):
            stamp, place = int(stamps[row]), int(places[row])
            target = window.target(stamp, place)
            if target is None:
                continue
            if new is None:
                begin_ns = stamp // SECOND * SECOND
                found.in_doubt.append(Range(begin_ns - 1, begin_ns + SECOND - 1))
            elif index in new and place % 2 == 1:
                found.moved[first + row] = target
            elif index not in new and place % 2 == 0:
                found.stored.add(first + row)


def _new_rows(ends: Int64s, stamps: Int64s, places: Int64s, rows: int) -> range | None:
    """Which rows of a series are not stored, by their order; None if that can't be decided.

    They are those behind the trades, before them, or between those of two covered ranges, whatever
    the series reaches.

    Args:
        ends: of covered time.
        stamps: the times of the series' rows and trades, in order.
        places: how many of these ends are before each of its trades.
        rows: number of its rows.
    """
    trades = len(places)
    if rows <= trades:
        return range(0)
    if not trades:
        return range(rows)
    before, behind = int(places[0]), int(places[-1])
    is_before = int(stamps[0]) <= int(ends[before - 1]) + TOLERANCE_NS
    is_behind = int(stamps[-1]) > int(ends[behind]) - TOLERANCE_NS
    is_between = before != behind
    if is_before + is_behind + is_between != 1 or behind - before > 2:
        return None
    start = 0 if is_before else trades if is_behind else int((places == before).sum())
    return range(start, start + rows - trades)
