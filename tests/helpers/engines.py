"""Shared by tests of other programs: the real API server as a process, and the recipes of docs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

import harvester
from harvester.server.sample_data import SAMPLE_PAIR, create_sample_archive, sample_trades
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.trade_store import TradeStore

DOCS = Path(__file__).parents[2] / "docs"
RECIPE_URL = "http://127.0.0.1:8722"
"""The address in the recipes, which is replaced by that of a running server."""

TRADES, SEED = 30_000, 7

REASON = "`make test-engines` installs {} in a venv of its own"


def recipe(page: str, heading: str, language: str, index: int = 0) -> str:
    """A block of code of a documentation page.

    Args:
        page: the file's name.
        heading: of the section, without its `#`.
        language: of the block.
        index: which of the section's blocks of this language.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    section = re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return blocks[index]


@contextmanager
def served(folder: Path | str, *options: str) -> Iterator[str]:
    """Run `harvester serve` on a free port while the block runs; yields its URL.

    Args:
        folder: of the archive, or its URL.
        options: more options of the command.
    """
    command = [sys.executable, "-m", "harvester", "serve", "--data", str(folder), "--port", "0"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            url = re.search(r"http://\S+", line)
            assert url, line
            yield url[0]
        finally:
            process.terminate()


def sample_archive(folder: Path) -> harvester.Archive:
    """Ten days of made-up trades of XBT/USD."""
    return harvester.open(create_sample_archive(folder, TRADES, SEED).path)


def imported_archive(folder: Path) -> harvester.Archive:
    """The same trades as a CSV file of Kraken has them: in whole seconds, without ids and sides."""
    lines = [
        f"{row['time'].value // 10**9},{row['price']},{row['volume']}\n"
        for row in sample_trades(TRADES, SEED).to_pylist()
    ]
    (folder / "XBTUSD.csv").write_text("".join(lines))
    store_pairs(TradeStore(folder / "data").store, msgspec.json.encode({"XBTUSD": SAMPLE_PAIR}))
    archive = harvester.open(folder / "data")
    archive.import_csv(folder / "XBTUSD.csv")
    return archive
