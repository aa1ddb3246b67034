"""Proves or disproves what an archive holds of a pair, file by file and seam by seam."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from harvester.errors import ArchiveDamaged
from harvester.storage.replacement_staging import path_of_note, torn
from harvester.storage.rollup_files import RollUp
from harvester.storage.segment import Segment
from harvester.storage.trade_store import (
    LISTINGS,
    Archive,
    ending_in_future,
    fault_of,
    without_future,
)
from harvester.times import Range, missing
from harvester.verify.files import Findings, check_segment
from harvester.verify.ids import check_ids
from harvester.verify.report import Fault, PairReport

Progress = Callable[[str, int, int], None]
"""Told a pair, its files checked and its files in all."""


def verify(
    archive: Archive,
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


def _listed(archive: Archive, pair: str) -> list[_Files]:
    beside: dict[str, list[RollUp]] = {}
    segments = archive.segments(pair)
    for one in archive.rollups(pair):
        beside.setdefault(one.segment_path, []).append(one)
    return [_Files(one, tuple(beside.get(one.path, []))) for one in segments]


def _report(archive: Archive, pair: str, found: list[Findings], now_ns: int) -> PairReport:
    report = PairReport(pair)
    segments = [one.segment for one in found]
    for one in found:
        _count(report, one)
    for segment in ending_in_future(segments, now_ns):
        text = fault_of(segment, now_ns)
        report.faults.append(Fault(pair, segment.range, segment.path, text))
    _check_markets(report, found)
    _check_overlaps(report, segments)
    check_ids(report, found)
    _check_holes(report, archive, segments, now_ns)
    _check_torn(report, archive)
    _check_strangers(report, archive)
    return report


def _read_all(
    archive: Archive,
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
            pool.submit(lambda one: sound.get(one) or check_segment(archive, *one), one)
            for one in listed
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
    for one in found:
        key = one.footer.key if one.footer is not None else ""
        first = first or key
        if key and key != first:
            text = f"its trades are of the market {key}, those before them of {first}"
            segment = one.segment
            report.faults.append(Fault(report.pair, segment.range, segment.path, text))


def _check_overlaps(report: PairReport, segments: list[Segment]) -> None:
    widest: Segment | None = None
    for one in segments:
        if widest is not None and one.range.after < widest.range.through:
            text = f"it overlaps with {widest.path}"
            report.faults.append(Fault(report.pair, one.range, one.path, text, widest.path))
        if widest is None or one.range.through > widest.range.through:
            widest = one


def _check_strangers(report: PairReport, archive: Archive) -> None:
    text = "it is no segment in its place, and whoever reads trades/**/*.parquet counts its rows"
    try:
        paths = archive.strangers(report.pair)
    except ArchiveDamaged as damage:
        report.faults.append(Fault(report.pair, Range(0, 0), None, str(damage)))
        return
    report.faults += [Fault(report.pair, Range(0, 0), path, text) for path in paths]


def _check_torn(report: PairReport, archive: Archive) -> None:
    path = path_of_note(report.pair)
    try:
        found = torn(archive, report.pair)
    except ArchiveDamaged as damage:
        found = Range(0, 0), str(damage)
    if found:
        report.faults.append(Fault(report.pair, found[0], path, found[1]))


def _check_holes(
    report: PairReport, archive: Archive, segments: list[Segment], now_ns: int
) -> None:
    try:
        wanted = archive.wanted(report.pair)
    except ArchiveDamaged as damage:
        path = f"wanted/{report.pair}.json"
        report.faults.append(Fault(report.pair, Range(0, 0), path, str(damage)))
        return
    for hole in missing(without_future(wanted, now_ns), [one.range for one in segments]):
        text = "it was asked for, and no file covers it"
        report.faults.append(Fault(report.pair, hole, None, text))
