"""What a run that writes leaves for people to look up: one small JSON file under `runs/`.

It is written when the run begins and replaced whole when it ends, so a run that was killed is seen
as well. A record is only a record: that it can't be written stops nothing.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import msgspec

from harvester import __version__
from harvester.errors import BAD_JSON
from harvester.operations.processes import is_alive, ticks_of
from harvester.storage.archive import Archive

FOLDER = "runs"


class PairResult(msgspec.Struct):
    """What a run came to for one pair."""

    pair: str
    exit_status: int
    trades: int = 0
    pages: int = 0
    holes: int = 0
    moved: int = 0
    covered_through_ns: int | None = None
    error: str | None = None
    upgrade: dict[str, Any] | None = None


class Record(msgspec.Struct):
    """One run, as its file tells it. Moments are ISO 8601 in UTC.

    Attributes:
        id: the file's name without its ending; later runs sort behind earlier ones.
        command: such as backfill.
        state: `running` or `ended` in the file; `killed` where the process is gone without a word.
        asked: what was asked for.
        settings: those that matter to it.
        ticks: when its process started, by the system's count: process ids are used again.
        calls: made to the exchange, those that were refused as well.
    """

    id: str
    command: str
    begun: str
    format: int = 1
    state: str = "running"
    version: str = __version__
    host: str = ""
    pid: int = 0
    ticks: int | None = None
    asked: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    ended: str | None = None
    exit_status: int | None = None
    error: str | None = None
    calls: int = 0
    refusals: int = 0
    pairs: list[PairResult] = []

    @property
    def trades(self) -> int:
        """Of all pairs."""
        return sum(one.trades for one in self.pairs)

    @property
    def holes(self) -> int:
        """Of all pairs."""
        return sum(one.holes for one in self.pairs)


def last(archive: Archive, count: int) -> list[Record]:
    """The last so many runs, the latest first; a file that can't be read is left out.

    Raises:
        ArchiveError: the folder can't be read.
    """
    found: list[Record] = []
    for path in reversed(paths(archive)):
        if len(found) == count:
            break
        with suppress(*BAD_JSON):
            raw = archive.store.read(path)
            if raw is not None:
                found.append(_judged(msgspec.json.decode(raw, type=Record)))
    return found


def _judged(record: Record) -> Record:
    """A record, with `killed` for a run that has not ended and whose process is gone."""
    if record.state == "running" and record.host == socket.gethostname():
        ticks = ticks_of(record.pid)
        is_other = None not in (ticks, record.ticks) and ticks != record.ticks
        if is_other or not is_alive(record.pid):
            record.state = "killed"
    return record


def paths(archive: Archive) -> list[str]:
    """All records, the oldest first."""
    entries = archive.store.files(FOLDER)
    return sorted(one.path for one in entries if one.path.endswith(".json"))
