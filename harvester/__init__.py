"""harvester: download the complete trade history of any Kraken market into plain Parquet files.

    import harvester

    archive = harvester.open("data")
    archive.backfill("XBT/USD", since="2024-01-01")
    archive.ohlc("XBT/USD", "4h", since="2024-01-01").df()

docs/python.md describes every name in `__all__`. Modules that import large libraries are imported
when they are first used, so that `import harvester` is fast.
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
    NothingStored,
    ResultWarning,
    UnknownPair,
    UnreadableAnswer,
    UsageError,
    ValueDoesNotFit,
)

if TYPE_CHECKING:
    from harvester.archive import Archive, open  # noqa: A004 - harvester.open reads well
    from harvester.charts.chart import Chart
    from harvester.csv_import.chain_importer import ImportReport
    from harvester.csv_import.import_pairs import FilePlan, ImportPlan, ImportResult
    from harvester.download.backfill import BackfillEstimate
    from harvester.events import BackfillResult, CancelToken
    from harvester.exporters.export import ExportedFile
    from harvester.kraken.pairs import Pair
    from harvester.operations.maintenance import CompactionResult
    from harvester.operations.refresh import RefreshResult
    from harvester.operations.run_log import RunRecord
    from harvester.operations.sync import SyncResult
    from harvester.query.explain import Explanation
    from harvester.query.result import Result
    from harvester.query.rollups import RollupResult
    from harvester.server.explorer.web import ExplorerServer
    from harvester.server.sample_data import SampleExchange, sample_exchange
    from harvester.times import Range
    from harvester.verify.reports import CsvReport, Digest, ExchangeReport, PairReport, RepairReport
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
    "BackfillEstimate",
    "BackfillResult",
    "BadFile",
    "BadInterval",
    "BadQuery",
    "BadSetting",
    "BadTime",
    "CancelToken",
    "Chart",
    "CompactionResult",
    "CsvReport",
    "DamagedFile",
    "Digest",
    "ExchangeError",
    "ExchangeRefused",
    "ExchangeReport",
    "ExchangeUnreachable",
    "Explanation",
    "ExplorerServer",
    "ExportedFile",
    "FilePlan",
    "HarvesterError",
    "ImportIncomplete",
    "ImportPlan",
    "ImportReport",
    "ImportResult",
    "Interrupted",
    "MarketChanged",
    "NothingStored",
    "Pair",
    "PairReport",
    "PairStatus",
    "Range",
    "RefreshResult",
    "RepairReport",
    "Result",
    "ResultWarning",
    "RollupResult",
    "RunRecord",
    "SampleExchange",
    "SyncResult",
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
    "ExplorerServer": "harvester.server.explorer.web",
    "open": "harvester.archive",
    "SampleExchange": "harvester.server.sample_data",
    "sample_exchange": "harvester.server.sample_data",
    "PairStatus": "harvester.verify.status",
    "Result": "harvester.query.result",
    "CsvReport": "harvester.verify.reports",
    "Digest": "harvester.verify.reports",
    "ExchangeReport": "harvester.verify.reports",
    "PairReport": "harvester.verify.reports",
    "BackfillEstimate": "harvester.download.backfill",
    "RepairReport": "harvester.verify.reports",
    "RunRecord": "harvester.operations.run_log",
    "BackfillResult": "harvester.events",
    "CancelToken": "harvester.events",
    "CompactionResult": "harvester.operations.maintenance",
    "FilePlan": "harvester.csv_import.import_pairs",
    "ImportPlan": "harvester.csv_import.import_pairs",
    "ImportReport": "harvester.csv_import.chain_importer",
    "ImportResult": "harvester.csv_import.import_pairs",
    "Explanation": "harvester.query.explain",
    "ExportedFile": "harvester.exporters.export",
    "Pair": "harvester.kraken.pairs",
    "Range": "harvester.times",
    "RefreshResult": "harvester.operations.refresh",
    "RollupResult": "harvester.query.rollups",
    "SyncResult": "harvester.operations.sync",
}
"""The module of each name whose module imports large libraries."""


def __getattr__(name: str) -> object:
    """Import a name when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module 'harvester' has no attribute {name!r}")
    found: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
