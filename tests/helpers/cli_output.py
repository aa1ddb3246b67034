"""Runs a harvester command in a process, over an exchange and an archive in a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from command_line import own_environment, run_harvester

QUICK = {
    "HARVESTER_EXCHANGE_RATE": "0",
    "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.01",
    "HARVESTER_EXCHANGE_GIVE_UP_S": "0.1",
}
"""No test waits for an exchange that does not answer."""


class Answer(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str


def answer_of(done: subprocess.CompletedProcess[str]) -> Answer:
    return Answer(done.returncode, done.stdout, done.stderr)


def run(url: str, folder: Path, *arguments: str, **environment: str) -> Any:
    given = {"HARVESTER_API_URL": url, "HARVESTER_DATA": "data"} | QUICK
    return run_harvester(arguments, own_environment() | given | environment, folder)
