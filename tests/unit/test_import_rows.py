"""Lines of text become rows digit by digit, or are named with the reason why not."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.csv_import.file_scan import FULL, SHORT, detect
from harvester.csv_import.parse import Layout, parse
from harvester.csv_import.row_order import Sorter
from harvester.errors import BadFile
from harvester.schema import times

THREE = Layout(SHORT, has_header=False)
SEVEN = Layout(FULL, has_header=False)
GOOD = b"1588888888,9000.1,0.5\n"


def rows_of(block: bytes, layout: Layout = THREE) -> list[tuple[Any, ...]]:
    """Each row's values, its time in nanoseconds."""
    rows = parse(block, layout, 1).rows
    stamps = times(rows).tolist()
    return [
        (*(row[name] for name in ("trade_id", "price", "volume", "side", "order_type", "misc")), at)
        for row, at in zip(rows.to_pylist(), stamps, strict=True)
    ]


def reasons(block: bytes, layout: Layout = THREE) -> list[tuple[int, str]]:
    """The lines that are no trades, and why."""
    return [(bad_line.line, bad_line.reason) for bad_line in parse(block, layout, 1).bad]


# --- layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "columns", "header"),
    [
        (b"1588888888,9000.10000,0.5\n", SHORT, False),
        (b"timestamp,price,volume\n1588888888,9000.1,0.5\n", SHORT, True),
        (b"1588888888,9000.1,2000000000.5\n", SHORT, False),
        (b"9000.1,0.5,1588888888,b,m,,17\n", FULL, False),
        (b"price,volume,timestamp,b/s,m/l,misc\n9000.1,0.5,1588888888.123,b,m,,17\n", FULL, True),
        (b"price,volume,time,b/s,m/l,misc,trade id\n1.5,2,1588888888,s,l,,3\n", FULL, True),
        (b"9000.1,0.5,1588888888,b,m,\n", FULL[:-1], False),
        (
            b"1588888888.5,m,b,9000.1,0.5,,17\n",
            ("time", "order_type", "side", "price", "volume", "misc", "trade_id"),
            False,
        ),
    ],
)
def test_columns_are_found_by_content(text: bytes, columns: Any, header: Any) -> None:
    assert detect(text, "x.csv") == (columns, header)


def test_a_header_decides_which_column_is_price_and_which_volume() -> None:
    text = b"time,volume,price\n1588888888,0.5,9000.1\n"
    assert detect(text, "x.csv").columns == ("time", "volume", "price")


def test_a_header_behind_a_byte_order_mark_is_read() -> None:
    text = b"\xef\xbb\xbftime,volume,price\n1588888888,0.5,9000.1\n"
    assert detect(text, "x.csv") == (("time", "volume", "price"), True)


@pytest.mark.parametrize("header", [b"unixtime,volume,price", b"timestamp,qty,price", b"a,b,c"])
def test_a_header_of_other_names_is_refused(header: bytes) -> None:
    """Its price and volume would be taken in the usual order, which may be the wrong one."""
    with pytest.raises(BadFile) as caught:
        detect(header + b"\n" + GOOD * 5, "x.csv")
    assert str(caught.value) == (
        f"x.csv has the header {header.decode()!r}, whose names are not all known: call the "
        "columns time, price and volume"
    )


@pytest.mark.parametrize(
    "text",
    [
        b"1588888800,9000,9001,8999,9000.5,12.5,40\n",
        b"1588888800,9000\n",
        b"one,two,three\nfour,five,six\n",
        b"9000.1,0.5,1588888888,x,y,,17\n",
    ],
)
def test_what_is_no_trade_is_no_layout(text: bytes) -> None:
    first = text.decode().splitlines()[-1 if text.startswith(b"one") else 0]
    with pytest.raises(BadFile) as caught:
        detect(text, "x.csv")
    assert str(caught.value) == (
        f"x.csv begins {first!r}, which is neither time, price, volume nor price, volume, time, "
        "b/s, m/l, misc, trade id: give Kraken's files of trades"
    )


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"timestamp,price,volume\n", b"price,volume,timestamp,b/s,m/l,misc\n"]
)
def test_a_file_without_a_row_is_one_of_a_pair_that_was_not_traded(text: bytes) -> None:
    assert detect(text, "x.csv") == ((), len(text) > 1)
    assert str(detect(text, "x.csv")) == "no rows"


def test_a_text_alone_is_no_file_of_trades() -> None:
    with pytest.raises(BadFile) as caught:
        detect(b"<html>\n", "x.csv")
    assert str(caught.value) == "x.csv has no trades: nothing of it was imported"


