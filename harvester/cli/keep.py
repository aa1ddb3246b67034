"""Upkeep by hand."""

from __future__ import annotations

from typing import Any

import click

from harvester.cli import output
from harvester.cli.options import common, settings_of


@click.command(short_help="Merge small files into large ones.")
@click.argument("pair", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common
def compact(pair: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Merge neighbouring small files of each pair into files of up to four million trades.

    Runs do this by themselves; the rows stay the same, and so does what they say.

    Example: harvester compact XBT/USD
    """
    path = settings_of(given).settings.archive.path
    from harvester.archive.archive import Archive
    from harvester.archive.writer import writer
    from harvester.crawl.names import resolve_held

    archive = Archive(path)
    names = [resolve_held(archive, name).altname for name in pair] or archive.held()
    rows = []
    for name in names:
        with writer(archive, name) as one:
            before, after = one.compact(every=True)
        rows.append({"pair": name, "files_before": before, "files_after": after})
    if as_json:
        output.as_json(rows)
        return
    text = [[str(value) for value in row.values()] for row in rows]
    output.result(output.columns(["pair", "files before", "after"], text))
