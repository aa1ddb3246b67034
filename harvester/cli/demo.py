"""The whole way without a network, and the mirror that it goes through."""

from __future__ import annotations

import click

from harvester.cli.options import CommonOptions, common_options


@click.command()
@click.option("--folder", default="demo", show_default=True, help="Made anew at each run.")
@click.option(
    "--trades",
    type=click.IntRange(1000, 5_000_000),
    default=200_000,
    show_default=True,
    help="How many are made up.",
)
@click.option("--seed", type=int, default=7, show_default=True, help="The same seed, same trades.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def demo(folder: str, trades: int, seed: int, quiet: bool) -> None:
    """Make up a market, serve it as Kraken would, backfill it, compare, and show candles.

    Example: harvester demo --trades 50000
    """
    from harvester.cli.showing import demo as show

    show(folder, trades, seed, quiet=quiet)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--port", type=int, default=8722, show_default=True, help="0 for one that is free.")
@common_options
def serve(common: CommonOptions, host: str, port: int) -> None:
    """Answer Trades, OHLC, AssetPairs, Time and SystemStatus as Kraken does, from the archive.

    Another harvester copies it with --api-url and --rate 0, up to settle_s before the coverage
    here ends; HARVESTER_REFRESH_SETTLE_S=0 takes the rest.

    Example: harvester serve --data data --port 8722
    """
    archive = common.store()
    from harvester.cli import output
    from harvester.server.app import serve_forever

    serve_forever(
        archive,
        host,
        port,
        lambda url: output.hint(f"serving {archive.path} at {url} (Ctrl-C ends it)"),
    )