@pytest.mark.parametrize("header", [b"time,price,volume", b"price,volume,timestamp,b/s,m/l,misc"])
@pytest.mark.parametrize("rest", [GOOD * 5, GOOD.replace(b"\n", b"\r") * 5])
def test_lines_that_end_with_a_carriage_return_alone_are_refused(
    header: bytes, rest: bytes
) -> None:
    """The first rows would be taken for a part of the header."""
    with pytest.raises(BadFile, match="lines that end with CR alone"):
        detect(header + b"\r" + rest, "x.csv")


def test_a_carriage_return_within_a_row_decides_nothing() -> None:
    assert detect(GOOD + b"1588888888,9000.1\r,0.5\n" + GOOD, "x.csv") == (SHORT, False)


@pytest.mark.parametrize("given", [0, 1, 500, 1_000])
@pytest.mark.parametrize("header", [b"", b"price,volume,timestamp,b/s,m/l,misc\n"])
def test_any_number_of_trade_ids_may_be_left_out(given: int, header: bytes) -> None:
    rows = [
        b"9000.1,0.5,1588888888,b,m,,%b\n" % (b"%d" % (number + 1) if number < given else b"")
        for number in range(1_000)
    ]
    assert detect(header + b"".join(rows), "x.csv") == (FULL, bool(header))


@pytest.mark.parametrize("first", [b"oops,9000.1,0.5\n", b"17000\n", b"1588888888,9000.1\n"])
def test_a_broken_first_row_is_no_header(first: bytes) -> None:
    assert detect(first + GOOD * 5, "x.csv") == (SHORT, False)


# --- rows ----------------------------------------------------------------------------------------


def test_three_columns_keep_what_is_given_and_invent_nothing() -> None:
    block = b"1588888888,9000.10000,0.50000000\n1588888888,9000,1\n1588888889,.5,2.\n"
    assert rows_of(block) == [
        (None, Decimal("9000.1"), Decimal("0.5"), None, None, None, 1_588_888_888 * 10**9),
        (None, Decimal(9000), Decimal(1), None, None, None, 1_588_888_888 * 10**9),
        (None, Decimal("0.5"), Decimal(2), None, None, None, 1_588_888_889 * 10**9),
    ]


def test_seven_columns_keep_every_field() -> None:
    block = b"1.5,2,1588888888.1234567,b,m,,17\n1.5,2,1588888889,s,l,,0\n"
    assert rows_of(block, SEVEN) == [
        (17, Decimal("1.5"), Decimal(2), "buy", "market", "", 1_588_888_888_123_456_700),
        (None, Decimal("1.5"), Decimal(2), "sell", "limit", "", 1_588_888_889_000_000_000),
    ]


def test_a_text_in_misc_is_kept_verbatim() -> None:
    assert rows_of(b'1.5,2,1588888888,b,m,"a,b.c",17\n', SEVEN)[0][5] == "a,b.c"


NUMBERS = st.one_of(
    st.decimals("0.0000000001", "99999999.9999999999", places=10),
    st.decimals("0.00000001", "99999999999999.99999999", places=8),
    st.integers(1, 10**7).map(Decimal),
)
FORMS = st.sampled_from(("{:f}", "{:e}", "{:.10f}", "+{:f}", " {:f}", "{:f} ", '"{:f}"', "0{:f}"))


