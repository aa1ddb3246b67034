"""Shared by tests: cli output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HARVESTER = [sys.executable, "-c", "from harvester.cli.main import main; main()"]


def run(url: str, folder: Path, *arguments: str, **environment: str) -> Any:
    known = {k: v for k, v in os.environ.items() if not k.startswith("HARVESTER_")}
    return subprocess.run(
        [*HARVESTER, *arguments],
        env=known
        | {"HARVESTER_API_URL": url, "HARVESTER_DATA": "data", "HARVESTER_EXCHANGE_RATE": "0"}
        | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
