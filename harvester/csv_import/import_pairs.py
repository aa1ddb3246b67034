"""Import the CSV files of many pairs in parallel, or report what an import would do."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from harvester.csv_import.chain_importer import ChainImporter, ImportOptions, ImportReport
from harvester.csv_import.csv_files import Member
from harvester.csv_import.file_chains import FileStates, chains
from harvester.csv_import.file_scan import ScannedFile, scan_file
from harvester.csv_import.pair_matching import (
    AskExchange,
    ImportRequest,
    PairFiles,
    match_files,
)
from harvester.errors import (
    ArchiveHasGaps,
    BadFile,
    HarvesterError,
    UnknownPair,
    capture_error_sync,
    gravest,
    raise_gravest,
)
from harvester.events import Begun, CancelToken, Imported, Listener, Step, result_of
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import END_OF_TIME, SECOND, Range, missing, union

MAX_JOBS = 4
"""Pairs imported in parallel; each uses up to some 150 MB and the rows that it keeps."""
MAX_KEPT_BYTES = 80_000_000
"""The rows of a pair stay in memory between scan and import if its files have no more bytes."""

# --- dry run --------------------------------------------------------------------------------------


class FilePlan(NamedTuple):
    """What would be imported of a file.

    Attributes:
        file: name of the file.
        pair: altname.
        layout: its columns.
        bytes: its size, unpacked.
        rows: readable rows.
        bad: unreadable rows.
        begins_ns: the earliest time; None if there are no rows.
        missing: the ranges from its first trade on that are not covered.
        error: why it can't be imported; None if it can.
    """

    file: str
    pair: str
    layout: str
    bytes: int
    rows: int
    bad: int
    begins_ns: int | None
    missing: list[Range]
    error: str | None = None


class ImportPlan(NamedTuple):
    """What an import would do.

    Attributes:
        files: one plan per file whose pair is known.
        unknown: files that would be skipped, because their names match no pair.
    """

    files: list[FilePlan]
    unknown: list[str]

    @property
    def exit_status(self) -> int:
        """2 if a file can't be imported."""
        return 2 if self.unknown or any(plan.error for plan in self.files) else 0


def plan_import(
    archive: TradeStore, request: ImportRequest, ask_exchange: AskExchange
) -> ImportPlan:
    """Report what an import would do. Files are read completely; a bad file hides no other.

    Args:
        archive: where the trades would go.
        request: what to import.
        ask_exchange: returns the pairs that the exchange lists now; see `match_files`.

    Raises:
        UsageError: see `match_files`.
    """
    matched = match_files(request, archive, ask_exchange)
    plans = [
        plan
        for files in matched.pairs
        for plan in _plan_pair(archive, files, skip_bad_rows=request.skip_bad_rows)
    ]
    return ImportPlan(plans, matched.unknown)


def _plan_pair(archive: TradeStore, files: PairFiles, *, skip_bad_rows: bool) -> Iterator[FilePlan]:
    name, coverage = files.pair.altname, archive.coverage(files.pair.altname)
    scanned, failed = [], dict[Member, HarvesterError]()
    for member in files.members:
        try:
            scanned.append(scan_file(member, skip_bad_rows=skip_bad_rows))
        except BadFile as reason:
            failed[member] = reason
    # The user may have given another end for a chain than its last file's name gives.
    in_order = chains(scanned, files.complete, is_delisted=files.is_delisted)
    found = {file.member[:2]: file for chain in in_order for file in chain}
    for member in files.members:
        if member in failed:
            error = str(failed[member])
            yield FilePlan(str(member), name, "", member.size, 0, 0, None, [], error)
        else:
            yield _plan_file(found[member[:2]], name, coverage)


def _plan_file(file: ScannedFile, pair: str, coverage: list[Range]) -> FilePlan:
    since_s, until_s = file.member.complete
    if file.first_ns is not None:
        after_ns = file.first_ns // SECOND * SECOND - 1
    elif since_s is not None and until_s is not None:
        after_ns = max(0, since_s * SECOND - 1)
    else:
        after_ns = END_OF_TIME
    through_ns = END_OF_TIME if until_s is None else until_s * SECOND - 1
    return FilePlan(
        str(file.member),
        pair,
        str(file.layout),
        file.member.size,
        file.rows,
        file.bad,
        file.first_ns,
        missing([Range(after_ns, through_ns)], coverage),
    )


# --- import ---------------------------------------------------------------------------------------


class ImportResult(NamedTuple):
    """The result of an import.

    Attributes:
        reports: one for each run of consecutive files of a pair.
        unknown: files that were skipped, because their names match no pair.
        message: a sentence about these files; empty without any.
    """

    reports: list[ImportReport]
    unknown: list[str]
    message: str = ""

    @property
    def exit_status(self) -> int:
        """The gravest status of all reports; 2 if a file's name matches no pair."""
        return gravest([report.exit_status for report in self.reports] + [2] * bool(self.unknown))

    def raise_gravest(self) -> None:
        """Raise the gravest error, with the others as its notes; do nothing if all went well.

        Raises:
            HarvesterError: what ended the import of a pair.
            ArchiveHasGaps: rows are unreadable, or no row of a pair could be imported.
            UnknownPair: the names of files match no pair.
        """
        errors: list[HarvesterError] = []
        for report in self.reports:
            if report.error is not None:
                errors.append(report.error)
            elif report.exit_status:
                errors.append(ArchiveHasGaps(f"{report.pair}: {report.summary()}"))
        if self.unknown:
            errors.append(UnknownPair(self.message))
        raise_gravest([(error, str(error)) for error in errors])

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "files": [report.to_dict() for report in self.reports],
            "unknown": self.unknown,
        }


