"""The plain form of a page is read to the same answer as any other, or left to the other reader."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kraken_market import Market
from kraken_server import Exchange
from sample_trades import tiny_coin, xbtusd_like, zero_ids

from harvester.errors import HarvesterError
from harvester.kraken.trades import TradesPage, decode_fast, decode_general, decode_page


def body(*rows: str, last: str = '"1700000000000000000"') -> bytes:
    """An answer of these rows, each as JSON."""
    return f'{{"error":[],"result":{{"XXBTZUSD":[{",".join(rows)}],"last":{last}}}}}'.encode()


def outcome(sent: bytes, *, general: bool) -> TradesPage | tuple[str, str]:
    """The page that a reader makes of a body, or the name and the words of its error."""
    try:
        return (decode_general if general else decode_page)(sent)
    except (HarvesterError, msgspec.DecodeError) as error:
        return type(error).__name__, str(error)


def served(market: Market) -> bytes:
    """The first page of a market from the test exchange."""
    params = {"pair": market.altname, "since": "0"}
    return Exchange([market]).answer("/0/public/Trades", params, "test").body


PLAIN = served(Market(trades=xbtusd_like(60, 7)))
ROW = '["1.5","2.50000000",1700000000.5,"b","m","",7]'

DIGITS = "0123456789"
PRICES = st.tuples(st.integers(0, 10**8 - 1), st.text(DIGITS, min_size=5, max_size=5)).map(
    lambda parts: f"{parts[0]}.{parts[1]}"
)
VOLUMES = st.tuples(st.integers(0, 10**11), st.text(DIGITS, min_size=8, max_size=8)).map(
    lambda parts: f"{parts[0]}.{parts[1]}"
)
TIMES = st.tuples(
    st.integers(1_293_839_999, 9_223_372_037), st.text(DIGITS, min_size=1, max_size=9)
).map(lambda parts: f"{parts[0]}.{parts[1]}")
ROWS = st.builds(
    '["{}","{}",{},"{}","{}","",{}]'.format,
    PRICES,
    VOLUMES,
    TIMES,
    st.sampled_from("bs"),
    st.sampled_from("ml"),
    st.integers(0, 2**63 - 1),
)


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=5))
@example([ROW])
@example([ROW.replace("1.5", "0.0")])
@example([ROW.replace("1.5", "99999999.9999999999")])
@example([ROW.replace("2.5", "9999999999.5"), ROW])
@example([ROW.replace("2.5", "10000000000.5"), ROW])
@example([ROW.replace(",7]", ",0]"), ROW.replace(",7]", ",9007199254740993]")])
@example([ROW.replace("1700000000.5", "9223372036.854775807")])
@example([ROW.replace("1700000000.5", "1293840000.000000001")])
def test_both_readers_make_the_same_of_rows_of_the_plain_form(rows: list[str]) -> None:
    sent = body(*rows)
    assert outcome(sent, general=False) == outcome(sent, general=True)


PLACES = st.integers(0, len(PLAIN) - 1)
ODD = st.sampled_from([bytes([byte]) for byte in b'0123456789.,"[]{}eE+-bsml \\:_/\x00\xff'])


@settings(deadline=None, max_examples=500)
@given(st.lists(st.tuples(PLACES, st.integers(0, 3), ODD), min_size=1, max_size=3))
def test_both_readers_make_the_same_of_spoilt_bytes(
    spoilt: list[tuple[int, int, bytes]],
) -> None:
    sent = PLAIN
    for place, length, byte in spoilt:
        sent = sent[:place] + byte * bool(length) + sent[place + max(1, length) - 1 :]
    assert outcome(sent, general=False) == outcome(sent, general=True)


@settings(deadline=None)
@given(PLACES, PLACES)
def test_both_readers_make_the_same_of_a_body_with_a_piece_missing(start: int, stop: int) -> None:
    sent = PLAIN[: min(start, stop)] + PLAIN[max(start, stop) :]
    assert outcome(sent, general=False) == outcome(sent, general=True)


@pytest.mark.parametrize("place", range(4))
def test_each_quote_comma_and_bracket_is_held_to_its_place(place: int) -> None:
    # Each byte of the first rows in turn becomes another one that could stand in a page.
    start = PLAIN.index(b"[[")
    for at in range(start + place, start + 200, 4):
        for byte in b'0",.[]s':
            sent = PLAIN[:at] + bytes([byte]) + PLAIN[at + 1 :]
            assert outcome(sent, general=False) == outcome(sent, general=True), sent[: at + 20]


def test_the_pages_of_a_busy_pair_are_plain() -> None:
    assert decode_fast(PLAIN) is not None


@pytest.mark.parametrize("market", [Market(trades=zero_ids(60, 3)), tiny_coin(60, 3)])
def test_so_are_those_without_ids_and_those_of_tiny_coins(market: Market) -> None:
    sent = served(market)
    assert outcome(sent, general=False) == outcome(sent, general=True)


@pytest.mark.parametrize(
    "sent",
    [
        body(),
        body(ROW, last="1700000000000000000"),
        body(ROW.replace(",7]", "]")),
        body(ROW.replace('""', '"x"')),
        body(ROW.replace(",7", ", 7")),
        body(ROW.replace("2.50000000", "2.5")),
        body(ROW, ROW.replace("1.5", "1.25")),
        body(ROW).replace(b'"error":[]', b'"error":["WSomething"]'),
        body(ROW).replace(b"XXBTZUSD", b"last"),
        body(ROW).replace(b"XXBTZUSD", b"a[["),
        body(ROW) + b" ",
        json.dumps(json.loads(body(ROW))).encode(),
    ],
)
def test_any_other_form_is_left_to_the_other_reader(sent: bytes) -> None:
    assert decode_fast(sent) is None
    assert outcome(sent, general=False) == outcome(sent, general=True)
