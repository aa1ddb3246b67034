"""The commands by what a person is about, in `harvester --help` and in docs/cli.md."""

from __future__ import annotations

import shlex

import click

SECTIONS = {
    "Fetch": ("backfill", "refresh", "import"),
    "Ask": ("status", "pairs", "ohlc", "bars", "trades", "sql", "chart"),
    "Keep in order": ("verify", "compact", "rollup"),
    "Set up": ("config", "schedule"),
    "Try, and share": ("demo", "serve"),
}


def by_section(group: click.Group) -> dict[str, list[str]]:
    """The names of a group's commands, by section; one that has none yet stands under Others."""
    placed = {name: title for title, names in SECTIONS.items() for name in names}
    found: dict[str, list[str]] = {title: [] for title in SECTIONS}
    for name in [*placed, *(one for one in group.commands if one not in placed)]:
        if name in group.commands:
            found.setdefault(placed.get(name, "Others"), []).append(name)
    return {title: names for title, names in found.items() if names}


class Sectioned(click.Group):
    """A group whose help lists its commands by section."""

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        """Read the words before a command; an option of the commands stands behind one.

        Raises:
            click.UsageError: it stands before; the message has the words in their right order.
        """
        given = list(words)
        try:
            return super().parse_args(context, words)
        except click.NoSuchOption as error:
            name = error.option_name
            parameters = [known for command in self.commands.values() for known in command.params]
            if not any(name in known.opts for known in parameters):
                raise
            right = self._right_order(given)
            text = f"{name} goes behind the command"
            raise click.UsageError(f"{text}: `{right}`" if right else text, context) from error

    def _right_order(self, given: list[str]) -> str | None:
        """The line with the command in front; where none was named, with one that takes the rest.

        None where no command takes these words.
        """
        named = [i for i, word in enumerate(given) if word in self.commands]
        orders = [(given[i], [*given[i + 1 :], *given[:i]]) for i in named]
        if not named:
            names = [name for section in by_section(self).values() for name in section]
            orders = [(name, given) for name in sorted(names, key=lambda name: name != "status")]
        for name, rest in orders:
            # With --help the context would print it, and needs no arguments.
            asks_help = bool({"-h", "--help"} & set(rest))
            try:
                self.commands[name].make_context(
                    name, list(rest), resilient_parsing=asks_help
                ).close()
            except click.ClickException:
                continue
            return f"harvester {shlex.join([name, *rest])}"
        return None

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each section."""
        widest = max(len(name) for name in self.commands)
        for title, names in by_section(self).items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (name.ljust(widest), self.commands[name].get_short_help_str(limit=80))
                        for name in names
                    ]
                )
