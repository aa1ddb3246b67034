"""What `harvester demo` does and says."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from harvester.cli import output
from harvester.cli.crawling import Request, run
from harvester.cli.options import Common
from harvester.cli.query import print_candles
from harvester.config import load
from harvester.download.events import BackfillResult
from harvester.download.pair_selection import PairName, PairSelection
from harvester.errors import ArchiveDamaged, UsageError
from harvester.schema import RowsChecksum
from harvester.storage.trade_store import TradeStore
from harvester.times import SECOND, UNITS_NS, show

PAIR = "XBT/USD"
MARK = "made-by-harvester-demo"
SHOWN_H = 1


def demo(folder: str, trades: int, seed: int, *, quiet: bool) -> None:
    """The whole way: a made tape, a mirror, a backfill, a comparison, candles.

    Raises:
        UsageError: `folder` holds something else.
        ArchiveDamaged: the two tapes differ.
    """
    from harvester.server.sample_data import sample_exchange

    root = _fresh(Path(folder))
    output.block(
        f"These trades are MADE UP: {trades:,} of a market that never was, from seed {seed}. "
        "No network is used."
    )
    with sample_exchange(trades, seed, folder=root / "exchange") as exchange:
        begun = time.perf_counter()
        output.block(f"A stand-in for the exchange serves them at {exchange.url}; backfilling ...")
        settings = load({"archive.path": str(root / "data")} | exchange.settings)
        common = Common(settings, quiet=quiet, verbose=0, log_json=False)
        [outcome] = run(Request(PairSelection([PairName(PAIR)]), "start", None), common)
    _compare(
        TradeStore(exchange.path), TradeStore(root / "data"), outcome, time.perf_counter() - begun
    )
    _candles(common)
    output.block(_NEXT.format(data=root / "data"))


def _fresh(root: Path) -> Path:
    if root.exists() and any(root.iterdir()) and not (root / MARK).exists():
        raise UsageError(f"{root} holds something that is not from a demo: choose another --folder")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / MARK).touch()
    return root


def _compare(source: TradeStore, copy: TradeStore, outcome: BackfillResult, seconds: float) -> None:
    if outcome.error is not None:
        raise outcome.error
    there, here = (_checksum(archive) for archive in (source, copy))
    if there != here:
        raise ArchiveDamaged(f"the tapes differ: {there} at the exchange, {here} in {copy.path}")
    output.block(
        f"\n{outcome.trades:,} trades came in {outcome.pages:,} pages and {seconds:.1f} s, "
        f"and both tapes are equal, digit by digit:\n  exchange  sha256 {there}\n"
        f"  archive   sha256 {here}"
    )


def _checksum(archive: TradeStore) -> str:
    checksum = RowsChecksum()
    for batch in archive.scan("XBTUSD"):
        checksum.update(batch)
    return checksum.hexdigest()


def _candles(common: Common) -> None:
    archive = TradeStore(common.settings.archive.path)
    last = [archive.bounds(segment) for segment in archive.segments("XBTUSD")][-1]
    until = (last[1] if last else 0) // (420 * SECOND) * 420 * SECOND
    since = show(until - SHOWN_H * UNITS_NS["h"])
    output.block("\nCandles at 7 minutes, an interval that Kraken does not offer:\n")
    print_candles(common.settings, PAIR, "7m", since, show(until), quiet=common.quiet)


_NEXT = """
Try next:
  harvester status --data {data}
  harvester ohlc XBT/USD -i 90s --fill previous --data {data} -f csv | head
  harvester chart XBT/USD -i 1h --data {data} -o chart.html
  harvester trades btcusd --since 2026-01-30 --data {data} -o trades.parquet
and on the real exchange:
  harvester backfill XBT/USD --since 2024-01-01"""
