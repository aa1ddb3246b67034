"""The one place that prints: what was asked for to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import click


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
    click.echo(text, err=True)


def error(text: str) -> None:
    """Why a command failed."""
    click.echo(f"harvester: {text}" if not text.startswith("Traceback") else text, err=True)


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
