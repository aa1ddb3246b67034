"""Results of an import: a report per run of files, and the result of the whole import."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harvester.csv_import.pair_matching import unknown_files_message
from harvester.csv_import.parse import BadRow
from harvester.csv_import.rounding import Rounding
from harvester.csv_import.sorting import RowCount
from harvester.errors import GRAVEST_FIRST, ArchiveHasGaps, HarvesterError, UnknownPair, gravest
from harvester.times import Range

MAX_BAD_ROWS_SHOWN = 20
"""Text output lists up to this many bad rows per report; JSON lists all."""


@dataclass(slots=True)
class ImportReport:
    """What was imported from consecutive files of one pair.

    Attributes:
        files: names of the files.
        pair: altname.
        layouts: the columns of each file.
        size: bytes of all files, unpacked.
        read: readable rows.
        imported: rows that were added to the archive.
        already_covered: rows that were skipped, because their time was covered already.
        at_boundaries: rows that were skipped, because no boundary could be drawn beside them.
        repeats: rows that equal another row in every field, trade id included.
        bad: number of unreadable rows that were left out.
        bad_rows: the unreadable rows, up to 10,000.
        ranges: what is covered now and was not covered before.
        notes: sentences that the user should read.
        rounding: how the files round their times to whole seconds; None if their times are finer,
            or if nothing could be compared.
        seconds: how long it took.
        error: what ended it; None if nothing did.
    """

    files: list[str]
    pair: str
    layouts: list[str]
    size: int
    read: RowCount = field(default_factory=RowCount)
    imported: RowCount = field(default_factory=RowCount)
    already_covered: RowCount = field(default_factory=RowCount)
    at_boundaries: RowCount = field(default_factory=RowCount)
    repeats: RowCount = field(default_factory=RowCount)
    bad: int = 0
    bad_rows: list[BadRow] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rounding: Rounding | None = None
    seconds: float = 0.0
    error: HarvesterError | None = None

    @property
    def has_no_boundary(self) -> bool:
        """Whether no row could be imported, because no boundary could be drawn."""
        return bool(self.at_boundaries.rows) and not (
            self.imported.rows or self.already_covered.rows
        )

    @property
    def exit_status(self) -> int:
        """0 if every row is in the archive now, or was skipped at a boundary."""
        if self.error is not None:
            return self.error.exit_status
        return ArchiveHasGaps.exit_status if self.bad or self.has_no_boundary else 0

    def lines(self) -> Iterator[str]:
        """The report as lines of text."""
        for file, layout in zip(self.files, self.layouts, strict=False):
            yield f"{self.pair}: {file} has {layout}"
        yield f"{self.pair}: {self.summary()}, in {self.seconds:.1f} s"
        for note in self.notes:
            yield f"{self.pair}: {note}"
        for row in self.bad_rows[:MAX_BAD_ROWS_SHOWN]:
            yield f"{self.pair}: {row.file}, line {row.line}, left out: {row.text!r}: {row.reason}"
        if self.bad > MAX_BAD_ROWS_SHOWN:
            yield f"{self.pair}: {self.bad - MAX_BAD_ROWS_SHOWN:,} more left out; --json lists them"
        if self.error is not None:
            yield f"harvester: {self.pair}: {self.error}"

    def summary(self) -> str:
        """The row counts in one line."""
        parts = [f"{self.imported.rows:,} of {self.read.rows:,} rows imported"]
        if self.already_covered.rows:
            parts.append(f"{self.already_covered.rows:,} skipped as their time is covered already")
        if self.at_boundaries.rows:
            parts.append(
                f"{self.at_boundaries.rows:,} skipped at boundaries, where "
                f"`harvester backfill {self.pair}` downloads the trades"
            )
        if self.bad:
            parts.append(f"{self.bad:,} unreadable rows left out")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        counts = {
            name: {"rows": count.rows, "volume": f"{count.volume:f}"}
            for name in ("read", "imported", "already_covered", "at_boundaries", "repeats")
            for count in [getattr(self, name)]
        }
        return {
            "pair": self.pair,
            "exit_status": self.exit_status,
            "files": self.files,
            "layouts": self.layouts,
            "bytes": self.size,
            **counts,
            "bad": self.bad,
            "bad_rows": [row._asdict() for row in self.bad_rows],
            "ranges": self.ranges,
            "notes": self.notes,
            "rounding": None if self.rounding is None else self.rounding._asdict(),
            "seconds": round(self.seconds, 3),
            "error": str(self.error) if self.error else None,
        }


class ImportResult(NamedTuple):
    """The result of an import.

    Attributes:
        reports: one for each run of consecutive files of a pair.
        unknown: files that were skipped, because their names match no pair.
    """

    reports: list[ImportReport]
    unknown: list[str]

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
            errors.append(UnknownPair(unknown_files_message(self.unknown)))
        if not errors:
            return
        first, *others = sorted(errors, key=lambda error: GRAVEST_FIRST.index(error.exit_status))
        for other in others:
            first.add_note(str(other))
        raise first

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "files": [report.to_dict() for report in self.reports],
            "unknown": self.unknown,
        }
