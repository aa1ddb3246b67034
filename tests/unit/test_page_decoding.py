"""A page comes out digit by digit as it was sent, or with an error that shows the row."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harvester.errors import UnreadableAnswer, ValueDoesNotFit
from harvester.kraken.trades import TradesPage, decode_page
from harvester.schema import PAGE_SCHEMA

CAPTURES = Path(__file__).parents[2] / "shared" / "kraken"
PAGES = (
    "trades_XBTUSDT_2025-11-10.json",
    *(f"trades_GRTETH_2021_page{number}.json" for number in range(6)),
)

LIMIT_PRICE = "a price has at most 10 decimals and is below 100,000,000"
LIMIT_VOLUME = "a volume has at most 8 decimals and is below 10^14"
LIMIT_TIME = "a time has at most 9 decimals"


def body(*rows: str, last: str = '"1700000000000000000"') -> bytes:
    """An answer of these rows, each as JSON."""
    return f'{{"error":[],"result":{{"XXBTZUSD":[{",".join(rows)}],"last":{last}}}}}'.encode()


def row(
    price: str = "1.5", volume: str = "2.5", time: str = "1700000000.5", tail: str = ",7"
) -> str:
    """A row as JSON; `tail` is what follows its misc."""
    return f'["{price}","{volume}",{time},"b","m",""{tail}]'


def only(text: str) -> dict[str, Any]:
    """The one row of a page of one row, its time as an integer of nanoseconds."""
    page = decode_page(body(text))
    assert page.rows.schema == PAGE_SCHEMA
    (found,) = page.rows.to_pylist()
    return {**found, "time": page.rows.column("time")[0].value}


def exactly(value: Decimal) -> tuple[int, int]:
    """A decimal as numerator and denominator: no context rounds it."""
    return value.as_integer_ratio()


# What is sent comes out.


def test_a_row_of_seven_elements_is_read_to_the_last_digit() -> None:
    assert only('["41450.12345","0.03406341",1705792331.7778225,"s","l","x",66432589]') == {
        "trade_id": 66_432_589,
        "time": 1_705_792_331_777_822_500,
        "price": Decimal("41450.12345"),
        "volume": Decimal("0.03406341"),
        "side": "sell",
        "order_type": "limit",
        "misc": "x",
    }


def test_a_row_of_six_elements_has_no_id() -> None:
    assert only('["122.00000","0.10000000",1381095255.5514,"b","m",""]') == {
        "trade_id": None,
        "time": 1_381_095_255_551_400_000,
        "price": Decimal(122),
        "volume": Decimal("0.1"),
        "side": "buy",
        "order_type": "market",
        "misc": "",
    }


@pytest.mark.parametrize(
    ("given_id", "kept"),
    [("0", None), ("null", None), ("1", 1), ("9223372036854775807", 2**63 - 1)],
)
def test_an_id_of_zero_or_null_is_none(given_id: str, kept: int | None) -> None:
    assert only(row(tail=f",{given_id}"))["trade_id"] == kept


def test_an_eighth_element_changes_nothing() -> None:
    assert only(row(tail=',7,"new"')) == only(row(tail=",7"))


@pytest.mark.parametrize(
    ("tail", "unknown"),
    [
        ("", None),
        (",7", None),
        (",7,null", "null"),
        (',7,"x",{}', '"x"'),
        (',7,{"a": [1]}', '{"a": [1]}'),
        (',7,"\u202e\x9b"', r'"\u202e\x9b"'),
        (f',7,"{"x" * 5_000_000}"', f'"{"x" * 199}... (5,000,002 characters)'),
    ],
)
def test_an_element_behind_the_trade_id_is_reported(tail: str, unknown: str | None) -> None:
    page = decode_page(body(row(), row(tail=tail), row(tail=tail)))
    assert (page.unknown, page.rows.num_rows) == (unknown, 3)


def test_a_page_of_plain_form_has_no_unknown_element() -> None:
    assert decode_page(body(row())).unknown is None


def test_a_side_and_an_order_type_that_are_empty_are_unknown() -> None:
    found = only('["1","2",1700000000,"","","",7]')
    assert (found["side"], found["order_type"]) == (None, None)


def test_misc_is_kept_verbatim() -> None:
    misc = ' a"b\\c\n\u00fc\U0001f600,'
    assert only(f'["1","2",1700000000,"b","m",{json.dumps(misc)},7]')["misc"] == misc


@pytest.mark.parametrize(
    ("literal", "stamp"),
    [
        ("1700000000", 1_700_000_000_000_000_000),
        ("1700000000.0", 1_700_000_000_000_000_000),
        ("1381095255.5514", 1_381_095_255_551_400_000),
        ("1705792331.7778225", 1_705_792_331_777_822_500),
        ("1705792331.777822512", 1_705_792_331_777_822_512),
        ("1705792331.7778225120", 1_705_792_331_777_822_512),
        ("1.7e9", 1_700_000_000_000_000_000),
        ("1.7057923317778225E+9", 1_705_792_331_777_822_500),
        ("1293840000.000000001", 1_293_840_000_000_000_001),
        ("9223372036.854775806", 9_223_372_036_854_775_806),
    ],
)
def test_a_time_is_its_literal_and_no_float(literal: str, stamp: int) -> None:
    assert only(row(time=literal))["time"] == stamp


@pytest.mark.parametrize(
    ("literals", "unit"),
    [
        (["1700000000"], 10**9),
        (["1700000000.5"], 10**8),
        (["1700000000.5514"], 10**5),
        (["1700000000.5", "1700000000.5514"], 10**5),
        (["1700000000.5514", "1700000000.5514123"], 100),
        (["1700000000.123456789"], 1),
        ([], 1),
    ],
)
def test_the_unit_is_that_of_the_last_decimal_printed(literals: list[str], unit: int) -> None:
    assert decode_page(body(*(row(time=literal) for literal in literals))).unit_ns == unit


# A JSON number as a person or a program might print it.
FORMS = st.sampled_from(("plain", "zeros", "point", "exponent", "bigger exponent"))


def spelled(unscaled: int, decimals: int, form: str) -> str:
    """One number in one of its spellings."""
    whole, fraction = divmod(unscaled, 10**decimals)
    digits = f"{fraction:0{decimals}d}" if decimals else ""
    if form == "exponent":
        return f"{unscaled}e-{decimals}"
    if form == "bigger exponent":
        return f"{unscaled}.0E{-decimals:+d}"
    if form == "zeros" and decimals:
        return f"{whole:05d}.{digits}"
    if form == "point" and not whole and decimals:
        return f".{digits}"
    return f"{whole}.{digits}" if decimals else str(whole)


@settings(deadline=None)
@given(st.integers(0, 10**18 - 1), st.integers(0, 10), FORMS)
@example(10**18 - 1, 10, "plain")
@example(41_450_000_000, 10, "exponent")
def test_any_price_that_fits_comes_back(unscaled: int, decimals: int, form: str) -> None:
    unscaled = unscaled % 10 ** (8 + decimals) or 1
    text = spelled(unscaled, decimals, form)
    assert exactly(only(row(price=text))["price"]) == exactly(Decimal(text))


@settings(deadline=None)
@given(st.integers(0, 10**22 - 1), st.integers(0, 8), FORMS)
@example(10**22 - 1, 8, "plain")
@example(10**20 + 1, 8, "plain")
def test_any_volume_that_fits_comes_back(unscaled: int, decimals: int, form: str) -> None:
    unscaled %= 10 ** (14 + decimals)
    text = spelled(unscaled, decimals, form)
    assert exactly(only(row(volume=text))["volume"]) == exactly(Decimal(text))


@settings(deadline=None)
@given(st.integers(1_293_840_001 * 10**9, 2**63 - 2), st.integers(0, 9))
@example(2**63 - 2, 9)
def test_any_time_that_fits_comes_back(stamp: int, decimals: int) -> None:
    stamp = max(stamp - stamp % 10 ** (9 - decimals), 10 ** (9 - decimals))
    literal = spelled(stamp // 10 ** (9 - decimals), decimals, "plain")
    assert only(row(time=literal))["time"] == stamp


# What does not fit is never rounded.


def refusal(text: str, kind: type[Exception]) -> str:
    """What the page of this row ends in."""
    with pytest.raises(kind) as caught:
        decode_page(body(row(), text))
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "value", "limit"),
    [
        ({"price": "0.0000012345678"}, "0.0000012345678", LIMIT_PRICE),
        ({"price": "0.00000000001"}, "0.00000000001", LIMIT_PRICE),
        ({"price": "100000000"}, "100000000", LIMIT_PRICE),
        ({"price": "100000000.0000000000"}, "100000000.0000000000", LIMIT_PRICE),
        ({"price": "1e8"}, "1e8", LIMIT_PRICE),
        ({"price": "1e-11"}, "1e-11", LIMIT_PRICE),
        ({"price": "1e40"}, "1e40", LIMIT_PRICE),
        ({"volume": "0.000000001"}, "0.000000001", LIMIT_VOLUME),
        ({"volume": "100000000000000"}, "100000000000000", LIMIT_VOLUME),
        ({"time": "1700000000.1234567891"}, "1700000000.1234567891", LIMIT_TIME),
    ],
)
def test_what_does_not_fit_shows_row_and_limit(
    fields: dict[str, str], value: str, limit: str
) -> None:
    assert refusal(row(**fields), ValueDoesNotFit) == (
        f"trade {row(**fields)}: {value} does not fit, {limit}; "
        "values are never rounded, so this pair stops here"
    )


@pytest.mark.parametrize("digits", [65, 257, 1000, 5_000_000])
@pytest.mark.parametrize("head", ["1.", "1.0", "1", "0.0", "x"])
@pytest.mark.parametrize(
    ("name", "limit"), [("price", LIMIT_PRICE), ("volume", LIMIT_VOLUME), ("time", LIMIT_TIME)]
)
def test_a_number_of_many_digits_is_refused_in_one_short_line(
    name: str, limit: str, head: str, digits: int
) -> None:
    if name == "time" and head in ("0.0", "x"):
        head = "1700000000."
    number = head + "1" * digits
    with pytest.raises((ValueDoesNotFit, UnreadableAnswer)) as caught:
        decode_page(body(row(), row(**{name: number})))
    message = str(caught.value)
    assert limit in message
    assert f"... ({len(number):,} characters)" in message
    assert message.isprintable()
    assert len(message) < 800


@pytest.mark.parametrize(
    "sent",
    [
        row(tail=f",{'1' * 5_000_000}"),
        f'["1.5","2.5",1700000000.5,"{"b" * 5_000_000}","m","",7]',
        f'["1.5","2.5",1700000000.5,"{chr(0x202E)}","m","{"b" * 5_000_000}",7]',
        f'["-1.5","2.5",1700000000.5,"b","m","{"b" * 5_000_000}",7]',
        f'["1.5",5,1700000000.5,"b","m","{"b" * 5_000_000}",7]',
    ],
)
def test_a_row_of_megabytes_that_cannot_be_read_is_shown_short(sent: str) -> None:
    message = refusal(sent, UnreadableAnswer)
    assert message.isprintable()
    assert len(message) < 800


@settings(deadline=None)
@given(st.integers(11, 20), st.integers(1, 9))
def test_no_price_of_more_decimals_is_rounded(decimals: int, digit: int) -> None:
    text = f"0.{digit:0{decimals}d}"
    assert refusal(row(price=text), ValueDoesNotFit).endswith("so this pair stops here")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (row(price=""), "'' is not a number"),
        (row(price=" 5"), "' 5' is not a number"),
        (row(price="NaN"), "'NaN' is not a number"),
        (row(price="Infinity"), "'Infinity' is not a number"),
        (row(price="1_000"), "'1_000' is not a number"),
        (row(price="1,5"), "'1,5' is not a number"),
        (row(volume="0x10"), "'0x10' is not a number"),
        (row(time='"1700000000"'), "'\"1700000000\"' is not a number"),
        (row(time="null"), "'null' is not a number"),
        (row(time="[1]"), "'[1]' is not a number"),
        (row(time="0"), "its time is outside 2011 to 2262"),
        (row(time="1293839999.9999999"), "its time is outside 2011 to 2262"),
        (row(time="-5.5"), "its time is outside 2011 to 2262"),
        (row(price="0.00000"), "price 0.00000 is not above 0"),
        (row(price="-1.5"), "price -1.5 is not above 0"),
        (row(volume="-0.10000000"), "volume -0.10000000 is below 0"),
        (row(time="9223372037"), "its time is outside 2011 to 2262"),
        (row(time="9223372036.854775807"), "its time is outside 2011 to 2262"),
        (row(time="1705792331777"), "its time is outside 2011 to 2262"),
        (row(time="18446744074.5"), "its time is outside 2011 to 2262"),
        ('["1","2",1700000000,"x","m","",7]', "side 'x' is neither b nor s"),
        ('["1","2",1700000000,"B","m","",7]', "side 'B' is neither b nor s"),
        ('["1","2",1700000000,"b","x","",7]', "order type 'x' is neither m nor l"),
        (
            row(tail=",9223372036854775808"),
            "trade id 9223372036854775808 is below 0 or has more than 64 bits",
        ),
        (row(tail=",7.0"), "Expected `int | null`, got `float` - at `$[6]`"),
        (row(tail=',"7"'), "Expected `int | null`, got `str` - at `$[6]`"),
        ('[1.5,"2",1700000000,"b","m","",7]', "Expected `str`, got `float` - at `$[0]`"),
        ('["1",2,1700000000,"b","m","",7]', "Expected `str`, got `int` - at `$[1]`"),
        ('["1","2",1700000000,"b","m",null,7]', "Expected `str`, got `null` - at `$[5]`"),
        ('["1","2",1700000000,"b","m"]', "Expected `array` of at least length 6, got 5"),
        ("[]", "Expected `array` of at least length 6, got 0"),
        ("{}", "Expected `array`, got `object`"),
        ("null", "Expected `array`, got `null`"),
    ],
)
def test_a_row_that_cannot_be_read_is_shown_with_the_reason(text: str, reason: str) -> None:
    assert refusal(text, UnreadableAnswer) == (
        f"the exchange sent a trade that can't be read: {text} ({reason}); "
        "nothing of this page was stored"
    )


WHERE_ONE = "but one was requested; nothing of it was stored"
NO_PAGE = "the exchange's answer is not a page of trades"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (
            b'{"error":[],"result":{"last":"1"}}',
            f"the exchange's answer names 0 markets (), {WHERE_ONE}",
        ),
        (
            b'{"error":[],"result":{"A":[],"B":[]}}',
            f"the exchange's answer names 2 markets (A, B), {WHERE_ONE}",
        ),
        (
            b'{"error":[],"result":{"A":5,"last":"1"}}',
            "the exchange's answer has 5 in place of rows",
        ),
        (
            b'{"error":[],"result":[]}',
            f"{NO_PAGE}: Expected `object`, got `array` - at `$.result`",
        ),
        (
            b"[]",
            f"{NO_PAGE}: Expected `object`, got `array`",
        ),
    ],
)
def test_an_answer_of_another_shape_is_an_error(sent: bytes, message: str) -> None:
    with pytest.raises(UnreadableAnswer) as caught:
        decode_page(sent)
    assert str(caught.value) == message


WHOLE = body(row(), row(price="2.5"))


@settings(deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
@example(0)
@example(len(WHOLE) - 1)
def test_a_body_cut_short_is_no_json(length: int) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_page(WHOLE[:length])


SPOILT = (b'"b"', b"XXBTZUSD", b"1.5", b"700000000")


@pytest.mark.parametrize("place", SPOILT)
def test_a_body_that_is_no_utf8_is_no_json(place: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_page(WHOLE.replace(place, place[:1] + b"\xff" + place[2:], 1))


def test_a_text_of_spoilt_bytes_where_a_time_should_be_is_no_json() -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        decode_page(WHOLE.replace(b"1700000000.5", b'"\xff"', 1))
    assert str(caught.value) == (
        "'utf-8' codec can't decode byte 0xff in position 48: invalid start byte"
    )


# Cursors.


@pytest.mark.parametrize(
    ("last", "verbatim", "cursor"),
    [
        ('"1705792331777822495"', "1705792331777822495", 1_705_792_331_777_822_495),
        ("1705792331777822495", "1705792331777822495", 1_705_792_331_777_822_495),
        ('"1705792331777822"', "1705792331777822", None),
        ('"17057923317778224951"', "17057923317778224951", None),
        ('" 705792331777822495"', " 705792331777822495", None),
        ('"not-a-cursor"', "not-a-cursor", None),
        ('""', "", None),
        ("null", None, None),
    ],
)
def test_a_cursor_counts_with_nineteen_digits_only(
    last: str, verbatim: str | None, cursor: int | None
) -> None:
    page = decode_page(body(row(), last=last))
    assert (page.last, page.cursor_ns) == (verbatim, cursor)


def test_a_cursor_may_be_missing() -> None:
    page = decode_page(body(row()).replace(b',"last":"1700000000000000000"', b""))
    assert (page.last, page.cursor_ns) == (None, None)


def test_an_empty_page_has_no_rows_and_its_cursor() -> None:
    page = decode_page(body())
    assert (page.rows.num_rows, page.rows.schema, page.last) == (
        0,
        PAGE_SCHEMA,
        "1700000000000000000",
    )


# Captured pages, read again by the standard library.


def captured(name: str) -> bytes:
    """A captured body."""
    path = CAPTURES / name
    if not path.is_file():
        pytest.skip(f"no captured bodies at {CAPTURES}")
    return path.read_bytes()


@pytest.mark.parametrize("name", PAGES)
def test_a_captured_page_decodes_to_the_numbers_that_json_reads(name: str) -> None:
    sent = captured(name)
    result = json.loads(sent, parse_float=str, parse_int=str)["result"]
    (rows,) = (value for key, value in result.items() if key != "last")
    page: TradesPage = decode_page(sent)
    assert page.last == result["last"]
    got = [
        (
            exactly(decoded["price"]),
            exactly(decoded["volume"]),
            stamp.value,
            decoded["side"],
            decoded["order_type"],
            decoded["misc"],
            decoded["trade_id"],
        )
        for decoded, stamp in zip(page.rows.to_pylist(), page.rows.column("time"), strict=True)
    ]
    assert got == [
        (
            exactly(Decimal(row[0])),
            exactly(Decimal(row[1])),
            int(Decimal(row[2]) * 10**9),
            {"b": "buy", "s": "sell"}[row[3]],
            {"m": "market", "l": "limit"}[row[4]],
            row[5],
            int(row[6]) if len(row) > 6 else None,
        )
        for row in rows
    ]
