"""Upkeep by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from harvester.cli import output
from harvester.cli.options import common, settings_of

if TYPE_CHECKING:
    from harvester.archive.writer import Writer
    from harvester.config import Settings


@click.command(short_help="Merge small files into large ones.")
@click.argument("pair", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common
def compact(pair: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Merge neighbouring small files of each pair into files of up to four million trades.

    Runs do this by themselves; the rows stay the same, and so does what they say.

    Example: harvester compact XBT/USD
    """
    from harvester.candles.rollups import parse_levels, roll_up

    settings = settings_of(given).settings
    levels = parse_levels(settings.candles.rollups)
    rows = []
    for one in _writers(settings, pair):
        before, after = one.compact(every=True)
        _tell(roll_up(one, levels).notes)
        rows.append({"pair": one.pair, "files_before": before, "files_after": after})
    _show(rows, ["pair", "files before", "after"], as_json=as_json)


@click.command(short_help="Make the partial candles that answer long questions fast.")
@click.argument("pair", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common
def rollup(pair: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Make the roll-ups that a pair's files lack: candles of each file, a minute and an hour long.

    Runs do this by themselves. Answers are the same without them, only later. `[candles] rollups`
    in config.toml tells which lengths are kept.

    Example: harvester rollup XBT/USD
    """
    from harvester.candles.rollups import parse_levels, roll_up

    settings = settings_of(given).settings
    levels = parse_levels(settings.candles.rollups)
    rows = []
    for one in _writers(settings, pair):
        done = roll_up(one, levels)
        _tell(done.notes)
        rows.append({"pair": one.pair, "made": done.files, "standing": done.standing})
    _show(rows, ["pair", "made", "standing"], as_json=as_json)


def _writers(settings: Settings, pairs: tuple[str, ...]) -> Iterator[Writer]:
    """The writer of each pair named, or held where none is, with its lock while it is used."""
    from harvester.archive.archive import Archive
    from harvester.archive.writer import writer
    from harvester.crawl.names import resolve_held

    archive = Archive(settings.archive.path)
    for name in [resolve_held(archive, name).altname for name in pairs] or archive.held():
        with writer(archive, name) as one:
            yield one


def _tell(notes: list[str]) -> None:
    for note in notes:
        output.hint(note)


def _show(rows: list[dict[str, Any]], header: list[str], *, as_json: bool) -> None:
    if as_json:
        output.as_json(rows)
        return
    text = [[str(value) for value in row.values()] for row in rows]
    output.result(output.columns(header, text))
