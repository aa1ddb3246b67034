"""Answers of the OHLC endpoint, read to the digit or refused with the row that is wrong."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from harvester.errors import UnreadableAnswer
from harvester.kraken.answers import Transient
from harvester.kraken.ohlc import Candle, read_candles

CAPTURED = Path(__file__).parents[2] / "shared/kraken/ohlc_XBTUSDT_1m_2025-11-10.json"
ROW = '[1600000200,"0.10","2.5","0.1","1e-10","0.3","100000000000.00000001",3]'


def read(rows: str, minutes: int = 5) -> list[Candle]:
    return read_candles(b'{"error":[],"result":{"A":[%b],"last":0}}' % rows.encode(), minutes)


def test_every_digit_is_kept() -> None:
    assert read(ROW) == [
        Candle(
            time_ns=1_600_000_200 * 10**9,
            open=Decimal("0.10"),
            high=Decimal("2.5"),
            low=Decimal("0.1"),
            close=Decimal("0.0000000001"),
            vwap=Decimal("0.3"),
            volume=Decimal("100000000000.00000001"),
            count=3,
        )
    ]


def test_an_answer_may_hold_no_candle() -> None:
    assert read("") == []


BAD_ROWS = {
    '[1600000200,"x","1","1","1","1","1",3]': "one of its numbers can't be read",
    '[1600000200,"NaN","1","1","1","1","1",3]': "one of its numbers is negative or infinite",
    '[1600000200,"1","1","1","1","1","-1",3]': "one of its numbers is negative or infinite",
    '[1600000200,"1","1","1","1","1","1",-3]': "one of its numbers is negative or infinite",
    '[1600000201,"1","1","1","1","1","1",3]': "no candle of 5 minutes opens then",
    '[-300,"1","1","1","1","1","1",3]': "no candle of 5 minutes opens then",
    '[9999999999900,"1","1","1","1","1","1",3]': "no candle of 5 minutes opens then",
    '[1600000200,1.5,"1","1","1","1","1",3]': "Expected `str`, got `float` - at `$[1]`",
    '[1600000200,"1"]': "Expected `array` of at least length 8, got 2",
    "5": "Expected `array`, got `int`",
}


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS.items())
def test_a_row_that_cannot_be_read_is_shown(row: str, reason: str) -> None:
    with pytest.raises(UnreadableAnswer) as caught:
        read(row)
    assert str(caught.value) == f"the exchange sent a candle that can't be read: {row} ({reason})"


@pytest.mark.parametrize("time_s", [1_600_000_200, 1_599_999_900])
def test_rows_that_do_not_ascend_are_refused(time_s: int) -> None:
    row = ROW.replace("1600000200", str(time_s))
    with pytest.raises(UnreadableAnswer) as caught:
        read(f"{ROW},{row}")
    assert str(caught.value) == (
        f"the exchange sent a candle that can't be read: {row} "
        "(it is not later than the candle before it)"
    )


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (b"{}", "the exchange's candles are of 0 markets (), but one was requested"),
        (
            b'{"A":[],"B":[]}',
            "the exchange's candles are of 2 markets (A, B), but one was requested",
        ),
        (b'{"A":5}', "the exchange's candles are not a list of rows: Expected `array`, got `int`"),
    ],
)
def test_an_answer_of_another_shape_is_refused(result: bytes, message: str) -> None:
    with pytest.raises(UnreadableAnswer) as caught:
        read_candles(b'{"error":[],"result":%b}' % result, 5)
    assert str(caught.value) == message


@pytest.mark.parametrize("body", [b'{"error":[],"result":{"A":[', b'{"result":{"A":["\xff"]}}'])
def test_a_spoilt_body_is_transient(body: bytes) -> None:
    with pytest.raises(Transient):
        read_candles(body, 5)


@pytest.mark.skipif(not CAPTURED.is_file(), reason=f"Kraken's captured answer is not at {CAPTURED}")
def test_a_captured_answer_of_kraken_is_read() -> None:
    candles = read_candles(CAPTURED.read_bytes(), 1)
    price = Decimal("105899.4")
    assert len(candles) == 721
    assert candles[-1] == Candle(
        1_762_820_220 * 10**9, price, price, price, price, Decimal("0.0"), Decimal("0.00000000"), 0
    )
