"""Verify a pair: check every segment, overlaps, gaps, trade ids; compute digests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from harvester.download.events import Listener, Step, ignore
from harvester.errors import ArchiveDamaged
from harvester.storage.compaction import is_being_replaced
from harvester.storage.segment import Footer, RollUp, Segment
from harvester.storage.trade_store import (
    LISTINGS,
    TradeStore,
    ending_in_future,
    future_fault,
    pieces_of,
    without_future,
)
from harvester.threads import result_of
from harvester.times import Range, missing
from harvester.trade_ids import BEFORE_FIRST_ID, LastId, imported_gap_text
from harvester.verify.digest import digests
from harvester.verify.reports import Fault, PairReport
from harvester.verify.segment_check import IdGap, SegmentFindings, check_segment

# --- trade ids ------------------------------------------------------------------------------------

MAX_GAPS_LISTED = 20


class _LocatedIdGap(NamedTuple):
    """An id gap, and the segments that the trades before and after it are in."""

    gap: IdGap
    left: SegmentFindings
    right: SegmentFindings


def check_ids(report: PairReport, found: Sequence[SegmentFindings]) -> None:
    """Report id gaps that no footer explains.

    An id gap with imported rows in it, whose reason could not be found out, is a note and no fault.
    """
    sound = [findings for findings in found if findings.footer is not None and not findings.wrong]
    footers = [findings.footer for findings in sound if findings.footer]
    confirmed = {tuple(jump) for footer in footers for jump in footer.jumps}
    across = {tuple(sides) for footer in footers for sides in footer.across_files}
    gaps = [_LocatedIdGap(gap, findings, findings) for findings in sound for gap in findings.gaps]
    gaps += _gaps_at_boundaries(report, found)
    unexplained = [located for located in gaps if located.gap.sides not in confirmed]
    report.notes += [
        f"{report.pair}: {imported_gap_text(report.pair, *gap.sides, gap.rows)}"
        for gap, *_ in unexplained
        if gap.sides in across
    ]
    _report_gaps(report, [located for located in unexplained if located.gap.sides not in across])


def _report_gaps(report: PairReport, gaps: Sequence[_LocatedIdGap]) -> None:
    # Of a pair that has id gaps at nearly every trade, footers count them and do not list them.
    if len(gaps) <= report.unconfirmed_id_gaps:
        return
    for gap, left, right in gaps[:MAX_GAPS_LISTED]:
        affected = Range(left.segment.range.after, right.segment.range.through)
        other_path = None if left is right else left.segment.path
        path, text = right.segment.path, _gap_text(gap)
        report.faults.append(Fault(report.pair, affected, path, text, other_path, gap.missing))
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
        if edge == BEFORE_FIRST_ID and footer.lead:
            # Rows without ids come first: old answers of the exchange had none, CSVs have none.
            edge = None
        first = footer.first_trade_id
        rows = edge.rows_without_id + footer.lead if edge else 0
        if edge and first is not None and first - edge.trade_id - 1 > rows:
            gap = IdGap((edge.trade_id, first), rows, (edge.time_ns, findings.first_id_ns))
            yield _LocatedIdGap(gap, left or findings, findings)
        edge = _last_id(findings, footer, edge)
        left = findings


def _last_id(found: SegmentFindings, footer: Footer, edge: LastId | None) -> LastId | None:
    """The last trade id after a segment; `edge` is the last one before it."""
    if footer.last_trade_id is not None:
        return LastId(footer.last_trade_id, footer.trail, found.last_id_ns)
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
    for _ in range(LISTINGS):
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
    raise ArchiveDamaged(f"files of {pair} keep vanishing while they are read: try again")


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
        text = future_fault(segment, now_ns)
        report.faults.append(Fault(pair, segment.range, segment.path, text))
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
        report.confirmed_id_gaps += len(found.footer.jumps)
        report.unconfirmed_id_gaps += found.footer.unasked_jumps
    segment = found.segment
    report.rollups += found.rollups
    report.faults += [
        Fault(report.pair, segment.range, rollup.path, text) for rollup, text in found.wrong_rollups
    ]
    report.faults += [Fault(report.pair, segment.range, segment.path, text) for text in found.wrong]


def _check_markets(report: PairReport, found: Sequence[SegmentFindings]) -> None:
    """Report files of another market than that of the first file with a market key."""
    first = ""
    for findings in found:
        key = findings.footer.key if findings.footer is not None else ""
        first = first or key
        if key and key != first:
            text = f"its trades are of the market {key}, the trades before them of {first}"
            segment = findings.segment
            report.faults.append(Fault(report.pair, segment.range, segment.path, text))


def _check_overlaps(report: PairReport, segments: list[Segment]) -> None:
    widest: Segment | None = None
    for segment in segments:
        if (
            widest is not None
            and segment.range.after < widest.range.through
            and not is_being_replaced(widest, segment)
        ):
            text = f"it overlaps with {widest.path}"
            report.faults.append(Fault(report.pair, segment.range, segment.path, text, widest.path))
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
        wanted = archive.wanted(report.pair)
    except ArchiveDamaged as damage:
        path = f"wanted/{report.pair}.json"
        report.faults.append(Fault(report.pair, Range(0, 0), path, str(damage)))
        return
    for gap in missing(without_future(wanted, now_ns), [segment.range for segment in segments]):
        text = "missing: requested, but no file has it"
        report.faults.append(Fault(report.pair, gap, None, text))


# --- verify, with digests -------------------------------------------------------------------------


def verify_with_digests(archive: TradeStore, pair: str, listener: Listener = ignore) -> PairReport:
    """Verify a pair, and compute its digests if nothing is wrong.

    If imported trades are replaced by re-downloaded ones meanwhile, everything is read again, so
    that the report is of the trades before the replacement or of those after it, never of both.

    Args:
        archive: the archive to check.
        pair: altname.
        listener: receives a `Step` after each file, then after each month.

    Raises:
        ArchiveDamaged: files keep vanishing, or being replaced, while they are read.
    """
    for _ in range(LISTINGS):
        before = _imported(archive, pair)
        report = _verify_once(archive, pair, listener)
        if report.faults or before == _imported(archive, pair):
            return report
    raise ArchiveDamaged(f"files of {pair} keep being replaced while they are read: try again")


def _verify_once(archive: TradeStore, pair: str, listener: Listener) -> PairReport:
    report = verify(archive, pair, listener=listener)
    if not report.faults:
        report.digests = digests(archive, pair, listener=listener)
    return report


def _imported(archive: TradeStore, pair: str) -> list[Segment] | None:
    """The imported segments; None where a folder of the pair is refused."""
    try:
        return [segment for segment in archive.segments(pair) if segment.is_imported]
    except ArchiveDamaged:
        return None
