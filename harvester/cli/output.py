"""Print results to stdout and everything else to stderr; write new text files."""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from harvester.errors import (
    HarvesterError,
    UsageError,
    printable,
    shortened,
    without_credentials,
    wrapped,
)

if TYPE_CHECKING:
    from harvester.progress_bars import Bars

# Many messages and tables contain text from outside (exchange answers, files, names). Here every
# line is made printable: control characters, line ends within a line and marks that change the
# writing direction are escaped, and passwords in addresses are left out. Only data for programs is
# printed verbatim.

LONGEST_LINE = 4000
"""Maximum length of a message in characters; rows of tables may be longer."""


_advised_options: dict[str, str] = {}
"""Options of this command, by name, that are added to commands in messages."""

_COMMAND = re.compile(r"`(harvester [a-z]+[^`]*)`")

_live: list[Bars] = []
"""The running displays; the last one prints messages."""


@contextmanager
def live(display: Bars) -> Iterator[None]:
    """Draw a display; messages are printed above its lines, and results without them."""
    _live.append(display)
    display.start()
    try:
        yield
    finally:
        hide_live()


def hide_live() -> None:
    """Erase and stop all displays."""
    while _live:
        _live.pop().stop()


class ReaderGone(Exception):
    """The reader of stdout closed it, as `head` does."""


@contextmanager
def stdout() -> Iterator[BinaryIO]:
    """Standard output for bytes.

    Raises:
        ReaderGone: its reader closed it. click would report an error for a BrokenPipeError.
        HarvesterError: it can't be written, as the disk behind it is full.
    """
    shown = list(_live)
    for display in shown:
        display.stop()
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        discard_stdout()
        raise ReaderGone from error
    except OSError as error:
        if error.errno is None or error.filename is not None:
            # Not stdout's: errors of opening another file have a filename, a failed write to stdout
            # has none.
            raise
        discard_stdout()
        raise HarvesterError(f"can't write to stdout: {error.strerror}") from error
    finally:
        for display in shown:
            display.start()


def discard_stdout() -> None:
    """Redirect stdout to the null device.

    So Python does not report the failed write again at exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def repeat_in_advice(options: Mapping[str, str | None]) -> None:
    """Add these options to commands in messages from now on, so that they mean the same archive.

    Args:
        options: values by option name; None for options that were not given.
    """
    _advised_options.clear()
    # An address that is shown without its password would not work.
    _advised_options.update(
        {
            name: value
            for name, value in options.items()
            if value is not None and without_credentials(value) == value
        }
    )


def line(text: str) -> str:
    """Text as it is printed: one line, printable, without passwords."""
    return printable(without_credentials(_COMMAND.sub(_add_options, text)))


def _add_options(match: re.Match[str]) -> str:
    command = match[1]
    if "--help" not in command:
        for name, value in _advised_options.items():
            if f" {name} " not in command:
                command += f" {name} {shlex.quote(value)}"
    return f"`{command}`"


def result(text: str) -> None:
    """Print one line of the result to stdout."""
    data(line(text))


def block(text: str) -> None:
    """Print several lines of the result to stdout, such as a table.

    Line ends are kept, so cells of a table must contain none: `columns` escapes them.
    """
    data("\n".join(map(line, text.split("\n"))))


def data(text: str) -> None:
    """Print text for a program to stdout, verbatim."""
    with stdout() as sink:
        sink.write(text.encode() + b"\n")


def hint(text: str) -> None:
    """Print a message to stderr; on a terminal, long lines are wrapped between words."""
    text = line(shortened(text, LONGEST_LINE))
    if _live:
        _live[-1].say(text)
    else:
        click.echo(wrapped(text, _stderr_width()), err=True)


def error(text: str, *more: str) -> None:
    """Print why a command failed to stderr: one line, and further ones."""
    for message in (f"harvester: {text}", *more):
        hint(message)


def _stderr_width() -> int | None:
    """Width of stderr in characters; None if it is no terminal."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or None
    except (OSError, ValueError):
        return None


def as_json(value: Any, *, indent: int = 2) -> None:
    """Print a value as JSON to stdout; with `indent` 0 as one line."""
    data(json_text(value, indent))


def log_json(value: Any) -> None:
    """Print one JSON object as a line to stderr."""
    click.echo(json_text(value, 0), err=True)


