"""Runs a harvester command in a process, over an exchange and an archive in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from command_line import own_environment, run_harvester


def run(url: str, folder: Path, *arguments: str, **environment: str) -> Any:
    given = {"HARVESTER_API_URL": url, "HARVESTER_DATA": "data", "HARVESTER_EXCHANGE_RATE": "0"}
    return run_harvester(arguments, own_environment() | given | environment, folder)
