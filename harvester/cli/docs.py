"""Generate docs/cli.md: the help of every command, and every setting."""

from __future__ import annotations

import click

from harvester.cli import output
from harvester.cli.main import SECTIONS, cli, load_command
from harvester.config import DEFAULT_FILE
from harvester.errors import GRAVEST_FIRST
from harvester.settings_keys import FILE_VARIABLE, KEYS, SHORT_VARIABLES

# --- reference ------------------------------------------------------------------------------------

# `python -m harvester.cli.docs` prints it; `make docs` writes it.

# As click leaves of a terminal of 80 columns.
WIDTH = 78

STATUSES = {
    0: "done, and complete",
    1: "a fault of this machine (disk full, no permission, a value that does not fit) or of "
    "harvester",
    2: "wrong use: an option, a name, a time or a setting",
    3: "the exchange could not be reached, or refused",
    4: "the archive is damaged, or has gaps",
    5: "another run is writing",
    130: "interrupted; what was fetched is kept",
}


def page() -> str:
    """The whole page, the same on every machine."""
    root = click.Context(cli, info_name="harvester", terminal_width=WIDTH, **cli.context_settings)
    parts = [HEAD, _text(cli, root), _statuses(), _settings()]
    for title, entries in SECTIONS.items():
        parts.append(f"## {title}")
        for name in entries:
            command = load_command(name)
            inner = click.Context(command, parent=root, info_name=name, terminal_width=WIDTH)
            parts += [f"### harvester {name}", _text(command, inner)]
    return "\n\n".join(parts) + "\n"


def _text(command: click.Command, context: click.Context) -> str:
    return f"```text\n{command.get_help(context)}\n```"


def _statuses() -> str:
    rows = "\n".join(f"| {status} | {text} |" for status, text in STATUSES.items())
    return f"## Exit statuses\n\n| status | means |\n| --- | --- |\n{rows}\n\n" + GRAVEST.format(
        gravest=", ".join(str(one) for one in GRAVEST_FIRST if one)
    )


def _settings() -> str:
    lines = ["| key | variable | default | allowed |", "| --- | --- | --- | --- |"]
    for key in KEYS:
        variables = ", ".join(f"`{variable}`" for variable in key.variables)
        default = ", ".join(key.default) if isinstance(key.default, tuple) else str(key.default)
        shown = f"`{default}`" if default else "none"
        lines.append(f"| `{key.name}` | {variables} | {shown} | {key.rule.allowed} |")
    return "## Settings\n\n" + SETTINGS + "\n\n" + "\n".join(lines)


HEAD = """\
# Commands

<!-- Made by `make docs` from what the commands say of themselves: change it there. -->"""
GRAVEST = """\
Commands that fetch or import heed SIGTERM as they heed Ctrl-C. Others end by either, and
leave no half-written file behind.

Over several pairs, the gravest: {gravest}. What is asked for goes to stdout,
everything else to stderr. An error is one or two lines: what was given, what is wrong, what to do
next. A traceback comes with `-vv` only."""
SETTINGS = f"""\
Each key of `{DEFAULT_FILE}`, which says what each is for; `harvester config` shows what is in
force. An option goes before a variable, a variable before the file, and that before the default. A
list is written with commas in a variable. `{FILE_VARIABLE}` names the file, as `--config` does;
{" and ".join(f"`{one}`" for one in SHORT_VARIABLES)} are what `--data` and `--api-url` give.
Of two variables of one key the first counts. A variable that begins with `HARVESTER_` and is like
one of these, but none, ends a command with status 2."""


if __name__ == "__main__":
    output.data(page().rstrip("\n"))
