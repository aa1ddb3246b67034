"""harvester: the whole trade history of any Kraken market, kept exactly, as plain Parquet.

    import harvester

    archive = harvester.open("data")
    archive.backfill("XBT/USD", since="2024-01-01")
    archive.ohlc("XBT/USD", "4h", since="2024-01-01").df()

docs/python.md tells of everything that `__all__` names. What is heavy is imported when it is first
used, so `import harvester` takes next to no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from harvester.errors import (
    AmbiguousPair,
    ArchiveDamaged,
    ArchiveError,
    ArchiveHasGaps,
    ArchiveIncomplete,
    ArchiveLocked,
    ArchiveTooNew,
    ArchiveUnwritable,
    BadFile,
    BadInterval,
    BadQuery,
    BadSetting,
    BadTime,
    DamagedFile,
    ExchangeError,
    ExchangeRefused,
    ExchangeUnreachable,
    HarvesterError,
    ImportIncomplete,
    Interrupted,
    MarketChanged,
    NothingHeld,
    UnknownPair,
    UnreadableAnswer,
    UsageError,
    ValueDoesNotFit,
)

if TYPE_CHECKING:
    from harvester.archive import Archive, open  # noqa: A004 - harvester.open reads well
    from harvester.charts.chart import Chart
    from harvester.download.events import BackfillResult
    from harvester.kraken.pairs import Pair
    from harvester.operations.refresh import RefreshResult
    from harvester.operations.run_log import RunRecord
    from harvester.query.result import Result
    from harvester.server.sample_data import SampleExchange, sample_exchange
    from harvester.times import Range
    from harvester.verify.digest import Digest
    from harvester.verify.reports import CsvReport, ExchangeReport, PairReport, RepairReport
    from harvester.verify.status import PairStatus

__version__ = "0.1.0"

__all__ = [
    "AmbiguousPair",
    "Archive",
    "ArchiveDamaged",
    "ArchiveError",
    "ArchiveHasGaps",
    "ArchiveIncomplete",
    "ArchiveLocked",
    "ArchiveTooNew",
    "ArchiveUnwritable",
    "BackfillResult",
    "BadFile",
    "BadInterval",
    "BadQuery",
    "BadSetting",
    "BadTime",
    "Chart",
    "CsvReport",
    "DamagedFile",
    "Digest",
    "ExchangeError",
    "ExchangeRefused",
    "ExchangeReport",
    "ExchangeUnreachable",
    "HarvesterError",
    "ImportIncomplete",
    "Interrupted",
    "MarketChanged",
    "NothingHeld",
    "Pair",
    "PairReport",
    "PairStatus",
    "Range",
    "RefreshResult",
    "RepairReport",
    "Result",
    "RunRecord",
    "SampleExchange",
    "UnknownPair",
    "UnreadableAnswer",
    "UsageError",
    "ValueDoesNotFit",
    "__version__",
    "open",
    "sample_exchange",
]

_LAZY = {
    "Archive": "harvester.archive",
    "Chart": "harvester.charts.chart",
    "open": "harvester.archive",
    "SampleExchange": "harvester.server.sample_data",
    "sample_exchange": "harvester.server.sample_data",
    "PairStatus": "harvester.verify.status",
    "Result": "harvester.query.result",
    "CsvReport": "harvester.verify.reports",
    "Digest": "harvester.verify.digest",
    "ExchangeReport": "harvester.verify.reports",
    "PairReport": "harvester.verify.reports",
    "RepairReport": "harvester.verify.reports",
    "RunRecord": "harvester.operations.run_log",
    "BackfillResult": "harvester.download.events",
    "Pair": "harvester.kraken.pairs",
    "Range": "harvester.times",
    "RefreshResult": "harvester.operations.refresh",
}
"""Where names live whose modules import what is heavy."""


def __getattr__(name: str) -> object:
    """Import what is asked for by the first who asks."""
    if name not in _LAZY:
        raise AttributeError(f"module 'harvester' has no attribute {name!r}")
    found: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """What is there, imported yet or not."""
    return sorted({*globals(), *__all__})
