"""An archive of two pairs, and the files that a command writes from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sample_trades
from candle_cases import cut, hold
from kraken_market import expected

from harvester.storage.trade_store import TradeStore

BUSY = expected(sample_trades.market(sample_trades.zero_ids(1_500)))


OTHER = expected(sample_trades.market(sample_trades.look_alikes(400)))


PAIRS = {
    "XBTUSD": {"altname": "XBTUSD", "wsname": "XBT/USD", "pair_decimals": 1},
    "ETHUSD": {"altname": "ETHUSD", "wsname": "ETH/USD", "pair_decimals": 2},
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> TradeStore:
    path = tmp_path_factory.mktemp("archive")
    (path / "pairs.json").write_text(json.dumps(PAIRS))
    made = hold(TradeStore(path), cut(BUSY, [0, BUSY[700][1], BUSY[-1][1]]))
    return hold(made, cut(OTHER, [0, OTHER[-1][1]]), "ETHUSD")


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
