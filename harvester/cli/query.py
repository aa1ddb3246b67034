"""The command that asks the archive in SQL."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from harvester.cli import output
from harvester.cli.ask import FORMATS, dash_is_stdout
from harvester.cli.options import Common, common, settings_of

if TYPE_CHECKING:
    from harvester.storage.trade_store import TradeStore

_EXPLAINED = ["explain_key", "explain_value"]


@click.command()
@click.argument("query", required=False)
@click.option("--format", "-f", "form", type=FORMATS, help="[default: table, or by FILE's ending]")
@click.option(
    "--output",
    "-o",
    "file",
    metavar="FILE",
    callback=dash_is_stdout,
    help="Write there instead of stdout.",
)
@click.option("--db", metavar="FILE", help="Write a small database with the views to FILE.")
@common
def sql(query: str | None, db: str | None, **given: Any) -> None:
    """Ask the archive in SQL: DuckDB with the view trades and the macros tape and ohlc.

    QUERY is read from stdin where it is - or where it is not given and something is piped in.
    trades has all trades of all pairs; tape('XBT/USD') those of one pair in order; ohlc('XBT/USD',
    '7m', since := '2024-01-01') its candles. docs/sql.md tells more.

    Example: harvester sql "FROM ohlc('XBT/USD', '4h') LIMIT 5"
    """
    common_ = settings_of(given)
    from harvester.cli.formats import form_of

    form_of(given["form"], given["file"])
    archive = common_.existing()
    if db is not None:
        _write_database(archive, db, common_)
    text = _typed(query, is_needed=db is None)
    if text is not None:
        _answer(archive, text, common_, **given)


def _typed(query: str | None, *, is_needed: bool) -> str | None:
    """The query: as given, or as it comes on stdin.

    Raises:
        UsageError: there is none.
    """
    if query == "-" or (query is None and is_needed and not sys.stdin.isatty()):
        query = sys.stdin.buffer.read().decode(errors="replace")
    if not is_needed and query is None:
        return None
    if query is None or not query.strip():
        raise click.UsageError(
            "there is no query: give one, such as \"FROM ohlc('XBT/USD', '1h') LIMIT 5\", or pipe "
            "one in",
            click.get_current_context(),
        )
    return query


def _names(archive: TradeStore) -> dict[str, str]:
    from harvester.kraken.pairs import altnames_by_spelling
    from harvester.pair_names import known_pairs

    return altnames_by_spelling(known_pairs(archive).values(), archive.held())


def _write_database(archive: TradeStore, db: str, common_: Common) -> None:
    from harvester.query.sql import write_database

    write_database(archive, db, names=_names(archive))
    if not common_.quiet:
        opening = f"duckdb -readonly {shlex.quote(db)}"
        output.hint(f"{db} has the views of {archive.root}; open it with: {opening}")


def _answer(
    archive: TradeStore, query: str, common_: Common, form: str | None, file: str | None
) -> None:
    from harvester.cli.formats import write
    from harvester.query.sql import run_statements

    limit = common_.settings.candles.memory_limit
    found = run_statements(archive, query, names=_names(archive), memory_limit=limit)
    if found is None:
        return
    if found.schema.names == _EXPLAINED and form in (None, "table") and file is None:
        for batch in found.batches:
            output.block("\n".join(batch.column("explain_value").to_pylist()))
        return
    rows = write(found.batches, found.schema, form, file)
    if file is not None and not common_.quiet:
        output.hint(f"{rows:,} rows in {file}")
