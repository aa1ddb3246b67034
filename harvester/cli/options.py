"""Options shared by commands: archive, configuration, verbosity, pairs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from harvester.cli import output, process
from harvester.config import Settings, load
from harvester.download.pair_selection import PairName, PairSelection
from harvester.errors import UsageError
from harvester.escaping import LARGEST_SMALL_FILE, read_small_file

if TYPE_CHECKING:
    from harvester.storage.trade_store import TradeStore


# --- options --------------------------------------------------------------------------------------

F = TypeVar("F", bound=Callable[..., Any])


class Common(NamedTuple):
    """What the common options say."""

    settings: Settings
    quiet: bool
    verbose: int
    log_json: bool

    def existing(self) -> TradeStore:
        """The archive, of a command that makes none.

        Raises:
            UsageError: its folder was named and is not there.
        """
        from harvester.storage.trade_store import TradeStore

        path, origin = self.settings.archive.path, self.settings.origins["archive.path"]
        # Without a name a new user is at work, who is told how to begin.
        if origin != "default" and not Path(path).is_dir():
            named = "--data" if origin == "option" else origin
            why = "that is no folder" if Path(path).exists() else "there is no such folder"
            raise UsageError(f"{named} is {path!r}, and {why}: name the one with the archive")
        return TradeStore(path)


def common(function: F) -> F:
    """Give a command the common options; `settings_of` reads them.

    The variables that their texts name are read by `config.load`, which so knows where a value
    came from.
    """
    for option in reversed(
        [
            click.option(
                "--data",
                "-d",
                metavar="DIR",
                help="The folder that holds the archive.  [HARVESTER_DATA; default: data]",
            ),
            click.option(
                "--config",
                metavar="FILE",
                help="The configuration.  [HARVESTER_CONFIG; default: config.toml here, if any]",
            ),
            click.option(
                "--api-url",
                metavar="URL",
                help="Where the API answers, such as a mirror's address.  [HARVESTER_API_URL]",
            ),
            click.option("-q", "--quiet", is_flag=True, help="No progress, no hints."),
            click.option("-v", "--verbose", count=True, help="Tell more; -vv adds tracebacks."),
            click.option("--log-json", is_flag=True, help="Progress as one JSON object a line."),
        ]
    ):
        function = option(function)
    return function


def settings_of(given: dict[str, Any], **more: Any) -> Common:
    """The common options of a command, taken out of what it was given; `more`: by key name."""
    process.settle()
    data, file, api_url = given.pop("data"), given.pop("config"), given.pop("api_url")
    options = {"archive.path": data, "exchange.url": api_url}
    options |= {name.replace("__", "."): value for name, value in more.items()}
    settings = load(options, file=file)
    output.repeat_in_advice({"--data": data, "--config": file, "--api-url": api_url})
    return Common(settings, given.pop("quiet"), given.pop("verbose"), given.pop("log_json"))


# --- naming ---------------------------------------------------------------------------------------


def choice_of(
    pairs: Sequence[str], *, everything: bool, quotes: Sequence[str], file: str | None
) -> PairSelection:
    """What the arguments and options say together.

    Raises:
        click.UsageError: they contradict one another, or name nothing.
        UsageError: the file can't be read, or names nothing.
    """
    if everything and (pairs or file):
        raise click.UsageError("--all is every pair already: give no names with it")
    if not (everything or pairs or file):
        all_of = f" --all --quote {quotes[0]}" if quotes else " --all for every pair"
        raise click.UsageError(f"which pairs? Give names, patterns, --pairs-file, or{all_of}")
    names = [PairName(text) for text in pairs] + (_names_in(file) if file else [])
    return PairSelection(names, everything=everything, quotes=quotes)


def _typed() -> bytes:
    """What comes on stdin, which may never end."""
    data = sys.stdin.buffer.read(LARGEST_SMALL_FILE + 1)
    if len(data) > LARGEST_SMALL_FILE:
        raise OSError(None, f"it is larger than {LARGEST_SMALL_FILE >> 20} MB")
    return data


def _names_in(file: str) -> list[PairName]:
    """The names of a file, one a line; `#` begins a comment."""
    place = "stdin" if file == "-" else file
    try:
        raw = _typed() if file == "-" else read_small_file(file)
        lines = raw.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(f"--pairs-file {file}: can't be read: {why}") from error
    texts = [line.partition("#")[0].strip() for line in lines]
    names = [PairName(text, f"{place}, line {n}") for n, text in enumerate(texts, 1) if text]
    if not names:
        raise UsageError(f"--pairs-file {file}: it names no pair: give one a line")
    return names
