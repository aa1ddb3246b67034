"""What is in force, and the units that run it every night."""

from __future__ import annotations

from typing import Any

import click

from harvester.cli.options import common, settings_of

KINDS = click.Choice(["cron", "systemd", "launchd"])


@click.command()
@click.option(
    "--init",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="Write a file with every default, commented.  [default: config.toml]",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@common
def config(init: str | None, as_json: bool, **given: Any) -> None:
    """Every setting: its value in force, where that came from, and what it is for.

    An option goes before a variable, a variable before config.toml, and that before the default.

    --init writes config.toml, or FILE, with every key, its default and its use. A file that is
    there already is left alone.

    Example: harvester config --init
    """
    from harvester.cli import settling

    if init is not None:
        settling.init(init or given["config"], quiet=given["quiet"])
        return
    file = given["config"]
    settling.show(settings_of(given).settings, file, as_json=as_json)


@click.command()
@click.argument("kind", type=KINDS, metavar="cron|systemd|launchd")
@click.option("--at", metavar="HH:MM", help="When, by local time.  [default: 04 and some minute]")
@click.option("--system", is_flag=True, help="systemd: for the whole system; else for your user.")
@click.option(
    "--log",
    metavar="FILE",
    help="Add what it says there.  [default: journal, ~/Library/Logs, or harvester.log here]",
)
@click.option("--output", "-o", "folder", metavar="DIR", help="Write files there, not to stdout.")
@common
def schedule(kind: str, **given: Any) -> None:
    """What cron, systemd or launchd needs to run `harvester refresh` every night.

    It is printed, with how to install it, and changes nothing. Paths are those of this
    installation, this archive and this config.toml; variables are not taken along. It runs with
    low priority, at a minute that differs from print to print, and again where the exchange was
    why it failed.

    Example: harvester schedule systemd -o ~/.config/systemd/user
    """
    from harvester.cli import nights

    file = given["config"]
    asked = nights.Asked(
        kind, given.pop("at"), given.pop("system"), given.pop("log"), given.pop("folder")
    )
    nights.schedule(settings_of(given), file, asked)
