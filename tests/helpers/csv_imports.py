"""Imports files of made trades, without the command."""

from __future__ import annotations

from pathlib import Path

from harvester.csv_import.chain_importer import ChainImporter, ImportOptions, ImportReport
from harvester.csv_import.csv_files import CompletePeriod, find
from harvester.csv_import.file_chains import chains
from harvester.csv_import.file_scan import scan_file
from harvester.events import CancelToken
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer

PAIR = Pair(altname="XBTUSD")


UNKNOWN = CompletePeriod()


def imported(folder: Path, *files: Path, whole: CompletePeriod = UNKNOWN) -> list[ImportReport]:
    """Import files of one pair, chain by chain."""
    archive = TradeStore(folder)
    watch = ImportOptions(lambda _pair, _size: None, CancelToken())
    reports = []
    with open_writer(archive, "XBTUSD") as pair_writer:
        parts = [scan_file(member) for member in find(map(str, files))]
        for parts_ in chains(parts, whole):
            chain = ChainImporter(archive, PAIR, parts_, watch)
            chain.run(pair_writer)
            reports.append(chain.report)
    return reports
