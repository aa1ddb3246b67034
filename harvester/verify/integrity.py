"""Verify a pair: every segment, overlaps, gaps, trade ids, digests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from harvester.errors import ArchiveDamaged
from harvester.storage.footer import Footer
from harvester.storage.replacement_staging import AtomicReplacement, noted, path_of_note, torn
from harvester.storage.rollup_files import RollUp
from harvester.storage.segment import Segment
from harvester.storage.trade_store import (
    LISTINGS,
    TradeStore,
    ending_in_future,
    future_fault,
    retry_on_new_listing,
    without_future,
)
from harvester.times import Range, missing
from harvester.trade_ids import BEFORE_FIRST_ID, LastId, imported_gap_text
from harvester.verify.digest import digests
from harvester.verify.reports import Fault, PairReport
from harvester.verify.segment_check import Findings, Skip, check_segment

# --- ids ------------------------------------------------------------------------------------------

MOST_SAID = 20
"""Places where ids skip are told one by one up to so many."""


class _Place(NamedTuple):
    """A skip, and the segments that the ids on its sides are in."""

    skip: Skip
    left: Findings
    right: Findings


def check_ids(report: PairReport, found: Sequence[Findings]) -> None:
    """Tell where ids leave room for others, and nothing on record explains it.

    Where a file's rows lie between, and nobody could find out why, that is told as odd.
    """
    sound = [findings for findings in found if findings.footer is not None and not findings.wrong]
    footers = [one.footer for one in sound if one.footer]
    known = {tuple(jump) for footer in footers for jump in footer.jumps}
    across = {tuple(sides) for footer in footers for sides in footer.across_files}
    places = [_Place(skip, one, one) for one in sound for skip in one.skips]
    places += _at_seams(report, found)
    open_ = [place for place in places if place.skip.sides not in known]
    report.notes += [
        f"{report.pair}: {imported_gap_text(report.pair, *sides, rows)}"
        for (sides, rows, _), *_ in open_
        if sides in across
    ]
    _say(report, [one for one in open_ if one.skip.sides not in across])


def _say(report: PairReport, places: Sequence[_Place]) -> None:
    # A pair that jumps at nearly every trade has them counted, and not listed.
    if len(places) <= report.unasked_jumps:
        return
    for skip, left, right in places[:MOST_SAID]:
        text = _told(skip)
        span = Range(left.segment.range.after, right.segment.range.through)
        other = None if left is right else left.segment.path
        report.faults.append(
            Fault(report.pair, span, right.segment.path, text, other, skip.between)
        )
    if len(places) > MOST_SAID:
        report.notes.append(f"{report.pair}: ids skip in {len(places) - MOST_SAID} more places")


def _told(skip: Skip) -> str:
    before, behind = skip.sides
    if before == BEFORE_FIRST_ID.trade_id:
        return f"its first trade id is {behind}, not 1, and no confirmed id gap explains it"
    return f"ids skip from {before} to {behind}, which no jump on record explains"


def _at_seams(report: PairReport, found: Sequence[Findings]) -> Iterator[_Place]:
    """Where ids leave room between segments that touch; where coverage breaks off, any may.

    Coverage from 0 on goes on from id 0: a market's first trade has id 1.
    """
    edge: LastId | None = None
    left: Findings | None = None
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
            report.seams += 1
        if edge == BEFORE_FIRST_ID and footer.lead:
            # Rows without ids come first: old answers, or a file's, which have none to begin with.
            edge = None
        first = footer.first_trade_id
        rows = edge.rows_without_id + footer.lead if edge else 0
        if edge and first is not None and first - edge.trade_id - 1 > rows:
            skip = Skip((edge.trade_id, first), rows, (edge.time_ns, findings.first_id_ns))
            yield _Place(skip, left or findings, findings)
        edge = _edge_behind(findings, footer, edge)
        left = findings


def _edge_behind(found: Findings, footer: Footer, edge: LastId | None) -> LastId | None:
    if footer.last_trade_id is not None:
        return LastId(footer.last_trade_id, footer.trail, found.last_id_ns)
    return edge and edge._replace(rows_without_id=edge.rows_without_id + footer.rows)


# --- verify ---------------------------------------------------------------------------------------

Progress = Callable[[str, int, int], None]
"""Told a pair, its files checked and its files in all."""


def verify(
    archive: TradeStore,
    pair: str,
    *,
    workers: int | None = None,
    progress: Progress = lambda _pair, _done, _all: None,
    now_ns: int | None = None,
) -> PairReport:
    """Check everything that the archive says of a pair.

    Reads every row, several files at a time; memory holds a row group a worker.

    Args:
        archive: what to check.
        pair: altname.
        workers: files read at a time; None for as many as there are processors.
        progress: told after each file.
        now_ns: this machine's time, against which coverage must not end in the future.

    Raises:
        ArchiveDamaged: files keep vanishing while they are read.
    """
    workers = workers or os.cpu_count() or 1
    now_ns = time.time_ns() if now_ns is None else now_ns
    report: PairReport | None = None
    sound: dict[_Files, Findings] = {}
    for _ in range(LISTINGS):
        try:
            listed = _listed(archive, pair)
        except ArchiveDamaged as damage:
            return PairReport(pair, faults=[Fault(pair, Range(0, 0), None, str(damage))])
        try:
            found = _read_all(
                archive, pair, listed, sound, workers or os.cpu_count() or 1, progress
            )
        except FileNotFoundError:
            continue
        report = _report(archive, pair, found, now_ns)
        # A file may be replaced by one of its name, between the listing and the reading.
        if not report.faults or set(listed) <= set(_listed(archive, pair)):
            return report
        sound |= {files: one for files, one in zip(listed, found, strict=True) if one.is_sound}
    if report is not None:
        return report
    raise ArchiveDamaged(f"files of {pair} keep vanishing while they are read: try again")


class _Files(NamedTuple):
    """A segment and the roll-ups beside it, as they are listed."""

    segment: Segment
    rollups: tuple[RollUp, ...]


def _listed(archive: TradeStore, pair: str) -> list[_Files]:
    beside: dict[str, list[RollUp]] = {}
    segments = archive.segments(pair)
    for rollup in archive.rollups(pair):
        beside.setdefault(rollup.segment_path, []).append(rollup)
    return [_Files(segment, tuple(beside.get(segment.path, []))) for segment in segments]


def _report(archive: TradeStore, pair: str, found: list[Findings], now_ns: int) -> PairReport:
    report = PairReport(pair)
    segments = [one.segment for one in found]
    for findings in found:
        _count(report, findings)
    for segment in ending_in_future(segments, now_ns):
        text = future_fault(segment, now_ns)
        report.faults.append(Fault(pair, segment.range, segment.path, text))
    _check_markets(report, found)
    _check_overlaps(report, segments)
    check_ids(report, found)
    _check_gaps(report, archive, segments, now_ns)
    _check_torn(report, archive)
    _check_strangers(report, archive)
    return report


def _read_all(
    archive: TradeStore,
    pair: str,
    listed: Sequence[_Files],
    sound: Mapping[_Files, Findings],
    workers: int,
    progress: Progress,
) -> list[Findings]:
    """What reading each file showed; those that are known to be sound are not read again."""
    found: list[Findings] = []
    with ThreadPoolExecutor(workers) as pool:
        futures: list[Future[Findings]] = [
            pool.submit(lambda one: sound.get(one) or check_segment(archive, *one), files)
            for files in listed
        ]
        try:
            for future in futures:
                found.append(future.result())
                progress(pair, len(found), len(listed))
        finally:
            for future in futures:
                future.cancel()
    return found


def _count(report: PairReport, found: Findings) -> None:
    report.files += 1
    report.ids += found.ids
    report.notes += found.notes
    if found.footer is not None:
        report.rows += found.footer.rows
        report.jumps += len(found.footer.jumps)
        report.unasked_jumps += found.footer.unasked_jumps
    segment = found.segment
    report.rollups += found.rollups
    report.faults += [
        Fault(report.pair, segment.range, one.path, text) for one, text in found.wrong_rollups
    ]
    report.faults += [Fault(report.pair, segment.range, segment.path, text) for text in found.wrong]


def _check_markets(report: PairReport, found: Sequence[Findings]) -> None:
    """Find files of another market than the first one that tells its key."""
    first = ""
    for findings in found:
        key = findings.footer.key if findings.footer is not None else ""
        first = first or key
        if key and key != first:
            text = f"its trades are of the market {key}, those before them of {first}"
            segment = findings.segment
            report.faults.append(Fault(report.pair, segment.range, segment.path, text))


def _check_overlaps(report: PairReport, segments: list[Segment]) -> None:
    widest: Segment | None = None
    for segment in segments:
        if widest is not None and segment.range.after < widest.range.through:
            text = f"it overlaps with {widest.path}"
            report.faults.append(Fault(report.pair, segment.range, segment.path, text, widest.path))
        if widest is None or segment.range.through > widest.range.through:
            widest = segment


def _check_strangers(report: PairReport, archive: TradeStore) -> None:
    text = "it is no segment in its place, and whoever reads trades/**/*.parquet counts its rows"
    try:
        paths = archive.foreign_files(report.pair)
    except ArchiveDamaged as damage:
        report.faults.append(Fault(report.pair, Range(0, 0), None, str(damage)))
        return
    report.faults += [Fault(report.pair, Range(0, 0), path, text) for path in paths]


def _check_torn(report: PairReport, archive: TradeStore) -> None:
    path = path_of_note(report.pair)
    try:
        found = torn(archive, report.pair)
    except ArchiveDamaged as damage:
        found = Range(0, 0), str(damage)
    if found:
        report.faults.append(Fault(report.pair, found[0], path, found[1]))


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
        text = "it was asked for, and no file covers it"
        report.faults.append(Fault(report.pair, gap, None, text))


# --- proof ----------------------------------------------------------------------------------------

ProofProgress = Callable[[str, int, int, str], None]
"""Told a pair, how much of it is done, of how much, and what is counted: files, then months."""


def prove(
    archive: TradeStore, pair: str, progress: ProofProgress = lambda _pair, _done, _all, _unit: None
) -> PairReport:
    """What `verify` finds of a pair, with its digests where nothing is wrong.

    Where what a file told gives way to the exchange's own trades meanwhile, all is read again: it
    is of the tape before, or of the one behind.

    Raises:
        ArchiveDamaged: files keep vanishing, or being replaced, while they are read.
    """
    for _ in range(LISTINGS):
        before = _replaceable(archive, pair)
        report = _proved(archive, pair, progress)
        if report.faults or before == _replaceable(archive, pair):
            return report
    raise ArchiveDamaged(f"files of {pair} keep being replaced while they are read: try again")


def _proved(archive: TradeStore, pair: str, progress: ProofProgress) -> PairReport:
    report = verify(
        archive, pair, progress=lambda name, done, of: progress(name, done, of, "files")
    )
    if not report.faults:
        report.digests = digests(
            archive, pair, progress=lambda name, done, of: progress(name, done, of, "months")
        )
    return report


def _replaceable(
    archive: TradeStore, pair: str
) -> tuple[list[AtomicReplacement], list[Segment]] | None:
    """What may be replaced by other trades, and is being; None where a file can't be read."""
    try:
        return _from_files(archive, pair)
    except ArchiveDamaged:
        return None


@retry_on_new_listing
def _from_files(archive: TradeStore, pair: str, /) -> tuple[list[AtomicReplacement], list[Segment]]:
    segments = [segment for segment in archive.segments(pair) if archive.footer(segment).imported]
    return noted(archive.store, pair), segments
