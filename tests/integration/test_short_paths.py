"""How many files and functions of harvester a backfill and a candle query enter, at most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import sample_trades
from backfills import rows_on_disk, serve
from kraken_server import Exchange

PAGES = 5
PAGE_ROWS = 1_000

# What is entered today. The aim is 36 files and 250 functions for a backfill, 22 files for a query.
MAX_BACKFILL_FILES = 38
MAX_BACKFILL_FUNCTIONS = 317
MAX_QUERY_FILES = 24

# Runs the command line in this process and writes which functions it entered, as file and name.
# All modules are imported before, so that work done by an import is not counted. Not counted
# either: bodies of modules and classes, lambdas and generator expressions.
RECORDER = """
import inspect, json, pkgutil, sys, threading
import harvester
from importlib import import_module

home = harvester.__path__[0] + "/"
for module in pkgutil.walk_packages(harvester.__path__, "harvester."):
    if not module.name.endswith("__main__"):
        import_module(module.name)

codes = set()

def record(frame, event, argument):
    if event == "call":
        codes.add(frame.f_code)

from harvester.cli.main import cli

threading.setprofile(record)
sys.setprofile(record)
try:
    cli(sys.argv[2:], "harvester", standalone_mode=False)
except SystemExit as end:
    if end.code:
        raise
finally:
    sys.setprofile(None)
    threading.setprofile(None)
    entered = sorted(
        (code.co_filename.removeprefix(home), code.co_qualname)
        for code in codes
        if code.co_filename.startswith(home)
        and code.co_flags & inspect.CO_OPTIMIZED
        # From Python 3.14 on, annotations are functions, as the bodies of classes are.
        and not code.co_name.startswith(("<", "__annotate"))
    )
    with open(sys.argv[1], "w") as file:
        json.dump(entered, file)
"""


class Entered(NamedTuple):
    """What a command entered: files of the package, and functions as (file, qualified name)."""

    files: list[str]
    functions: list[tuple[str, str]]


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with serve(sample_trades.market(sample_trades.xbtusd_like(PAGES * PAGE_ROWS, 1))) as exchange:
        yield exchange


def record(folder: Path, exchange: Exchange, *arguments: str) -> Entered:
    """Run a command in a new process whose archive is `folder`/data; returns what it entered."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HARVESTER_")}
    environment |= {
        "HARVESTER_API_URL": exchange.url,
        "HARVESTER_DATA": "data",
        "HARVESTER_EXCHANGE_RATE": "0",
    }
    made = subprocess.run(
        [sys.executable, "-c", RECORDER, "entered.json", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert made.returncode == 0, made.stderr
    functions = [(file, name) for file, name in json.loads((folder / "entered.json").read_text())]
    return Entered(sorted({file for file, _ in functions}), functions)


def report(entered: Entered) -> str:
    """The counts and the functions of each file, for the message of a failing test."""
    lines = [f"{len(entered.files)} files, {len(entered.functions)} functions:"]
    for file in entered.files:
        names = [name for owner, name in entered.functions if owner == file]
        lines.append(f"  {file} ({len(names)}): {', '.join(names)}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("short")


@pytest.fixture(scope="module")
def backfill(exchange: Exchange, folder: Path) -> Entered:
    entered = record(folder, exchange, "backfill", "XBTUSD")
    assert len(rows_on_disk(folder / "data", "XBTUSD")) == PAGES * PAGE_ROWS
    return entered


def test_a_backfill_of_five_pages_enters_few_files_and_functions(backfill: Entered) -> None:
    assert len(backfill.files) <= MAX_BACKFILL_FILES, report(backfill)
    assert len(backfill.functions) <= MAX_BACKFILL_FUNCTIONS, report(backfill)


@pytest.mark.usefixtures("backfill")
def test_a_candle_query_enters_few_files(exchange: Exchange, folder: Path) -> None:
    entered = record(folder, exchange, "ohlc", "XBTUSD", "-i", "1h")
    assert len(entered.files) <= MAX_QUERY_FILES, report(entered)
