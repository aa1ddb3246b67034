"""A text file where none stands yet: there as a whole, or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from harvester.errors import HarvesterError, UsageError

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
