"""The explorer's service as tools of an MCP server, over stdin and stdout, for assistants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from harvester.errors import HarvesterError, not_installed

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
    from pydantic import Field
except ImportError as error:
    raise not_installed("the command mcp needs the package mcp", "mcp") from error

from harvester import __version__
from harvester.query.read_only_sql import QueryLimits
from harvester.server.explorer.service import ArchiveExplorer, ReadableArchive
from harvester.server.explorer.time_view import as_tool_table
from harvester.server.explorer.trade_pages import MAX_TRADES

LIMITS = QueryLimits()

INSTRUCTIONS = (
    "A read-only archive of trades of the exchange Kraken. Begin with `pairs`. Times are UTC; "
    "numbers are exact texts. `coverage` shows which times are stored: where a time is not, "
    "missing trades mean nothing. Prices are in the quote currency, volumes in the base currency; "
    "buy and sell are the side of the taker."
)

PairName = Annotated[str, Field(description="The pair in any spelling: XBT/USD, XBTUSD, btc-usd.")]
TIME_HELP = "an ISO date or time (UTC), a year, a month such as 2024-06, UNIX seconds, or 7d (ago)"


def mcp_server(archive: ReadableArchive) -> MCPServer:
    """Create the server with the tools pairs, coverage, candles, trades and sql.

    Args:
        archive: what is queried.
    """
    explorer = ArchiveExplorer(archive)
    server = MCPServer("harvester", version=__version__, instructions=INSTRUCTIONS)
    for tool in (_pairs, _coverage, _candles, _trades, _sql):
        function = tool(explorer)
        server.add_tool(function, annotations=ToolAnnotations(read_only_hint=True))
    return server


Tool = Callable[..., dict[str, Any]]


def _pairs(explorer: ArchiveExplorer) -> Tool:
    def pairs() -> dict[str, Any]:
        """List the stored pairs with number of trades, first and last trade, size and gaps."""
        with _as_tool_errors():
            found = explorer.pairs()
            for pair in found["pairs"]:
                # A picture for people.
                del pair["strip"]
            return found

    return pairs


def _coverage(explorer: ArchiveExplorer) -> Tool:
    def coverage(pair: PairName) -> dict[str, Any]:
        """Show which time of a pair is stored, what is missing of each year, and the latest runs.

        A gap was requested and is not stored. Within stored time, no trades means that nothing was
        traded.
        """
        with _as_tool_errors():
            return explorer.coverage(pair)

    return coverage


def _candles(explorer: ArchiveExplorer) -> Tool:
    def candles(
        pair: PairName,
        since: Annotated[
            str, Field(description=f"Start, inclusive: {TIME_HELP}. Empty: the first trade.")
        ] = "",
        until: Annotated[
            str, Field(description=f"End, exclusive: {TIME_HELP}. Empty: the last trade.")
        ] = "",
        interval: Annotated[
            str,
            Field(
                description="Length of a candle: a number and ms, s, m, h, d, w, mo, q or y, such "
                "as 7m or 1d; or auto for the shortest that fits."
            ),
        ] = "auto",
    ) -> dict[str, Any]:
        """Get candles: open, high, low, close, vwap, volume, volume by taker side, trades.

        At most 1,500 are returned: if the range has more, longer candles are, so check `interval`.
        `incomplete` has the numbers of rows that still run or touch a gap; `without_candles` has
        the gaps, what was not requested, and stored time without trades.
        """
        with _as_tool_errors():
            return as_tool_table(explorer.candles(pair, since, until, interval))

    return candles


def _trades(explorer: ArchiveExplorer) -> Tool:
    def trades(
        pair: PairName,
        place: Annotated[
            str,
            Field(
                description="newest, oldest, at:TIME for trades around a time such as "
                "at:2021-03-13T12:00Z, or after:NS.TIE and before:NS.TIE for those next to a "
                "trade, by its time_ns and its tie."
            ),
        ] = "newest",
        count: Annotated[int, Field(ge=1, le=MAX_TRADES, description="How many.")] = 50,
    ) -> dict[str, Any]:
        """Get single trades as published, in the exchange's order."""
        with _as_tool_errors():
            return explorer.trades(pair, place, count)

    return trades


def _sql(explorer: ArchiveExplorer) -> Tool:
    def sql(
        query: Annotated[str, Field(description="A single query in DuckDB's SQL.")],
        rows: Annotated[int, Field(ge=1, le=LIMITS.rows, description="Most rows to return.")] = 200,
    ) -> dict[str, Any]:
        """Run a read-only SQL query (DuckDB), at most 30 seconds.

        `is_cut` tells that there are more rows, `has_cut_values` that long values are cut.

        The view `trades` has pair, time, tie, price, volume, side ('buy' or 'sell'), order_type,
        trade_id, misc and year, for all pairs: always filter by pair (its altname, such as
        XBTUSD), and by time where possible. The macro ohlc('XBTUSD', '1h', since := TIMESTAMP
        '2024-01-01', until := ...) returns candles, tape('XBTUSD') the trades in order.
        """
        with _as_tool_errors():
            return explorer.run_query(query, LIMITS._replace(rows=rows))

    return sql


@contextmanager
def _as_tool_errors() -> Iterator[None]:
    """Show harvester's errors to the assistant, which can read and correct them."""
    try:
        yield
    except HarvesterError as error:
        raise ToolError(str(error)) from error
