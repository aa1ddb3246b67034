"""Which pairs a person means: names and patterns, a file of them, or all."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from harvester.download.pair_selection import Choice, Name
from harvester.errors import UsageError
from harvester.escaping import LARGEST_SMALL_FILE, read_small_file


def choice_of(
    pairs: Sequence[str], *, everything: bool, quotes: Sequence[str], file: str | None
) -> Choice:
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
    names = [Name(text) for text in pairs] + (_names_in(file) if file else [])
    return Choice(names, everything=everything, quotes=quotes)


def _typed() -> bytes:
    """What comes on stdin, which may never end."""
    data = sys.stdin.buffer.read(LARGEST_SMALL_FILE + 1)
    if len(data) > LARGEST_SMALL_FILE:
        raise OSError(None, f"it is larger than {LARGEST_SMALL_FILE >> 20} MB")
    return data


def _names_in(file: str) -> list[Name]:
    """The names of a file, one a line; `#` begins a comment."""
    place = "stdin" if file == "-" else file
    try:
        raw = _typed() if file == "-" else read_small_file(file)
        lines = raw.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(f"--pairs-file {file}: can't be read: {why}") from error
    texts = [line.partition("#")[0].strip() for line in lines]
    names = [Name(text, f"{place}, line {n}") for n, text in enumerate(texts, 1) if text]
    if not names:
        raise UsageError(f"--pairs-file {file}: it names no pair: give one a line")
    return names
