"""The vwap of candles and bars: the double nearest to the exact quotient, whatever made it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest
from candle_cases import MINUTE, PAIR, START, answer, ask, hold, ohlc, run_sql, trade
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harvester.query.bars import BarQuery, bar_batches, parse_size
from harvester.query.candle_sql import with_vwap
from harvester.query.plan import CandleQuery
from harvester.query.rollups import parse_levels, roll_up
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range

UNIT = Decimal("1e-10")
LOT = Decimal("1e-8")
HOUR = 60 * MINUTE

# From 1e-7 to 99,999,999. Below, the remainder under 1e-10, which is computed in doubles, is not
# small beside a unit in the last place: bars and candles of trades at 1e-10 and 4e-10 differ.
PRICES = st.integers(3, 17).flatmap(lambda digits: st.integers(1000, 10 ** (digits + 1) - 1))
VOLUMES = st.integers(0, 13).flatmap(lambda digits: st.integers(1, 10 ** (digits + 1) - 1))


Made = tuple[int, int]
"""A trade's price in 1e-10 and its volume in 1e-8."""


def made_of(candles: Sequence[Sequence[Made]]) -> list[dict[str, float | None]]:
    """The vwaps of candles of an hour by each way that makes them; all have as many trades."""
    rows = [
        trade(hour * 3600 + second, f"{price * UNIT:f}", f"{volume * LOT:f}")
        for hour, trades in enumerate(candles)
        for second, (price, volume) in enumerate(trades)
    ]
    with tempfile.TemporaryDirectory() as folder:
        covered = Range(0, START + (len(candles) - 1) * HOUR + MINUTE)
        by_way = vwaps(hold(TradeStore(folder), [(covered, rows)]), len(candles[0]))
    assert {len(found) for found in by_way.values()} == {len(candles)}
    return [dict(zip(by_way, found, strict=True)) for found in zip(*by_way.values(), strict=True)]


def vwaps(archive: TradeStore, trades: int) -> dict[str, list[float | None]]:
    """The vwaps of all candles by each way that makes them."""
    question = BarQuery(PAIR, parse_size("trades", str(trades)))
    bars = [row for batch in bar_batches(archive, question) for row in batch.to_pylist()]
    query = "SELECT vwap FROM ohlc('XBTUSD', '1h') ORDER BY time"
    found = run_sql(archive, query, names={PAIR: PAIR})
    assert found is not None
    made = {
        "trades": vwaps_of(archive, ask("1h")),
        "filled": vwaps_of(archive, ask("1h", fill="previous")),
        "bar": [bar["vwap"] for bar in bars],
        "sql": [vwap for (vwap,) in found.fetchall()],
    }
    with open_writer(archive, PAIR) as pair_writer:
        roll_up(pair_writer, parse_levels(["1m"]))
    return made | {"roll-ups": vwaps_of(archive, ask("1h"))}


def vwaps_of(archive: TradeStore, query: CandleQuery) -> list[float | None]:
    return [candle["vwap"] for candle in answer(ohlc(archive, query))]


def groups(members: st.SearchStrategy[Any]) -> st.SearchStrategy[list[list[Any]]]:
    """Some lists of equal length: an archive costs much more than a candle in it."""
    return st.integers(1, 6).flatmap(
        lambda length: st.lists(
            st.lists(members, min_size=length, max_size=length), min_size=4, max_size=8
        )
    )


