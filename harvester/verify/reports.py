"""Reports of verification and repair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from harvester.errors import ArchiveDamaged, ArchiveIncomplete, HarvesterError, gravest
from harvester.times import Range, show
from harvester.verify.digest import Digest

# --- report ---------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """One thing that is wrong: where, and what.

    Attributes:
        pair: altname.
        span: the range that can't be trusted.
        path: the file within the archive; None where a file is missing.
        text: what is wrong, for people.
        other: a second file, that may as well be the wrong one: the one before a seam, or the one
            that is overlapped with.
        between: the range that lacks trades where ids tell so; the files are sound, and only that
            range is to be downloaded again.
    """

    pair: str
    span: Range
    path: str | None
    text: str
    other: str | None = None
    between: Range | None = None

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.path or self.pair}: {self.text}; range {self.span}"


@dataclass(slots=True)
class PairReport:
    """What was checked of a pair, how many of each, and what is wrong.

    Attributes:
        files: segments whose name, place, schema, footer, statistics and rows were checked.
        rows: trades whose order, ties, decimals and checksum were checked.
        ids: trades with an id, each held against the one before it.
        seams: places where one file's ids must go on from the last.
        jumps: where ids skip, confirmed by the exchange twice.
        unasked_jumps: where they skip and were not asked for again, as the pair does so always.
        rollups: roll-up files held against their ticks.
        notes: what is odd and no fault.
        digests: of the tape over whole months, where nothing is wrong.
        repair: what was repaired, if a repair was requested and there were faults. The other
            fields are the state after it.
        exchange: the comparison with the exchange's OHLC endpoint, if it was requested.
        csv: the comparison with Kraken's candle files, if they were given.
    """

    pair: str
    files: int = 0
    rows: int = 0
    ids: int = 0
    seams: int = 0
    jumps: int = 0
    unasked_jumps: int = 0
    rollups: int = 0
    notes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    digests: list[Digest] = field(default_factory=list)
    repair: RepairReport | None = None
    exchange: ExchangeReport | None = None
    csv: CsvReport | None = None

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


class Moved(NamedTuple):
    """A broken file that was set aside, or one whose range was cut.

    Attributes:
        pair: altname.
        path: where it stood within the archive.
        to: where it is now.
        faults: what is wrong with it.
        wanted: the ranges that were put on record to be fetched in its stead.
    """

    pair: str
    path: str
    to: str
    faults: tuple[str, ...]
    wanted: tuple[Range, ...] = ()

    def __str__(self) -> str:
        """One line for people."""
        done = "cut" if self.to.startswith("trades/") else "moved"
        return f"{self.pair}: {done} {self.path} to {self.to}"


@dataclass(slots=True)
class RepairReport:
    """What mending a pair came to.

    Attributes:
        before: what was wrong, found under the pair's lock where it could be had.
        after: what is wrong now.
        uncovered: ranges that were covered and lacked trades; they are gaps now.
        moved: the files that were set aside, and those whose range was cut.
        trades: how many were fetched.
        pages: how many answers that took.
        error: what ended it early; None where nothing did.
    """

    pair: str
    before: PairReport
    after: PairReport
    moved: list[Moved] = field(default_factory=list)
    uncovered: list[Range] = field(default_factory=list)
    trades: int = 0
    pages: int = 0
    error: HarvesterError | None = None

    @property
    def exit_status(self) -> int:
        """That of the error, else 0 when nothing is wrong any more."""
        return self.after.exit_status if self.error is None else self.error.exit_status

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON: all but `after`, which is the pair's report."""
        return {
            "before": _counts_and_faults(self.before),
            "moved": [moved._asdict() for moved in self.moved],
            "uncovered": self.uncovered,
            "trades": self.trades,
            "pages": self.pages,
            "error": None if self.error is None else str(self.error),
            "exit_status": self.exit_status,
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """One value of one candle that the exchange tells otherwise.

    Attributes:
        pair: altname.
        minutes: the candle's length.
        time_ns: when it opens.
        field: which value: open, high, low, close, vwap, volume or count.
        ours: the value by the trades held; None where there are none to tell it.
        theirs: the exchange's; None where it shows no such candle.
    """

    pair: str
    minutes: int
    time_ns: int
    field: str
    ours: str | None
    theirs: str | None

    def __str__(self) -> str:
        """One line for people."""
        ours, theirs = self.ours or "none", self.theirs or "none"
        when = show(self.time_ns)
        return f"{self.pair} {self.minutes}m {when} {self.field}: ours {ours}, theirs {theirs}"


@dataclass(frozen=True, slots=True)
class IntervalReport:
    """What the exchange's candles of one length came to.

    Attributes:
        minutes: the candles' length.
        compared: candles held whole, each against the exchange's in every value.
        differing: those of them that are not equal.
        skipped: how many were not compared, by reason.
        shortened: prices that the exchange prints with fewer decimals than they were traded at.
        at_edge: candles that are equal once trades published at the very edge of the interval
            count on its other side.
        within_float_rounding: candles that are equal, but for a volume that the exchange summed as
            floats and that is no farther off than their rounding.
        miscounted: candles whose numbers of trades are not equal.
        theirs: trades in all candles compared, by the exchange's count.
        ours: the same by the trades held.
        differences: value by value, the first of them; `more` is how many are not listed.
        notes: what else there is to say of how it was compared.
    """

    minutes: int
    compared: int = 0
    differing: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    shortened: int = 0
    at_edge: int = 0
    within_float_rounding: int = 0
    miscounted: int = 0
    theirs: int = 0
    ours: int = 0
    differences: tuple[Difference, ...] = ()
    more: int = 0
    notes: tuple[str, ...] = ()


class Comparison:
    """Sums over the candles of all lengths."""

    __slots__ = ()

    @property
    def intervals(self) -> Sequence[IntervalReport]:
        """What the candles of each length came to."""
        raise NotImplementedError

    @property
    def compared(self) -> int:
        """Candles of all lengths that were compared."""
        return sum(interval.compared for interval in self.intervals)

    @property
    def differing(self) -> int:
        """Candles of all lengths that are not equal."""
        return sum(interval.differing for interval in self.intervals)

    @property
    def skipped(self) -> int:
        """Candles of all lengths that were not compared."""
        return sum(sum(interval.skipped.values()) for interval in self.intervals)

    @property
    def errors(self) -> Sequence[HarvesterError]:
        """What kept some of them from being compared."""
        return ()

    @property
    def exit_status(self) -> int:
        """The gravest one of the errors; 4 if a candle differs, or none could be compared."""
        return gravest([self._status_of_candles(), *(error.exit_status for error in self.errors)])

    def _status_of_candles(self) -> int:
        is_equal = self.compared and not self.differing
        return 0 if is_equal else ArchiveIncomplete.exit_status


@dataclass(frozen=True, slots=True)
class ExchangeReport(Comparison):
    """A pair's candles against the exchange's own.

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
            "compared": self.compared,
            "differing": self.differing,
            "skipped": self.skipped,
            "error": None if self.error is None else str(self.error),
            "exit_status": self.exit_status,
        }


@dataclass(frozen=True, slots=True)
class FileReport:
    """What the candles of one file came to.

    Attributes:
        file: its name, with that of its ZIP.
        interval: what was compared; nothing where there was an error.
        error: what ended it early; None where nothing did.
    """

    file: str
    interval: IntervalReport
    error: HarvesterError | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        error = None if self.error is None else str(self.error)
        return {"file": self.file, **asdict(self.interval), "error": error}


@dataclass(frozen=True, slots=True)
class CsvReport(Comparison):
    """A pair's candles against the exchange's own as its downloadable files have them.

    Attributes:
        pair: altname.
        files: one for each file of the pair; none where nothing is held, or no file is of it.
        is_held: whether anything is held of it.
    """

    pair: str
    files: tuple[FileReport, ...] = ()
    is_held: bool = True

    @property
    def intervals(self) -> tuple[IntervalReport, ...]:
        """What was compared, file by file."""
        return tuple(file.interval for file in self.files)

    @property
    def errors(self) -> tuple[HarvesterError, ...]:
        """What ended files early."""
        return tuple(file.error for file in self.files if file.error is not None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: each file's figures beside its name."""
        return {
            "pair": self.pair,
            "files": [file.to_dict() for file in self.files],
            "compared": self.compared,
            "differing": self.differing,
            "skipped": self.skipped,
            "exit_status": self.exit_status,
        }
