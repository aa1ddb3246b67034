"""Text from outside (exchange, files, names): made safe to print, and shortened."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

# --- untrusted ------------------------------------------------------------------------------------

# Error texts, names, file names and rows come from the exchange or from files. A control
# character in one could move the cursor, change a terminal's title or begin a line that looks
# like ours; one of five megabytes would flood it.

LARGEST_SMALL_FILE = 8 << 20
"""Bytes of a file of settings or names."""

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


def read_small_file(path: str) -> bytes:
    """The bytes of a file that people write by hand; pipes and devices may never end.

    Raises:
        OSError: it can't be read, is no regular file, or is larger than such a file is.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    # Asked before it is opened, as opening a device can have effects, and a pipe can wait for ever.
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    with Path(path).open("rb") as file:
        data = file.read(LARGEST_SMALL_FILE + 1)
    if len(data) > LARGEST_SMALL_FILE:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST_SMALL_FILE >> 20} MB", path)
    return data


def is_path_text(text: str) -> bool:
    """Whether the system could have a file of that name: no NUL, and nothing it can't encode."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
