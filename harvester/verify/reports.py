"""Results of verification: faults, repairs, comparisons of candles."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from harvester.errors import ArchiveDamaged, ArchiveIncomplete, HarvesterError, first_few, gravest
from harvester.storage.segment import Segment
from harvester.times import Range, show, union

# --- digests --------------------------------------------------------------------------------------


class Month(NamedTuple):
    """The number of trades of one calendar month (UTC), and the checksum of their rows."""

    month: str
    rows: int
    sha256: str


class Digest(NamedTuple):
    """The digest of a pair's trades over a range of whole months without a gap.

    Attributes:
        pair: altname.
        first: the first month, such as 2024-01.
        last: the last month; it is included.
        rows: number of trades.
        sha256: the checksum.
        months: the checksum of each month.
    """

    pair: str
    first: str
    last: str
    rows: int
    sha256: str
    months: list[Month]

    @classmethod
    def of(cls, pair: str, months: list[Month]) -> Digest:
        """The digest of a pair's consecutive months, at least one."""
        text = "".join(f"{month.month} {month.rows} {month.sha256}\n" for month in months)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        rows = sum(month.rows for month in months)
        return cls(pair, months[0].month, months[-1].month, rows, sha256, months)

    def __str__(self) -> str:
        return f"{self.pair} {self.first} to {self.last}: {self.rows:,} trades, {self.sha256}"


# --- faults of a pair -----------------------------------------------------------------------------


class Fault(NamedTuple):
    """One fault: what is wrong, in which file and range.

    Attributes:
        pair: altname.
        range: the range whose trades can't be trusted.
        path: the file within the archive; None where a file is missing.
        text: what is wrong, for people.
        other_path: a second file, which may be the wrong one as well: the one before a segment
            boundary, or the one that is overlapped.
        missing_range: the range that lacks trades, where trade ids show it; the files are sound,
            and only that range is downloaded again.
    """

    pair: str
    range: Range
    path: str | None
    text: str
    other_path: str | None = None
    missing_range: Range | None = None

    def __str__(self) -> str:
        return f"{self.path or self.pair}: {self.text}; range {self.range}"