@given(groups(st.tuples(PRICES, VOLUMES)))
@settings(max_examples=7, deadline=None)
@example(
    [
        [(598_541_000_000_000, 12_345_678), (598_541_000_000_000, 7)],
        [(598_541_000_000_000, 1), (598_543_000_000_000, 1)],
        [(999_999_999_999_999_999, 999), (999_999_999_999_999_998, 10**13)],
    ]
)
def test_it_is_the_double_nearest_to_the_exact_quotient(candles: list[list[Made]]) -> None:
    for trades, made in zip(candles, made_of(candles), strict=True):
        value = sum(price * volume for price, volume in trades)
        true = Fraction(value, 10**10 * sum(volume for _, volume in trades))
        low, high = (float(price * UNIT) for price in (min(trades)[0], max(trades)[0]))
        for way, vwap in made.items():
            assert vwap is not None
            # Half a unit in the last place is what a double can do; some doubt is left at a tie.
            assert abs(Fraction(vwap) - true) <= Fraction(math.ulp(vwap)) * 51 / 100, way
            assert low <= vwap <= high, way
        assert len(set(made.values())) == 1


def test_duckdb_plans_each_of_its_steps_once() -> None:
    """Written as aliases of one query, a step is copied into all that use it: 13 times here."""
    connection = duckdb.connect()
    connection.execute("CREATE TABLE candles (value DECIMAL(38, 18), volume DECIMAL(38, 8))")
    [(plan,)] = connection.execute(
        "SELECT json_serialize_plan(?, optimize := false)",
        [f"SELECT vwap FROM {with_vwap('candles')}"],  # noqa: S608
    ).fetchall()
    assert plan.count("134217729") == 1


@given(groups(VOLUMES), st.lists(PRICES, min_size=8, max_size=8))
@settings(max_examples=7, deadline=None)
@example([[33_333_333, 1, 1_000_000_007]], [598_541_000_000_000])
def test_trades_of_one_price_have_that_price(volumes: list[list[int]], prices: list[int]) -> None:
    candles = [
        [(price, volume) for volume in some] for price, some in zip(prices, volumes, strict=False)
    ]
    for price, made in zip(prices, made_of(candles), strict=False):
        assert set(made.values()) == {float(price * UNIT)}


@pytest.mark.parametrize("price", ["99999999.9999999999", "81000000", "0.0000000001"])
def test_it_holds_up_to_the_greatest_sums(price: str) -> None:
    """The value of these trades comes close to 10^20, the most that 38 digits hold."""
    greatest = int(Decimal(10) ** 20 / max(Decimal(price), Decimal(1)) / LOT) - 1
    volume = min(greatest, 10**22 - 1) // 2
    [made] = made_of([[(int(Decimal(price) / UNIT), volume)] * 2])
    for vwap in made.values():
        assert vwap == pytest.approx(float(price), rel=1e-14)


@pytest.mark.parametrize("decimals", [0, 1, 5, 8, 10])
def test_krakens_is_the_exact_quotient_truncated(decimals: int, tmp_path: Path) -> None:
    """Many quotients lie just above or below a multiple of the last digit."""
    random = Random(decimals)
    candles: list[list[tuple[int, int]]] = []
    for _ in range(2_000):
        price = round(10 ** random.uniform(10 - decimals, 17))
        price -= price % 10 ** (10 - decimals)
        volumes = [round(10 ** random.uniform(0, 12)) for _ in range(random.randint(1, 3))]
        steps = [random.choice([0, 0, 1, -1]) for _ in volumes]
        candles.append([(max(price + step, 1), v) for step, v in zip(steps, volumes, strict=True)])
    rows = [
        trade(60 * minute + second, f"{price * UNIT:f}", f"{volume * LOT:f}")
        for minute, trades in enumerate(candles)
        for second, (price, volume) in enumerate(trades)
    ]
    archive = hold(TradeStore(tmp_path), [(Range(0, START + len(candles) * MINUTE), rows)])
    found = answer(ohlc(archive, ask("1m", fill="kraken", pair_decimals=decimals)))
    expected = [
        sum(price * volume for price, volume in trades) // sum(volume for _, volume in trades)
        for trades in candles
    ]
    last_digit = 10 ** (10 - decimals)
    assert [row["vwap"] for row in found] == [
        Decimal(units // last_digit).scaleb(-decimals) for units in expected
    ]
