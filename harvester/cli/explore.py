"""The commands `explore`, a page in the browser, and `mcp`, the same for an assistant."""

from __future__ import annotations

import click

from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options


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