@dataclass(slots=True)
class PairReport:
    """The result of a verification of one pair: what was checked, and what is wrong.

    Attributes:
        pair: altname.
        files: segments whose name, folder, schema, footer, statistics and rows were checked.
        rows: trades whose order, ties, decimals and checksum were checked.
        ids: trades with an id, each compared with the id before it.
        boundaries: boundaries between neighbouring segments at which trade ids were compared.
        confirmed_id_gaps: id gaps that the exchange showed twice when asked again.
        unconfirmed_id_gaps: id gaps that are not confirmed: too many to request again, not
            answered, or inside an imported file.
        rollups: roll-up files that were compared with the trades.
        notes: what is unusual and no fault.
        faults: what is wrong.
        digests: checksums of the trade history over whole months, if nothing is wrong.
        repair: what was repaired, if a repair was requested and there were faults. The other
            fields are the state after it.
        exchange: the comparison with the exchange's OHLC endpoint, if it was requested.
        csv: the comparison with Kraken's candle files, if they were given.
    """

    pair: str
    files: int = 0
    rows: int = 0
    ids: int = 0
    boundaries: int = 0
    confirmed_id_gaps: int = 0
    unconfirmed_id_gaps: int = 0
    rollups: int = 0
    notes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    digests: list[Digest] = field(default_factory=list)
    repair: RepairReport | None = None
    exchange: ExchangeReport | None = None
    csv: CsvReport | None = None

    def add_fault(self, segment: Segment, text: str, other_path: str | None = None) -> None:
        """Add a fault of a segment.

        Args:
            segment: the segment; its range can't be trusted.
            text: what is wrong.
            other_path: a second file, which may be the wrong one as well.
        """
        self.faults.append(Fault(self.pair, segment.range, segment.path, text, other_path))

    @property
    def exit_status(self) -> int:
        """4 if there are faults, else 0; after a repair, the exit status of the repair."""
        if self.repair is not None:
            return self.repair.exit_status
        return ArchiveDamaged.exit_status if self.faults else 0

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON; `repair`, `exchange` and `csv` only where they were requested."""
        parts = {"repair": self.repair, "exchange": self.exchange, "csv": self.csv}
        return {
            **_counts_and_faults(self),
            "exit_status": self.exit_status,
            **{name: part.to_dict() for name, part in parts.items() if part is not None},
        }


def _counts_and_faults(report: PairReport) -> dict[str, Any]:
    """The fields of a report but the reports of further checks."""
    further = ("repair", "exchange", "csv")
    names = [field.name for field in fields(report) if field.name not in further]
    return {name: getattr(report, name) for name in names}


# --- repair ---------------------------------------------------------------------------------------


class RepairedFile(NamedTuple):
    """A broken file that was moved into quarantine, or a segment whose range was cut.

    Attributes:
        pair: altname.
        path: its path within the archive before.
        new_path: its path now.
        faults: what is wrong with it.
        wanted: the ranges that were recorded as requested, so that they are downloaded again.
    """

    pair: str
    path: str
    new_path: str
    faults: tuple[str, ...]
    wanted: tuple[Range, ...] = ()

    def __str__(self) -> str:
        done = "cut" if self.new_path.startswith("trades/") else "moved"
        return f"{self.pair}: {done} {self.path} to {self.new_path}"


@dataclass(slots=True)
class RepairReport:
    """The result of a repair of one pair.

    Attributes:
        pair: altname.
        before: the verification before it; made under the pair's lock, if the lock was free.
        after: the verification after it.
        moved: the files that were moved into quarantine, and those whose range was cut.
        uncovered: ranges that were covered and lacked trades; they became gaps.
        missing: what of these could not be downloaded.
        kept: the files in quarantine with the imported trades of these ranges.
        trades: number of trades downloaded.
        pages: number of pages downloaded.
        error: the error that ended the repair early; None if there was none.
    """

    pair: str
    before: PairReport
    after: PairReport
    moved: list[RepairedFile] = field(default_factory=list)
    uncovered: list[Range] = field(default_factory=list)
    missing: list[Range] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    trades: int = 0
    pages: int = 0
    error: HarvesterError | None = None

    @property
    def exit_status(self) -> int:
        """The exit status of the error, else 0 if nothing is wrong any more."""
        return self.after.exit_status if self.error is None else self.error.exit_status

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON: all but `after`, which is the pair's report."""
        return {
            "before": _counts_and_faults(self.before),
            "moved": [moved._asdict() for moved in self.moved],
            "uncovered": self.uncovered,
            "kept": self.kept,
            "trades": self.trades,
            "pages": self.pages,
            "error": None if self.error is None else str(self.error),
            "exit_status": self.exit_status,
        }


def unrepairable_error(report: PairReport, gaps: Sequence[Range]) -> ArchiveIncomplete | None:
    """The error that the faults of a pair can't be repaired; None if there are none.

    Args:
        report: of a pair that the exchange does not know.
        gaps: its gaps.
    """
    lost = (fault.missing_range for fault in report.faults if fault.missing_range)
    found = union([*gaps, *lost])
    lack = f"; trades may be missing in {first_few(found, 1)}" if found else ""
    error = ArchiveIncomplete(
        f"{report.pair}: the exchange does not list this pair any more: nothing of it can be "
        f"downloaded, and what is stored stays{lack}"
    )
    return error if report.faults else None


