"""Commands that run a server: `demo` on made-up trades, `serve`, `explore` and `mcp`."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path

import click

from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options
from harvester.cli.progress_and_signals import run_context
from harvester.cli.query_output import write_result
from harvester.errors import ArchiveDamaged, UsageError
from harvester.events import BackfillResult
from harvester.schema import RowsChecksum
from harvester.server.app import kraken_api_app, run_forever
from harvester.server.sample_data import (
    DEFAULT_SEED,
    DEFAULT_TRADES,
    SAMPLE_PAIR,
    sample_exchange,
)
from harvester.storage.filesystem import writing
from harvester.storage.trade_store import TradeStore
from harvester.times import UNITS_NS, show

PAIR, ALTNAME = SAMPLE_PAIR.wsname, SAMPLE_PAIR.altname
MARKER = "made-by-harvester-demo"
"""A file in each folder of a demo: other folders are never deleted."""

INTERVAL = "7m"
INTERVAL_NS = 7 * UNITS_NS["m"]
SHOWN_NS = 9 * INTERVAL_NS


@click.command()
@click.option(
    "--folder", default="demo", show_default=True, help="Folder to use; emptied at each run."
)
@click.option(
    "--trades",
    type=click.IntRange(1000, 5_000_000),
    default=DEFAULT_TRADES,
    show_default=True,
    help="Number of made-up trades.",
)
@click.option(
    "--seed",
    type=int,
    default=DEFAULT_SEED,
    show_default=True,
    help="Seed of the random numbers; the same seed gives the same trades.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print no progress.")
def demo(folder: str, trades: int, seed: int, quiet: bool) -> None:
    """Make up a market, serve it as Kraken would, download it, compare, and print candles.

    Example: harvester demo --trades 50000
    """
    root = _empty_folder(Path(folder))
    output.block(
        f"These trades are MADE UP: {trades:,} of a market that does not exist, from seed {seed}. "
        "No network is used."
    )
    with sample_exchange(trades, seed, folder=root / "exchange") as exchange:
        started_s = time.perf_counter()
        output.block(f"A test exchange serves them at {exchange.url}; downloading ...")
        settings = {"archive.path": str(root / "data")} | exchange.settings
        common = CommonOptions(quiet=quiet, setting_values=settings)
        with run_context(common) as run:
            [result] = common.archive().backfill(
                PAIR,
                estimate_trades=run.has_bars,
                progress=run.show,
                cancel=run.cancel,
            )
        duration_s = time.perf_counter() - started_s
    _compare(TradeStore(exchange.path), TradeStore(root / "data"), result, duration_s)
    _print_candles(common)
    steps = NEXT_STEPS.format(data=shlex.quote(str(root / "data")))
    output.block(steps.replace("  harvester ", f"  {shlex.quote(_program_as_typed())} "))


def _empty_folder(root: Path) -> Path:
    """Create the folder of a demo, without the files of an earlier demo.

    Raises:
        UsageError: the folder contains files that are not from a demo.
        ArchiveUnwritable: the operating system refused.
    """
    with writing(str(root), "--folder"):
        if root.exists() and any(root.iterdir()) and not (root / MARKER).exists():
            raise UsageError(
                f"{root} holds something that is not from a demo: choose another --folder"
            )
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        (root / MARKER).touch()
    return root


def _compare(
    source: TradeStore, copy: TradeStore, result: BackfillResult, duration_s: float
) -> None:
    """Compare the checksum of all trades at the test exchange with that of the download.

    Raises:
        ArchiveDamaged: they differ.
    """
    expected, found = _checksum(source), _checksum(copy)
    if expected != found:
        raise ArchiveDamaged(
            f"the trades differ: {expected} at the exchange, {found} in {copy.path}"
        )
    output.block(
        f"\n{result.trades:,} trades came in {result.pages:,} pages and {duration_s:.1f} s, "
        f"and both sides are equal, digit by digit:\n  exchange  sha256 {expected}\n"
        f"  archive   sha256 {found}"
    )


def _checksum(archive: TradeStore) -> str:
    checksum = RowsChecksum()
    for batch in archive.scan(ALTNAME):
        checksum.update(batch)
    return checksum.hexdigest()


def _print_candles(common: CommonOptions) -> None:
    """Print the last complete candles as a table."""
    archive = common.archive()
    store = TradeStore(archive.path)
    bounds = store.footer(store.segments(ALTNAME)[-1]).bounds
    until_ns = (bounds[1] if bounds else 0) // INTERVAL_NS * INTERVAL_NS
    output.block("\nCandles at 7 minutes, an interval that Kraken does not offer:\n")
    candles = archive.ohlc(PAIR, INTERVAL, since=show(until_ns - SHOWN_NS), until=show(until_ns))
    write_result(candles, "table", None)


NEXT_STEPS = """
Try next:
  harvester explore --data {data}
  harvester status --data {data}
  harvester ohlc XBT/USD -i 90s --fill previous --data {data} -f csv | head
  harvester chart XBT/USD -i 1h --data {data} -o chart.html
  harvester trades btcusd --since 2026-01-30 --data {data} -o trades.parquet
