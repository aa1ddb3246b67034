"""Verify a pair: check every segment, overlaps, gaps, trade ids; compute digests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

import numpy as np

from harvester.errors import ArchiveDamaged
from harvester.events import Listener, Step, ignore, result_of
from harvester.schema import RowsChecksum
from harvester.storage import id_gaps
from harvester.storage.compaction import is_being_replaced
from harvester.storage.id_gaps import BEFORE_FIRST_ID, FirstId, IdGap, LastId, gap_at_end
from harvester.storage.segment import Footer, RollUp, Segment
from harvester.storage.trade_store import (
    EVERYTHING,
    MAX_SNAPSHOT_TRIES,
    SnapshotStore,
    TradeStore,
    ending_in_future,
    future_fault,
    pieces_of,
    retry_on_new_listing,
    unstable_files,
    without_future,
)
from harvester.times import Range, covers, missing
from harvester.verify.file_check import SegmentFindings, check_segment
from harvester.verify.reports import Digest, Fault, Month, PairReport

# --- trade ids ------------------------------------------------------------------------------------

MAX_GAPS_LISTED = 20


class _LocatedIdGap(NamedTuple):
    """An id gap, and the segments that the trades before and after it are in."""

    gap: IdGap
    left: SegmentFindings
    right: SegmentFindings


def check_ids(report: PairReport, found: Sequence[SegmentFindings]) -> None:
    """Report id gaps that no footer explains, and imported trades that are too few or too many.

    An id gap beside imported rows with ids, whose reason could not be found out, is a note and no
    fault; so are imported trades that are too few in a market whose ids skip all the time.
    """
    sound = [findings for findings in found if findings.footer is not None and not findings.wrong]
    footers = [findings.footer for findings in sound if findings.footer]
    confirmed = {tuple(jump) for footer in footers for jump in footer.confirmed_id_gaps}
    across = {tuple(sides) for footer in footers for sides in footer.id_gaps_across_imports}
    gaps = [_LocatedIdGap(gap, findings, findings) for findings in sound for gap in findings.gaps]
    gaps += _gaps_at_boundaries(report, found)
    unexplained = [located for located in gaps if located.gap.sides not in confirmed]
    report.notes += [
        f"{report.pair}: {id_gaps.imported_gap_text(report.pair, *gap.sides, gap.rows)}"
        for gap, *_ in unexplained
        if gap.sides in across
    ]
    counts = {count.sides: count for count in id_gaps.wrong_counts(footers)}
    unexplained = [located for located in unexplained if located.gap.sides not in across]
    # Of a pair that has id gaps at nearly every trade, footers count them and do not list them.
    if len(unexplained) <= report.unconfirmed_id_gaps:
        proved = {sides for sides, count in counts.items() if count.is_proved}
        unexplained = [located for located in unexplained if located.gap.sides in proved]
    _report_gaps(report, unexplained)
    # No path, as `--repair` moves no imported file: `--replace-imported` downloads its range.
    for findings in sound:
        if findings.contradiction:
            text = f"{findings.contradiction}: {id_gaps.wrong_ids_advice(report.pair)}"
            report.faults.append(Fault(report.pair, findings.segment.range, None, text))
    for within, text in id_gaps.wrong_orders(footers, report.pair):
        report.faults.append(Fault(report.pair, within, None, text))
    located_sides = {located.gap.sides for located in gaps}
    for count in [each for sides, each in counts.items() if sides not in located_sides]:
        text = count.text(report.pair)
        if not count.is_proved:
            report.notes.append(f"{report.pair}: {text}")
            continue
        is_asked = count.rows < count.expected and count.after_id != BEFORE_FIRST_ID.trade_id
        lost = count.within if is_asked and count.sides not in across else None
        report.faults.append(Fault(report.pair, count.within, None, text, None, lost))


def _report_gaps(report: PairReport, gaps: Sequence[_LocatedIdGap]) -> None:
    for gap, left, right in gaps[:MAX_GAPS_LISTED]:
        affected = Range(left.segment.range.after, right.segment.range.through)
        other_path = None if left is right else left.segment.path
        # The range that may lack trades; with the two trades' own times if these are equal.
        lost = Range(gap.after_ns, gap.before_ns - 1)
        if gap.before_ns - gap.after_ns <= 1:
            lost = Range(gap.after_ns - 1, gap.before_ns)
        path, text = right.segment.path, _gap_text(gap)
        report.faults.append(Fault(report.pair, affected, path, text, other_path, lost))
    if len(gaps) > MAX_GAPS_LISTED:
        report.notes.append(f"{report.pair}: {len(gaps) - MAX_GAPS_LISTED} more id gaps")


def _gap_text(gap: IdGap) -> str:
    before, after = gap.sides
    if before == BEFORE_FIRST_ID.trade_id:
        return f"its first trade id is {after}, not 1, and no confirmed id gap explains it"
    return f"unconfirmed id gap: {before} is followed by {after}"


def _gaps_at_boundaries(
    report: PairReport, found: Sequence[SegmentFindings]
) -> Iterator[_LocatedIdGap]:
    """The id gaps between segments that touch; across a gap in coverage any id may follow.

    Coverage that begins at time 0 continues from id 0: a market's first trade has id 1.
    """
    edge: LastId | None = None
    left: SegmentFindings | None = None
    for findings in found:
        if findings.footer is None or findings.wrong:
            left, edge = None, None
            continue
        footer, segment = findings.footer, findings.segment
        if left is None and segment.range.after == 0:
            edge = BEFORE_FIRST_ID
        elif left is None or left.segment.range.through != segment.range.after:
            edge = None
        else:
            report.boundaries += 1
        if edge == BEFORE_FIRST_ID and footer.rows_before_first_id:
            # Rows without ids come first: old answers of the exchange had none.
            edge = None
        is_imported = footer.is_imported
        following = None
        if footer.first_trade_id:
            following = FirstId(footer.first_trade_id, footer.rows_before_first_id)
        if is_imported and (footer.rows_before_first_id or not following):
            edge = None  # Rows of a CSV without ids are counted by `wrong_counts`.
        gap = gap_at_end(edge, following)
        if gap is not None:
            located = gap._replace(before_ns=findings.first_id_ns)
            yield _LocatedIdGap(located, left or findings, findings)
        edge = (
            None if is_imported and footer.rows_after_last_id else _last_id(findings, footer, edge)
        )
        left = findings


def _last_id(found: SegmentFindings, footer: Footer, edge: LastId | None) -> LastId | None:
    """The last trade id after a segment; `edge` is the last one before it."""
    if footer.last_trade_id is not None:
        return LastId(footer.last_trade_id, footer.rows_after_last_id, found.last_id_ns)
    return edge and edge._replace(rows_without_id=edge.rows_without_id + footer.rows)


# --- verify ---------------------------------------------------------------------------------------


def verify(
    archive: TradeStore,
    pair: str,
    *,
    workers: int | None = None,
    listener: Listener = ignore,
    now_ns: int | None = None,
) -> PairReport:
    """Check every segment of a pair, and the segments with each other.

    Reads every row, several files at a time; memory holds one row group per worker.

    Args:
        archive: the archive to check.
        pair: altname.
        workers: files read at a time; None for the number of processors.
        listener: receives a `Step` after each file.
        now_ns: this machine's time; coverage must not end after it.

    Raises:
        ArchiveDamaged: files keep vanishing while they are read.
    """
    workers = workers or os.cpu_count() or 1
    now_ns = time.time_ns() if now_ns is None else now_ns
    report: PairReport | None = None
    sound: dict[_Files, SegmentFindings] = {}
    for _ in range(MAX_SNAPSHOT_TRIES):
        try:
            listed = _list_files(archive, pair)
        except ArchiveDamaged as damage:
            return PairReport(pair, faults=[Fault(pair, Range(0, 0), None, str(damage))])
        try:
            found = _read_all(archive, pair, listed, sound, workers, listener)
        except FileNotFoundError:
            continue
        report = _report(archive, pair, found, now_ns)
        # Between listing and reading, a file may be replaced by another of the same name.
        if not report.faults or set(listed) <= set(_list_files(archive, pair)):
            return report
        checked = zip(listed, found, strict=True)
        sound |= {files: findings for files, findings in checked if findings.is_sound}
    if report is not None:
        return report
    raise unstable_files(pair)


class _Files(NamedTuple):
    """A segment and its roll-ups, as they are listed."""

    segment: Segment
    rollups: tuple[RollUp, ...]


def _list_files(archive: TradeStore, pair: str) -> list[_Files]:
    rollups_of: dict[str, list[RollUp]] = {}
    segments = archive.segments(pair)
    for rollup in archive.rollups(pair):
        rollups_of.setdefault(rollup.segment_path, []).append(rollup)
    return [_Files(segment, tuple(rollups_of.get(segment.path, []))) for segment in segments]


def _report(
    archive: TradeStore, pair: str, found: list[SegmentFindings], now_ns: int
) -> PairReport:
    report = PairReport(pair)
    segments = [findings.segment for findings in found]
    # Of an imported segment and the downloaded trades of its range, only one is read.
    pieces = {piece.segment for piece in pieces_of(segments)}
    read = [findings for findings in found if findings.segment in pieces]
    for findings in found:
        _count(report, findings, is_read=findings.segment in pieces)
    for segment in ending_in_future(segments, now_ns):
        report.add_fault(segment, future_fault(segment, now_ns))
    _check_markets(report, found)
    _check_overlaps(report, segments)
    check_ids(report, read)
    _check_gaps(report, archive, segments, now_ns)
    _check_foreign_files(report, archive)
    return report


def _read_all(
    archive: TradeStore,
    pair: str,
    listed: Sequence[_Files],
    sound: Mapping[_Files, SegmentFindings],
    workers: int,
    listener: Listener,
) -> list[SegmentFindings]:
    """The findings of each file; files that are known to be sound are not read again."""

    def check(files: _Files) -> SegmentFindings:
        return sound.get(files) or check_segment(archive, *files)

    found: list[SegmentFindings] = []
    with ThreadPoolExecutor(workers) as pool:
        futures: list[Future[SegmentFindings]] = [pool.submit(check, files) for files in listed]
        try:
            for future in futures:
                found.append(result_of(future))
                listener(Step(pair, len(found), len(listed)))
        finally:
            for future in futures:
                future.cancel()
    return found


def _count(report: PairReport, found: SegmentFindings, *, is_read: bool) -> None:
    report.files += 1
    report.notes += found.notes
    if is_read:
        report.ids += found.ids
    if is_read and found.footer is not None:
        report.rows += found.footer.rows
        report.confirmed_id_gaps += len(found.footer.confirmed_id_gaps)
        report.unconfirmed_id_gaps += found.footer.unconfirmed_id_gaps
    report.rollups += found.rollups
    report.faults += [
        Fault(report.pair, found.segment.range, rollup.path, text)
        for rollup, text in found.wrong_rollups
    ]
    for text in found.wrong:
        report.add_fault(found.segment, text)


def _check_markets(report: PairReport, found: Sequence[SegmentFindings]) -> None:
    """Report files of another market than that of the first file with a market key."""
    first = ""
    for findings in found:
        key = findings.footer.key if findings.footer is not None else ""
        first = first or key
        if key and key != first:
            text = f"its trades are of the market {key}, the trades before them of {first}"
            report.add_fault(findings.segment, text)


def _check_overlaps(report: PairReport, segments: list[Segment]) -> None:
    widest: Segment | None = None
    for segment in segments:
        if (
            widest is not None
            and segment.range.after < widest.range.through
            and not is_being_replaced(widest, segment)
        ):
            report.add_fault(segment, f"it overlaps with {widest.path}", widest.path)
        if widest is None or segment.range.through > widest.range.through:
            widest = segment


def _check_foreign_files(report: PairReport, archive: TradeStore) -> None:
    text = "it is not a segment in the right folder, but readers of trades/**/*.parquet read it too"
    try:
        paths = archive.foreign_files(report.pair)
    except ArchiveDamaged as damage:
        report.faults.append(Fault(report.pair, Range(0, 0), None, str(damage)))
        return
    report.faults += [Fault(report.pair, Range(0, 0), path, text) for path in paths]


def _check_gaps(
    report: PairReport, archive: TradeStore, segments: list[Segment], now_ns: int
) -> None:
    try:
        requested = archive.requested(report.pair)
    except ArchiveDamaged as damage:
        path = f"wanted/{report.pair}.json"
        report.faults.append(Fault(report.pair, Range(0, 0), path, str(damage)))
        return
    for gap in missing(without_future(requested, now_ns), [segment.range for segment in segments]):
        text = "missing: requested, but no file has it"
        report.faults.append(Fault(report.pair, gap, None, text))


# --- digests --------------------------------------------------------------------------------------

# docs/format.md says how to compute them without harvester.


def digests(
    archive: TradeStore,
    pair: str,
    requested: Range = EVERYTHING,
    *,
    listener: Listener = ignore,
) -> list[Digest]:
    """Compute the digests of a pair: one for each range of consecutive whole months.

    A digest depends on the trades alone, not on how they were downloaded, flushed or compacted.
    The first month is that of the first stored trade.

    Args:
        archive: the archive to read.
        pair: altname.
        requested: only months that lie completely in this range are counted.
        listener: receives a `Step` after each month.

    Raises:
        ArchiveDamaged: a file can't be read, or files keep vanishing, or being replaced.
    """
    for _ in range(MAX_SNAPSHOT_TRIES):
        before = _imported(archive, pair)
        whole = _whole_months(archive, pair, requested)
        found: dict[int, Month] = {}
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            months = pool.map(lambda number: _month(archive, pair, number), whole)
            for number, month in zip(whole, months, strict=True):
                found[number] = month
                listener(Step(pair, len(found), len(whole), "months"))
        if before == _imported(archive, pair):
            # Consecutive months have consecutive numbers, so number minus index is constant.
            ranges = groupby(enumerate(whole), key=lambda item: item[1] - item[0])
            return [Digest.of(pair, [found[number] for _, number in part]) for _, part in ranges]
    raise unstable_files(pair, "being replaced")


@retry_on_new_listing
def _whole_months(archive: TradeStore, pair: str, requested: Range) -> list[int]:
    """The numbers of the months that lie completely in the coverage and in `requested`."""
    bounds = (archive.footer(piece.segment).bounds for piece in archive.pieces(pair))
    first_ns = next((found[0] for found in bounds if found), None)
    if first_ns is None:
        return []
    coverage = archive.coverage(pair)
    end_ns = min(coverage[-1].through, requested.through)
    first = np.datetime64(max(first_ns, requested.after), "ns")
    number, whole = int(first.astype("M8[M]").astype(np.int64)), []
    while (month := _range(number)).through <= end_ns:
        if month.after >= requested.after and covers(coverage, month):
            whole.append(number)
        number += 1
    return whole


def _month(archive: TradeStore, pair: str, number: int) -> Month:
    checksum = RowsChecksum(archive.scan(pair, _range(number)))
    return Month(str(np.datetime64(number, "M")), checksum.rows, checksum.hexdigest())


def _range(number: int) -> Range:
    """The range of a month, by its number from 1970-01 on."""
    opens = np.arange(number, number + 2).astype("M8[M]").astype("M8[ns]").astype(np.int64) - 1
    return Range(*opens.tolist())


# --- verify, with digests -------------------------------------------------------------------------


def verify_with_digests(archive: TradeStore, pair: str, listener: Listener = ignore) -> PairReport:
    """Verify a pair, and compute its digests if nothing is wrong.

    If imported trades are replaced by re-downloaded ones meanwhile, or covered time becomes a gap,
    everything is read again, so that the report is of the trades before that or of those after it,
    never of both.

    Args:
        archive: the archive to check.
        pair: altname.
        listener: receives a `Step` after each file, then after each month.

    Raises:
        ArchiveDamaged: files keep vanishing, or being replaced, while they are read.
    """
    for _ in range(MAX_SNAPSHOT_TRIES):
        snapshot = SnapshotStore(archive)
        before = _imported(snapshot, pair)
        covered = [] if before is None else snapshot.coverage(pair)
        report = verify(archive, pair, listener=listener)
        if report.faults:
            return report
        try:
            report.digests = digests(snapshot, pair, listener=listener)
            if before == _imported(archive, pair):
                return report
        except ArchiveDamaged:
            if before == _imported(archive, pair) and not missing(covered, archive.coverage(pair)):
                raise
    raise unstable_files(pair, "being replaced")


def _imported(archive: TradeStore, pair: str) -> list[Segment] | None:
    """The imported segments; None where a folder of the pair is refused."""
    try:
        return [segment for segment in archive.segments(pair) if segment.is_imported]
    except ArchiveDamaged:
        return None