@given(st.lists(st.tuples(NUMBERS, NUMBERS, FORMS, FORMS), min_size=1, max_size=5))
def test_any_way_to_write_a_number_is_that_number_or_refused(rows: list[Any]) -> None:
    """A way that the quick reading would misread must not reach it."""
    lines = [f"1588888888,{a.format(p)},{b.format(v)}\n" for p, v, a, b in rows]
    parsed = parse("".join(lines).encode(), THREE, 1)
    bad = {bad_line.line for bad_line in parsed.bad}
    kept = [(p, v) for line, (p, v, *_) in enumerate(rows, 1) if line not in bad]
    assert [(row["price"], row["volume"]) for row in parsed.rows.to_pylist()] == kept
    for line, (price, volume, a, b) in enumerate(rows, 1):
        plain = {a, b} <= {"{:f}", "{:e}", " {:f}", "{:f} ", '"{:f}"', "0{:f}"}
        fits = price == round(price, 10) and price < 10**8 and volume == round(volume, 8)
        assert not (plain and fits and line in bad)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1588888888,nine,0.5", "price 'nine' is no number"),
        (b"1588888888,0x10,0.5", "price '0x10' is no number"),
        (b"1588888888,,0.5", "price '' is no number"),
        (b"1588888888,.,0.5", "price '.' is no number"),
        (b"1588888888,1.2.3,0.5", "price '1.2.3' is no number"),
        (b"1588888888,nan,0.5", "price 'nan' is no number"),
        (b"1588888888,-1,0.5", "price -1 is not above 0"),
        (b"1588888888,0.0,0.5", "price 0.0 is not above 0"),
        (b"1588888888,1,-0.5", "volume -0.5 is below 0"),
        (b"158888888.8,1,0.5", "its time 158888888.8 lies outside 2011 to 2262"),
        (b"1588888888000,1,0.5", "1588888888000 does not fit, a time has at most 9 decimals"),
        (
            b"1588888888,1.00000000001,0.5",
            "1.00000000001 does not fit, a price has at most 10 decimals and lies below "
            "100,000,000",
        ),
        (
            b"1588888888,100000000,0.5",
            "100000000 does not fit, a price has at most 10 decimals and lies below 100,000,000",
        ),
        (
            b"1588888888,1,0.000000001",
            "0.000000001 does not fit, a volume has at most 8 decimals and lies below 10^14",
        ),
        (
            b"1588888888,1,100000000000000",
            "100000000000000 does not fit, a volume has at most 8 decimals and lies below 10^14",
        ),
        (b"1588888888,1", "it has 2 fields instead of 3"),
        (b"1588888888,1,2,3", "it has 4 fields instead of 3"),
        (b"1588888888,1,\xff", "it is no UTF-8"),
    ],
)
def test_a_line_that_is_no_trade_is_named_with_its_reason(line: bytes, reason: str) -> None:
    block = GOOD + line + b"\n" + GOOD
    assert reasons(block) == [(2, reason)]
    assert len(rows_of(block)) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1.5,2,1588888888,x,m,,17", "'x' is neither b nor s"),
        (b"1.5,2,1588888888,b,x,,17", "'x' is neither m nor l"),
        (b"1.5,2,1588888888,m,b,,17", "'m' is neither b nor s"),
        (b"1.5,2,1588888888,b,m,,1.7", "trade id '1.7' is not a whole number from 0 to 2^63 - 1"),
        (b"1.5,2,1588888888,b,m,,7.", "trade id '7.' is not a whole number from 0 to 2^63 - 1"),
        (b"1.5,2,1588888888,b,m,,-7", "trade id '-7' is not a whole number from 0 to 2^63 - 1"),
    ],
)
def test_a_line_of_seven_that_is_no_trade_is_named(line: bytes, reason: str) -> None:
    assert reasons(b"1.5,2,1588888888,b,m,,16\n" + line + b"\n", SEVEN) == [(2, reason)]


def test_lines_of_another_system_are_the_same_lines() -> None:
    assert rows_of(GOOD.replace(b"\n", b"\r\n") * 2) == rows_of(GOOD * 2)


def test_blank_lines_are_no_rows_and_count_as_lines() -> None:
    parsed = parse(GOOD + b"\n" + GOOD, THREE, 1)
    assert (parsed.rows.num_rows, parsed.lines[1]) == (2, 3)


def test_a_volume_of_a_hundred_billion_is_kept_to_the_digit() -> None:
    block = b"1588888888,0.0000012345,123456789012.12345678\n"
    assert rows_of(block)[0][1:3] == (Decimal("0.0000012345"), Decimal("123456789012.12345678"))


def test_a_misc_that_ends_in_a_point_keeps_it() -> None:
    assert rows_of(b"1.5,2,1588888888,b,m,1.,7\n", SEVEN)[0][5] == "1."


def test_a_time_is_given_out_only_once_no_row_of_it_can_follow() -> None:
    """Rows go back by a minute at most, and by just that: the group of a time must stay whole."""
    sorter, begin = Sorter(), 1588888888
    given = []
    for seconds in ([0, 60, 60], [0, 61], [1, 62], [123]):
        block = b"".join(b"%d,1,2\n" % (begin + second) for second in seconds)
        parsed = parse(block, THREE, 1)
        given.append([int(time) // 10**9 - begin for time in times(sorter.push(parsed.rows))])
    given.append([int(time) // 10**9 - begin for time in times(sorter.finish())])
    assert given == [[], [0, 0], [1], [60, 60, 61, 62], [123]]