and on the real exchange:
  harvester backfill XBT/USD --since 2024-01-01"""


def _program_as_typed() -> str:
    """How this program was started, to be typed again: from `make demo` it is not in PATH."""
    path = sys.argv[0]
    if Path(path).name.endswith("harvester") and shutil.which("harvester") != path:
        return path
    return "harvester"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8722,
    show_default=True,
    help="TCP port; 0 for any free one.",
)
@click.option(
    "--guess-sides",
    is_flag=True,
    help="Answer imported trades, which have no side, with a guess: a buy after the price rose, a "
    "sell after it fell. Without this, other programs are refused such trades.",
)
@common_options
def serve(common: CommonOptions, host: str, port: int, guess_sides: bool) -> None:
    """Answer Kraken's public endpoints about trades, candles and markets from the archive.

    ccxt and freqtrade can use it: see docs/tools.md. To copy this archive, use backfill with
    --api-url URL --rate 0. The newest 60 s are left out, unless HARVESTER_REFRESH_SETTLE_S is 0.

    Example: harvester serve --data data --port 8722
    """
    path = common.existing_archive().path
    run_forever(
        kraken_api_app(TradeStore(path), guess_sides=guess_sides),
        host,
        port,
        lambda url: output.hint(f"serving {path} at {url} (Ctrl-C ends it)"),
    )


# --- the explorer ---------------------------------------------------------------------------------


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=0,
    show_default="any free one",
    help="TCP port on 127.0.0.1.",
)
@click.option("--no-browser", is_flag=True, help="Only print the address; open no browser.")
@common_options
def explore(common: CommonOptions, port: int, no_browser: bool) -> None:
    """Look through the archive in a browser: coverage, candles at any zoom, trades, SQL.

    The page needs no network, and only this machine can open it: the server listens on 127.0.0.1,
    and the printed address has a token that it asks for. Nothing in the archive is changed.

    Example: harvester explore --data data
    """
    import webbrowser  # for this command only
    from threading import Thread

    from harvester.server.explorer.web import explore_forever

    archive = common.existing_archive()

    def ready(url: str) -> None:
        output.hint(f"exploring {archive.path} at {url} (Ctrl-C ends it)")
        if not no_browser:
            # Some browsers only return when they are closed; the server must run meanwhile.
            Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    explore_forever(archive, port, ready)


@click.command()
@common_options
def mcp(common: CommonOptions) -> None:
    """Answer an assistant's questions about the archive by MCP, over stdin and stdout.

    It has the tools pairs, coverage, candles, trades and sql, which change nothing and read no
    file but the archive's. An assistant starts it by itself: see docs/explore.md. It needs the
    extra `mcp`: pip install '.[mcp]' in a checkout of harvester.

    Example: harvester mcp --data data
    """
    from harvester.server.explorer.mcp_server import mcp_server  # imports the extra

    mcp_server(common.existing_archive()).run()