def import_files(
    archive: TradeStore,
    request: ImportRequest,
    ask_exchange: AskExchange,
    listener: Listener,
    cancel: CancelToken,
) -> ImportResult:
    """Match files to pairs and import them.

    Args:
        archive: where the trades go.
        request: what to import.
        ask_exchange: returns the pairs that the exchange lists now; see `match_files`.
        listener: called with events, from several threads, one call at a time.
        cancel: cancelled to end the import; rows up to the last boundary are kept.

    Raises:
        UsageError: see `match_files`.
    """
    matched = match_files(request, archive, ask_exchange)
    events = _ProgressEvents(matched.pairs, listener)
    options = ImportOptions(events.read, cancel, request.skip_bad_rows, events.done)
    reports = import_pairs(archive, matched.pairs, options)
    return ImportResult(reports, matched.unknown, matched.message)


class _ProgressEvents:
    """Turns the progress of an import, reported from several threads, into events."""

    def __init__(self, pairs: Sequence[PairFiles], listener: Listener) -> None:
        self._listener = listener
        self._sizes = {files.pair.altname: files.size for files in pairs}
        self._read = dict.fromkeys(self._sizes, 0)
        self._lock = threading.Lock()
        listener(Begun(len(pairs)))
        for pair, size in self._sizes.items():
            listener(Step(pair, 0, size, "bytes"))

    def read(self, pair: str, size: int) -> None:
        """Count more bytes of a pair as read."""
        with self._lock:
            self._read[pair] += size
            # Reading the last bytes does not end a pair: their rows are still being written.
            done = min(self._read[pair], self._sizes[pair] - 1)
            self._listener(Step(pair, done, self._sizes[pair], "bytes"))

    def done(self, report: ImportReport) -> None:
        """Pass on the report of a pair."""
        with self._lock:
            self._listener(
                Imported(report.pair, report.exit_status, list(report.lines()), report.to_dict())
            )


def import_pairs(
    archive: TradeStore, pairs: Sequence[PairFiles], options: ImportOptions
) -> list[ImportReport]:
    """Import the files of some pairs in parallel; a pair that fails stops no other.

    Args:
        archive: where the trades go.
        pairs: the pairs, each once.
        options: callbacks, cancel token, and what to do with bad rows.

    Returns:
        The reports, in the order of `pairs`.

    Raises:
        KeyboardInterrupt: Ctrl-C; rows up to the last boundary are kept.
    """
    jobs = min(MAX_JOBS, os.cpu_count() or 1)
    # The largest pair goes first, so that it does not run alone at the end.
    order = sorted(pairs, key=lambda files: -files.size)
    with ThreadPoolExecutor(jobs) as pool:
        futures = {
            files.pair.altname: pool.submit(_import_pair, archive, files, options)
            for files in order
        }
        try:
            return [report for files in pairs for report in result_of(futures[files.pair.altname])]
        except KeyboardInterrupt:
            # Leaving the block waits for the threads.
            options.cancel.cancel()
            raise


def _import_pair(
    archive: TradeStore, files: PairFiles, options: ImportOptions
) -> list[ImportReport]:
    reports: list[ImportReport] = []
    error = capture_error_sync(partial(_import_chains, archive, files, options, reports))
    if error is not None:
        names = [str(member) for member in files.members]
        reports.append(ImportReport(names, files.pair.altname, [], files.size, error=error))
        options.done(reports[-1])
    return reports


def _import_chains(
    archive: TradeStore,
    files: PairFiles,
    options: ImportOptions,
    reports: list[ImportReport],
) -> None:
    """Scan the files of a pair and import them chain by chain; `reports` receives the reports."""
    name = files.pair.altname
    states = FileStates(files.members)
    scanned = [
        scan_file(
            member,
            skip_bad_rows=options.skip_bad_rows,
            keep_rows=files.size <= MAX_KEPT_BYTES,
            # Scanning counts as half of the bytes.
            on_bytes=lambda size: options.on_bytes(name, size - size // 2),
            cancel=options.cancel,
        )
        for member in files.members
    ]
    # Where one file has rows that can't be read, another file must not call the time covered.
    bad_times = union(span for file in scanned for span in file.bad_times)
    found = chains(scanned, files.complete, is_delisted=files.is_delisted)
    with open_writer(archive, name) as pair_writer:
        importers: list[ChainImporter] = []
        for chain in found:
            start_s, is_delisted = time.perf_counter(), files.is_delisted
            importer = ChainImporter(
                archive, files.pair, chain, options, bad_times, states, is_delisted=is_delisted
            )
            importers.append(importer)
            importer.report.error = capture_error_sync(partial(importer.run, pair_writer))
            importer.report.seconds = time.perf_counter() - start_s
            reports.append(importer.report)
        for importer in importers:
            # Rows that one file left out must not be called covered by another file.
            if importer.report.error is None and not options.cancel.is_cancelled:
                importer.report.error = capture_error_sync(importer.check_skipped)
        if any(report.ranges for report in reports):
            # Roll-ups are left to `backfill`, which changes segments at the boundaries anyway.
            reports[-1].error = reports[-1].error or capture_error_sync(pair_writer.compact)
        for report in reports:
            options.done(report)
