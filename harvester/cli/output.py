"""The one place that prints: what was asked for to stdout, everything else to stderr."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

import click


class LiveDisplay(Protocol):
    """Lines that are redrawn in their place on the terminal that stderr is."""

    def say(self, text: str) -> None:
        """Print above the lines."""

    def stop(self) -> None:
        """Take the lines away for good."""


_live: list[LiveDisplay] = []
"""The displays that are drawn, the last one on top."""


def show_live(display: LiveDisplay) -> None:
    """From now on hints and errors are printed above this display."""
    _live.append(display)


def hide_live() -> None:
    """Take away what is drawn, as before the process ends; nothing is drawn from now on."""
    while _live:
        _live.pop().stop()


class ReaderGone(Exception):
    """Whoever read our output has had enough, as `head` does."""


@contextmanager
def stdout() -> Iterator[BinaryIO]:
    """Standard output for bytes.

    Raises:
        ReaderGone: its reader closed it. (click would make an error of it.)
    """
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise ReaderGone from error


def result(text: str) -> None:
    """What was asked for."""
    with stdout() as sink:
        sink.write(text.encode() + b"\n")


def hint(text: str) -> None:
    """What helps a person on."""
    _to_stderr(text)


def line(text: str) -> None:
    """A line for machines on stderr, as it stands."""
    click.echo(text, err=True)


def error(text: str) -> None:
    """Why a command failed."""
    if text.startswith("Traceback"):
        click.echo(text, err=True)
    else:
        _to_stderr(f"harvester: {text}")


def _to_stderr(text: str) -> None:
    if _live:
        _live[-1].say(text)
    else:
        click.echo(wrapped(text, _stderr_width()), err=True)


def _stderr_width() -> int | None:
    """How many characters a line of stderr has; None where it is no terminal."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or None
    except (OSError, ValueError):
        return None


def wrapped(text: str, width: int | None) -> str:
    """The text with lines that are too long broken between words; a longer word stays whole."""
    if width is None or all(len(line) <= width for line in text.split("\n")):
        return text
    import textwrap

    lines: list[str] = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        parts = textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            expand_tabs=False,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += parts if len(line) > width else [line]
    return "\n".join(lines)


def as_json(value: Any) -> None:
    """A report for machines."""
    import msgspec

    result(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def wants_traceback(arguments: Iterable[str]) -> bool:
    """Whether -vv was given."""
    words = list(arguments)
    return "-vv" in words or words.count("-v") + words.count("--verbose") > 1


def is_terminal() -> bool:
    """Whether progress is shown to a person."""
    return sys.stderr.isatty()


def width() -> int | None:
    """How many characters a line of stdout has; None where it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def speaks_unicode() -> bool:
    """Whether this machine's locale has more than ASCII.

    Python makes C.UTF-8 of the C locale at its start, which says nothing of the terminal.
    """
    names = [os.environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    if names[1] == "C.UTF-8" and names[2] in ("C", "POSIX"):
        names[1] = ""
    chosen = next((name for name in names if name), "UTF-8" if sys.flags.utf8_mode else "")
    return "UTF8" in chosen.upper().replace("-", "")


def fitting(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    goes_first: Sequence[str],
    room: int | None,
    *,
    heads: Sequence[str] = (),
    left: int = 1,
) -> str:
    """As `columns`, without those for which there is no room.

    Args:
        header: the columns' names.
        rows: their cells.
        goes_first: names of columns that may be left out, the least important first.
        room: characters a line; None for any number.
        heads: what is shown above the columns, where it is not their names.
        left: so many columns stand at the left.
    """
    lines = [heads or header, *rows]
    kept = list(range(len(header)))
    widths = [max(len(line[place]) for line in lines) + 2 for place in kept]
    for name in goes_first:
        if room is None or sum(widths[place] for place in kept) - 2 <= room:
            break
        kept.remove(header.index(name))
    shown = [[line[place] for place in kept] for line in lines]
    return columns(shown[0], shown[1:], left=sum(place < left for place in kept))


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows of text under one another; the first `left` columns stand at the left."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    lines = []
    for line in [header, *rows]:
        cells = [
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
