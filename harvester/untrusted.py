"""Text from outside: made safe to print, and short.

Error texts, names, file names and rows come from the exchange or from files. A control character in
one could move the cursor, change a terminal's title or begin a line that looks like ours; one of
five megabytes would flood it.
"""

from __future__ import annotations

import re

LONGEST_TEXT = 200
"""Characters of a text from outside that a message shows."""

_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")


def printable(text: str) -> str:
    r"""A text as one line without control characters: they become escapes such as `\x1b`.

    Also escaped are line ends, tabs, marks that change the direction of writing, characters without
    a width and halves of surrogate pairs.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shortened(text: str, most: int = LONGEST_TEXT) -> str:
    """The text, or its beginning and how long it is."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def without_credentials(text: str) -> str:
    """The text with `user:password@` left out of every address in it."""
    return _CREDENTIALS.sub("", text) if "@" in text else text
