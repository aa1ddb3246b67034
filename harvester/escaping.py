"""Text from outside, made safe for messages: control characters, length, credentials."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


# Error messages, names, file names and rows come from the exchange or from files. A control
# character in one could move the cursor, change a terminal's title or begin a line that looks
# like harvester's own. A text of five megabytes would flood the terminal.

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


def brief(text: str) -> str:
    """Return a text from outside for a message: printable, in one line, shortened if it is long."""
    return printable(shortened(text))


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