def json_text(value: Any, indent: int) -> str:
    """A value as JSON in which characters that are not printable are escaped.

    Args:
        value: what msgspec can encode.
        indent: spaces per level; 0 for one line.
    """
    import msgspec

    encoded = msgspec.json.encode(value)
    text = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
    lines = text.split("\n")
    return "\n".join(line if line.isprintable() else _escaped(line) for line in lines)


def _escaped(text: str) -> str:
    """A line of JSON in which characters that are not printable are escaped as JSON allows."""
    import json

    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def wants_traceback(arguments: Iterable[str]) -> bool:
    """Whether the arguments contain -vv, however it is typed, so errors show a traceback."""
    flags = "".join(
        word.replace("--verbose", "v")
        for word in arguments
        if word == "--verbose" or re.fullmatch("-[qv]+", word)
    )
    return flags.count("v") > 1


def is_terminal() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr.isatty()


def width() -> int | None:
    """Width of stdout in characters; None if it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def columns(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int = 1,
    heads: Sequence[str] = (),
    drop_order: Sequence[str] = (),
    max_width: int | None = None,
) -> str:
    """Format rows as an aligned text table, without columns that do not fit the width.

    Args:
        header: names of the columns.
        rows: the cells; characters that are not printable are escaped.
        left: number of columns, from the first, that are aligned to the left.
        heads: titles of the columns, if they differ from the names.
        drop_order: names of columns that may be left out, the least important first.
        max_width: characters per line; None for no limit.
    """
    table = [[printable(cell) for cell in row] for row in (heads or header, *rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    kept = list(range(len(header)))
    for name in drop_order:
        if max_width is None or sum(widths[i] + 2 for i in kept) - 2 <= max_width:
            break
        kept.remove(header.index(name))
    lines = [
        [row[i].ljust(widths[i]) if i < left else row[i].rjust(widths[i]) for i in kept]
        for row in table
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


# New files

# Errors of file systems without hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def write_new(path: Path, text: str) -> None:
    """Write a new file; never overwrite one.

    A kill half-way leaves at most a temporary file in the same folder.

    Args:
        path: the file.
        text: its content, written as UTF-8.

    Raises:
        UsageError: the path exists already.
        HarvesterError: the operating system refused.
    """
    check_absent(path)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        try:
            with staged.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            _publish(staged, path)
        finally:
            staged.unlink(missing_ok=True)
    except FileExistsError as error:
        raise _is_there(path) from error
    except OSError as error:
        raise HarvesterError(f"can't write {path}: {error.strerror or error}") from error


def check_absent(path: Path) -> None:
    """Check that a path does not exist.

    Raises:
        UsageError: it exists.
    """
    if os.path.lexists(path):
        raise _is_there(path)


def _is_there(path: Path) -> UsageError:
    return UsageError(
        f"{path} already exists and is not overwritten: remove it, or give another name"
    )


def _publish(staged: Path, path: Path) -> None:
    """Give the file its final name, unless it exists by now."""
    try:
        os.link(staged, path)
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(path):
            raise
        staged.rename(path)


# --- warnings of the exchange ---------------------------------------------------------------------

MAX_WARNINGS = 100
"""This many different warnings of the exchange are printed in one run."""
NO_MORE_WARNINGS = "the exchange warns of more; it is not shown"


class ExchangeWarnings(logging.Handler):
    """Prints the exchange's warnings to stderr, each once unless `verbose`.

    Attributes:
        texts: those that were printed, each once.
    """

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning."""
        text = record.getMessage()
        if text not in self.texts:
            if len(self.texts) > MAX_WARNINGS:
                return
            is_full = len(self.texts) == MAX_WARNINGS
            self.texts.append(NO_MORE_WARNINGS if is_full else text)
            hint(self.texts[-1])
        elif self._verbose:
            hint(text)


def show_warnings(*, verbose: bool) -> None:
    """Print warnings of the exchange from now on.

    Args:
        verbose: print a warning each time it comes, not only the first time.
    """
    logging.getLogger("harvester").handlers[:] = [ExchangeWarnings(verbose=verbose)]


def warnings_shown() -> list[str]:
    """The warnings of the exchange that were printed since `show_warnings`, each once."""
    handlers = logging.getLogger("harvester").handlers
    return [
        text
        for handler in handlers
        if isinstance(handler, ExchangeWarnings)
        for text in handler.texts
    ]
