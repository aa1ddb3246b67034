"""An archive of a sample, and commands over it in processes."""

from __future__ import annotations

import json

import pytest
import sample_trades
from candle_cases import cut, hold
from command_line import own_environment, run_harvester
from kraken_market import expected

from harvester.storage.trade_store import TradeStore

PAIR = {"XBTUSD": {"altname": "XBTUSD", "wsname": "XBT/USD"}}


# From 23:12 until past midnight, some trades without an id.
BUSY = expected(sample_trades.market(sample_trades.zero_ids(3_000)))


# Ends within the last minute of the trades.
THROUGH = BUSY[-1][1]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> TradeStore:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "pairs.json").write_text(json.dumps(PAIR))
    return hold(TradeStore(folder), cut(BUSY, [0, BUSY[400][1], THROUGH]))


def run(archive: TradeStore, *arguments: str) -> tuple[int, str, str]:
    done = run_harvester([*arguments, "-d", archive.path], own_environment())
    return done.returncode, done.stdout, done.stderr
