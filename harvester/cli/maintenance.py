"""Upkeep by hand."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from harvester.cli import output
from harvester.cli.options import Common, common, settings_of

if TYPE_CHECKING:
    from harvester.storage.writer import Progress, Writer


@click.command()
@click.argument("pair", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common
def compact(pair: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Merge neighbouring small files of each pair into files of up to four million trades.

    Runs do this by themselves; the rows stay the same, and so does what they say.

    Example: harvester compact XBT/USD
    """
    from harvester.query.rollups import parse_levels, roll_up

    common_ = settings_of(given)
    levels = parse_levels(common_.settings.candles.rollups)
    rows = []
    with closing(_writers(common_, pair)) as writers:
        for one, progress in writers:
            before, after = one.compact(every=True, progress=progress)
            _tell(roll_up(one, levels, progress).notes)
            rows.append({"pair": one.pair, "files_before": before, "files_after": after})
    _show(rows, ["pair", "files before", "after"], as_json=as_json)


@click.command()
@click.argument("pair", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common
def rollup(pair: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Make the roll-ups that a pair's files lack: candles of each file, a minute and an hour long.

    Runs do this by themselves. Answers are the same without them, only later. `[candles] rollups`
    in config.toml tells which lengths are kept.

    Example: harvester rollup XBT/USD
    """
    from harvester.query.rollups import parse_levels, roll_up

    common_ = settings_of(given)
    levels = parse_levels(common_.settings.candles.rollups)
    rows = []
    with closing(_writers(common_, pair)) as writers:
        for one, progress in writers:
            done = roll_up(one, levels, progress)
            _tell(done.notes)
            rows.append({"pair": one.pair, "made": done.files, "standing": done.standing})
    _show(rows, ["pair", "made", "standing"], as_json=as_json)


def _writers(
    common: Common, pairs: tuple[str, ...]
) -> Generator[tuple[Writer, Progress], None, None]:
    """The writer of each pair named, or held where none is, with its lock while it is used.

    Beside it what shows how far it is.
    """
    from harvester.cli.progress import display
    from harvester.download.events import Begun, Step
    from harvester.download.pair_selection import resolve_held
    from harvester.storage.replacement import end_replacing
    from harvester.storage.replacement_staging import torn
    from harvester.storage.writer import writer

    archive = common.existing()
    names = [resolve_held(archive, name).altname for name in pairs] or archive.held()
    with display(quiet=common.quiet, log_json=common.log_json) as shown:
        shown.tell(Begun(len(names)))
        for name in names:
            with writer(archive, name) as one:
                _tell(end_replacing(one))
                if found := torn(archive, name):
                    output.hint(f"{name}: {found[1]}")
                yield one, lambda pair, done, of: shown.tell(Step(pair, done, of))


def _tell(notes: list[str]) -> None:
    for note in notes:
        output.hint(note)


def _show(rows: list[dict[str, Any]], header: list[str], *, as_json: bool) -> None:
    if as_json:
        output.as_json(rows)
        return
    text = [[str(value) for value in row.values()] for row in rows]
    output.block(output.columns(header, text))
