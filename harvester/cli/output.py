"""Print results to stdout and everything else to stderr; write new text files."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import click

from harvester.errors import HarvesterError, UsageError
from harvester.escaping import printable, shortened, without_credentials

# --- output ---------------------------------------------------------------------------------------

# Text from outside (exchange answers, files, names) is in many messages and tables. Here every
# line is made printable: control characters, line ends within a line and marks that change the
# direction of writing are escaped, and passwords in addresses are left out. Only data for
# programs is verbatim.

LONGEST_LINE = 4000
"""Characters of a message; rows of tables may be longer."""


class LiveDisplay(Protocol):
    """Lines that are redrawn in their place on the terminal that stderr is."""

    def say(self, text: str) -> None:
        """Print above the lines."""

    def stop(self) -> None:
        """Take the lines away for good."""


_repeated: dict[str, str] = {}
"""Options of this command that the commands in messages need, too, by name."""

_ADVISED = re.compile(r"`(harvester [a-z]+[^`]*)`")

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


def repeat_in_advice(options: Mapping[str, str | None]) -> None:
    """From now on commands in messages have these options, so that they mean the same archive."""
    _repeated.clear()
    # An address that is shown without its password would not work.
    _repeated.update(
        {
            name: value
            for name, value in options.items()
            if value is not None and without_credentials(value) == value
        }
    )


def line(text: str) -> str:
    """A text as it is printed: one line, printable, without passwords."""
    return printable(without_credentials(_ADVISED.sub(_with_options, text)))


def _with_options(advised: re.Match[str]) -> str:
    command = advised[1]
    if "--help" not in command:
        for name, value in _repeated.items():
            if f" {name} " not in command:
                command += f" {name} {shlex.quote(value)}"
    return f"`{command}`"


def result(text: str) -> None:
    """Print a line of what was asked for."""
    data(line(text))


def block(text: str) -> None:
    """Print several lines of what was asked for, such as a table.

    Line ends are kept, so the cells of a table must be lines already: `columns` makes them so.
    """
    data("\n".join(map(line, text.split("\n"))))


def data(text: str) -> None:
    """Print what a program reads, verbatim."""
    with stdout() as sink:
        sink.write(text.encode() + b"\n")


def hint(text: str) -> None:
    """Print a line that helps a person on; a terminal breaks it between words."""
    text = line(shortened(text, LONGEST_LINE))
    if _live:
        _live[-1].say(text)
    else:
        click.echo(wrapped(text, _stderr_width()), err=True)


def error(text: str, *more: str) -> None:
    """Print why a command failed: a line, and further ones."""
    for one in (f"harvester: {text}", *more):
        hint(one)


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


def as_json(value: Any, *, indent: int = 2) -> None:
    """Print a report for machines; without `indent` as one line."""
    data(_json(value, indent))


def log_json(value: Any) -> None:
    """Print one JSON object as a line of the log."""
    click.echo(_json(value, 0), err=True)


def _json(value: Any, indent: int) -> str:
    """JSON that shows no control character to a terminal: what is not printable is escaped."""
    import msgspec

    encoded = msgspec.json.encode(value)
    text = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
    return "\n".join(one if one.isprintable() else _escaped(one) for one in text.split("\n"))


def _escaped(text: str) -> str:
    """A line of JSON whose characters that are not printable are escaped, as JSON allows."""
    import json

    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


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
    lines = [[printable(cell) for cell in row] for row in (heads or header, *rows)]
    kept = list(range(len(header)))
    widths = [max(len(row[place]) for row in lines) + 2 for place in kept]
    for name in goes_first:
        if room is None or sum(widths[place] for place in kept) - 2 <= room:
            break
        kept.remove(header.index(name))
    shown = [[row[place] for place in kept] for row in lines]
    return columns(shown[0], shown[1:], left=sum(place < left for place in kept))


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows of printable text under one another; the first `left` columns stand at the left."""
    table = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = []
    for row in table:
        cells = [
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# --- newfile --------------------------------------------------------------------------------------

# What file systems without hard links say.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def write_new(path: Path, text: str) -> None:
    """Write a file, and never over another.

    A kill half-way leaves at most a temporary file beside it.

    Raises:
        UsageError: something stands there already.
        HarvesterError: the machine refused.
    """
    check_absent(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as sink:
                sink.write(text)
                sink.flush()
                os.fsync(sink.fileno())
            temporary.chmod(0o666 & ~_umask())
            _put(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError as error:
        raise _is_there(path) from error
    except OSError as error:
        raise HarvesterError(f"can't write {path}: {error.strerror or error}") from error


def check_absent(path: Path) -> None:
    """See that nothing stands there.

    Raises:
        UsageError: something does.
    """
    if os.path.lexists(path):
        raise _is_there(path)


def _is_there(path: Path) -> UsageError:
    return UsageError(
        f"{path} is there already, and is never written over: remove it first, or give another name"
    )


def _put(temporary: Path, path: Path) -> None:
    """Give the file its name, unless another has it by now."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(path):
            raise
        temporary.rename(path)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
