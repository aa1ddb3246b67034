"""Make text from outside (exchange, files, names) safe to print; shorten and wrap it.

Error messages, names, file names and rows come from the exchange or from files. A control character
in one could move the cursor, change a terminal's title or begin a line that looks like harvester's
own. A text of five megabytes would flood the terminal.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import textwrap
from pathlib import Path

LARGEST_SMALL_FILE = 8 << 20
"""Most bytes of a file of settings or names."""

LONGEST_TEXT = 200
"""Most characters of a text from outside that a message shows."""

_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")
_BEFORE_HOST = re.compile(r"([^@/:]*://)?.*@", re.DOTALL)


def printable(text: str) -> str:
    r"""Return a text as one line; control characters become escapes such as `\x1b`.

    Line ends, tabs, marks that change the writing direction, characters without width and lone
    surrogates are escaped as well.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shortened(text: str, max_chars: int = LONGEST_TEXT) -> str:
    """Return a text, or its first `max_chars` characters and its length if it is longer."""
    return text if len(text) <= max_chars else f"{text[:max_chars]}... ({len(text):,} characters)"


def without_credentials(text: str) -> str:
    """Return a text without the `user:password@` of the addresses in it."""
    return _CREDENTIALS.sub("", text) if "@" in text else text


def without_user(address: str) -> str:
    """Return an address without all that stands between its scheme and its last `@`.

    For an address that is refused: a password with a `/` or `#` in it makes it unreadable.
    """
    return _BEFORE_HOST.sub(r"\1", address, count=1)


def wrapped(text: str, width: int | None) -> str:
    """Text whose lines are wrapped to a width between words; longer words are not cut."""
    if width is None or all(len(line) <= width for line in text.split("\n")):
        return text
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


def speaks_unicode() -> bool:
    """Whether the locale is UTF-8, so that more than ASCII can be printed.

    Python replaces the C locale by C.UTF-8 when it starts, so LC_CTYPE alone proves nothing.
    """
    names = [os.environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    if names[1] == "C.UTF-8" and names[2] in ("C", "POSIX"):
        names[1] = ""
    chosen = next((name for name in names if name), "UTF-8" if sys.flags.utf8_mode else "")
    return "UTF8" in chosen.upper().replace("-", "")


def read_small_file(path: str) -> bytes:
    """Read a file that people write by hand, such as settings or a list of names.

    Raises:
        OSError: it can't be read, is not a regular file (pipes and devices may never end), or is
            larger than `LARGEST_SMALL_FILE`.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    # Checked before opening: opening a device can have effects, and a pipe can block for ever.
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    with Path(path).open("rb") as file:
        data = file.read(LARGEST_SMALL_FILE + 1)
    if len(data) > LARGEST_SMALL_FILE:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST_SMALL_FILE >> 20} MB", path)
    return data


def is_path_text(text: str) -> bool:
    """Whether the system can have a file of this name: no NUL, and only encodable characters."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