# --- comparison of candles ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """One value of one candle that differs between the archive and the exchange.

    Attributes:
        pair: altname.
        minutes: the candle's length.
        time_ns: the candle's opening time.
        field: which value: open, high, low, close, vwap, volume or count.
        archive: the value by the stored trades; None where there are none.
        exchange: the exchange's value; None where it shows no such candle.
    """

    pair: str
    minutes: int
    time_ns: int
    field: str
    archive: str | None
    exchange: str | None

    def __str__(self) -> str:
        archive, exchange = self.archive or "none", self.exchange or "none"
        candle = f"{self.pair} {self.minutes}m {show(self.time_ns)}"
        return f"{candle} {self.field}: archive {archive}, exchange {exchange}"


@dataclass(frozen=True, slots=True)
class IntervalReport:
    """The result of comparing candles of one length.

    Attributes:
        minutes: the candles' length.
        compared: candles that the archive has completely; every value was compared.
        differing: candles compared that are not equal.
        skipped: how many candles were not compared, by reason.
        shortened: prices that the exchange prints with fewer decimals than they were traded at.
        at_boundary: candles that are equal if trades published exactly at the boundary of the
            interval count on its other side.
        within_float_rounding: candles that are equal but for a volume that the exchange summed as
            floats, and whose error is within float rounding.
        miscounted: candles whose numbers of trades are not equal.
        exchange_trades: trades in all candles compared, by the exchange's count.
        archive_trades: trades in all candles compared, by the stored trades.
        differences: the first differences, value by value.
        unlisted: how many more differences there are.
        notes: remarks on how the candles were compared.
    """

    minutes: int
    compared: int = 0
    differing: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    shortened: int = 0
    at_boundary: int = 0
    within_float_rounding: int = 0
    miscounted: int = 0
    exchange_trades: int = 0
    archive_trades: int = 0
    differences: tuple[Difference, ...] = ()
    unlisted: int = 0
    notes: tuple[str, ...] = ()


class Comparison:
    """Sums over the candles of all lengths."""

    __slots__ = ()

    @property
    def intervals(self) -> Sequence[IntervalReport]:
        """The results by length of candles, or by file."""
        raise NotImplementedError

    @property
    def compared(self) -> int:
        """How many candles of all lengths were compared."""
        return sum(interval.compared for interval in self.intervals)

    @property
    def differing(self) -> int:
        """How many candles of all lengths are not equal."""
        return sum(interval.differing for interval in self.intervals)

    @property
    def skipped(self) -> int:
        """How many candles of all lengths were not compared."""
        return sum(sum(interval.skipped.values()) for interval in self.intervals)

    @property
    def errors(self) -> Sequence[HarvesterError]:
        """The errors that kept candles from being compared."""
        return ()

    @property
    def exit_status(self) -> int:
        """The gravest one of the errors; 4 if a candle differs, or none could be compared."""
        return gravest([self._status_of_candles(), *(error.exit_status for error in self.errors)])

    def _status_of_candles(self) -> int:
        is_equal = self.compared and not self.differing
        return 0 if is_equal else ArchiveIncomplete.exit_status

    def _sums(self) -> dict[str, int]:
        names = ("compared", "differing", "skipped", "exit_status")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class ExchangeReport(Comparison):
    """The result of comparing a pair's candles with the exchange's OHLC endpoint.

    Attributes:
        pair: altname.
        intervals: one report per candle length; empty if the archive has no trades of the pair.
        error: the error that ended the comparison early; None if there was none.
    """

    pair: str
    intervals: tuple[IntervalReport, ...] = ()
    error: HarvesterError | None = None

    @property
    def exit_status(self) -> int:
        """The exit status of the error; else 4 if a candle differs or none could be compared."""
        if self.error is not None:
            return self.error.exit_status
        return self._status_of_candles()

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "pair": self.pair,
            "intervals": [asdict(interval) for interval in self.intervals],
            "error": None if self.error is None else str(self.error),
            **self._sums(),
        }


@dataclass(frozen=True, slots=True)
class FileReport:
    """The result of comparing the candles of one file.

    Attributes:
        file: its name; for a file in a ZIP, with the ZIP's name.
        interval: the counts; nothing was compared if there was an error.
        error: the error that ended it early; None if there was none.
    """

    file: str
    interval: IntervalReport
    error: HarvesterError | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        error = None if self.error is None else str(self.error)
        return {"file": self.file, **asdict(self.interval), "error": error}


@dataclass(frozen=True, slots=True)
class CsvReport(Comparison):
    """The result of comparing a pair's candles with Kraken's downloadable candle files.

    Attributes:
        pair: altname.
        files: a report per file of the pair; empty if the archive has no trades of the pair, or no
            file is of it.
        has_trades: whether the archive has trades of the pair.
    """

    pair: str
    files: tuple[FileReport, ...] = ()
    has_trades: bool = True

    @property
    def intervals(self) -> tuple[IntervalReport, ...]:
        """The counts of each file."""
        return tuple(file.interval for file in self.files)

    @property
    def errors(self) -> tuple[HarvesterError, ...]:
        """The errors that ended files early."""
        return tuple(file.error for file in self.files if file.error is not None)

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON; each file's counts are next to its name."""
        return {
            "pair": self.pair,
            "files": [file.to_dict() for file in self.files],
            **self._sums(),
        }
