"""Candles from captured trades against Kraken's own candles of the same hours."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from candle_cases import PLAIN, answer, ask, cut, hold, ohlc
from kraken_market import Market, expected

from harvester.storage.trade_store import TradeStore
from harvester.times import parse_moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    import candle_oracle

SECOND = 1_000_000_000
CAPTURED = Path(__file__).parents[2] / "shared" / "kraken"
pytestmark = pytest.mark.skipif(
    not CAPTURED.is_dir(), reason=f"Kraken's captured answers are not at {CAPTURED}"
)


def moment(text: str) -> int:
    return parse_moment(text, 0)


def held(folder: Path, rows: Sequence[candle_oracle.Row]) -> TradeStore:
    """An archive of what was captured, from its first trade through its last, in five segments."""
    stamps = [row[1] for row in rows]
    bounds = [stamps[0] - 1, *stamps[200 : 4 * (len(rows) // 5) : len(rows) // 5], stamps[-1]]
    return hold(TradeStore(folder), cut(rows, bounds))


def test_each_whole_minute_of_a_captured_page_is_krakens(tmp_path: Path) -> None:
    market = Market.from_bodies((CAPTURED / "trades_XBTUSDT_2025-11-10.json").read_bytes())
    question = ask("1", fill="kraken", pair_decimals=1)
    first, last = moment("2025-11-10T17:24Z"), moment("2025-11-11T00:12Z")
    made = {
        candle["time"]: candle
        for candle in answer(ohlc(held(tmp_path, expected(market)), question))
        if first <= candle["time"] <= last
    }
    body = json.loads((CAPTURED / "ohlc_XBTUSDT_1m_2025-11-10.json").read_bytes())
    kraken_candles = {row[0] * SECOND: row[1:] for row in body["result"]["XBTUSDT"]}
    assert len(made) == 409
    shown = {time: [f"{candle[name]:f}" for name in PLAIN[1:-1]] for time, candle in made.items()}
    assert shown == {time: kraken_candles[time][:-1] for time in made}
    assert [candle["count"] for candle in made.values()] == [
        kraken_candles[time][-1] for time in made
    ]


def captured_csv() -> list[list[Any]]:
    with (CAPTURED / "trades_XBTUSD_2018-05-08.csv").open(newline="") as file:
        return [
            [
                row["price"],
                row["volume"],
                row["time"],
                row["buy_or_sell"],
                row["market_or_limit"],
                "",
            ]
            for row in csv.DictReader(file)
        ]


def test_each_whole_hour_of_the_trades_of_2018_is_krakens(tmp_path: Path) -> None:
    rows = expected(Market.from_rows(captured_csv()))
    made = {candle["time"]: candle for candle in answer(ohlc(held(tmp_path, rows), ask("1h")))}
    with (CAPTURED / "ohlcvt_XBTUSD_60_2018-05-08.csv").open(newline="") as file:
        kraken_candles = {
            int(row[0]) * SECOND: [Decimal(field) for field in row[1:]] for row in csv.reader(file)
        }
    hours = sorted(made)[1:-1]
    names = ("open", "high", "low", "close", "volume", "count")
    assert {time: [made[time][name] for name in names] for time in hours} == {
        time: kraken_candles[time] for time in hours
    }
    assert len(hours) > 80
