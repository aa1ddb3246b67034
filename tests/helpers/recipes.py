"""Shared by the tests of documented recipes: an archive with awkward trades, and a page's code."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import candle_oracle
import pytest
from candle_cases import START, hold
from kraken_market import SECOND_NS

import harvester
from harvester.storage.trade_store import TradeStore
from harvester.times import Range

DOCS = Path(__file__).parents[2] / "docs"
PAIR = {"XBTUSD": {"altname": "XBTUSD", "wsname": "XBT/USD"}}
ROWS = 1200
STEP_NS = 300 * SECOND_NS
"""The time between two groups of trades: each hour has some."""


def trades() -> list[candle_oracle.Row]:
    """Two days of trades: equal times, ten decimals; the first have neither id nor side."""
    chance, units = random.Random(5), 10**14
    rows: list[candle_oracle.Row] = []
    for number in range(ROWS):
        time_ns = START + number // 2 * STEP_NS + 123_456_789
        units += chance.randrange(-(10**12), 10**12)
        price = Decimal(units) / 10**10
        volume = Decimal(chance.randrange(1, 10**12)) / 10**8
        is_imported = number < ROWS // 4
        trade_id = None if is_imported else number + 1
        side = None if is_imported else chance.choice(["buy", "sell"])
        rows.append((trade_id, time_ns, number % 2, price, volume, side, "market", ""))
    return rows


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> harvester.Archive:
    """The archive that the page calls `data`, in the working folder."""
    rows = trades()
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "pairs.json").write_text(json.dumps(PAIR))
    hold(TradeStore(folder), [(Range(0, rows[-1][1]), rows)])
    monkeypatch.chdir(tmp_path)
    return harvester.open("data")


def blocks(title: str, language: str, page: str = "recipes.md") -> list[str]:
    """The code of a section of a page of docs, block by block."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def run_section(title: str, page: str = "recipes.md") -> dict[str, Any]:
    """Run the Python code of a section of a page; returns its variables."""
    names: dict[str, Any] = {"__name__": __name__}
    for block in blocks(title, "python", page):
        exec(compile(block, f"docs/{page}, {title}", "exec"), names)  # noqa: S102
    return names
