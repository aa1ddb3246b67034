"""Digests: the same for the same trades, however they came, and another for others."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path

import candle_oracle
import pytest
import sample_trades
from candle_cases import PAIR, cut, hold
from kraken_market import expected

from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range, parse_moment, range_between
from harvester.verify.integrity import digests
from harvester.verify.reports import Digest

ROWS = expected(sample_trades.market(sample_trades.sparse(400)))
SIDES = {None: 0, "buy": 1, "sell": 2}
TYPES = {None: 0, "market": 1, "limit": 2}


def record(row: candle_oracle.Row) -> bytes:
    """A row as docs/format.md specifies it."""
    number, stamp, tie, price, volume, side, kind, misc = row
    text = (misc or "").encode()
    length = 0xFFFFFFFF if misc is None else len(text)
    return (
        struct.pack("<Bqqi", number is not None, number or 0, stamp, tie)
        + struct.pack("<q", int(price.scaleb(10)))
        + int(volume.scaleb(8)).to_bytes(16, "little")
        + struct.pack("<BBI", SIDES[side], TYPES[kind], length)
        + text
    )


def by_hand(rows: Sequence[candle_oracle.Row], months: list[str]) -> tuple[int, str]:
    """Trades and digest of some months, as docs/format.md specifies it."""
    lines, total = "", 0
    for month in months:
        year, number = int(month[:4]), int(month[5:])
        then = f"{year + number // 12}-{number % 12 + 1:02d}"
        begin, end = parse_moment(f"{month}-01", 0), parse_moment(f"{then}-01", 0)
        some = [record(row) for row in rows if begin <= row[1] < end]
        lines += f"{month} {len(some)} {hashlib.sha256(b''.join(some)).hexdigest()}\n"
        total += len(some)
    return total, hashlib.sha256(lines.encode()).hexdigest()


def archive_of(
    path: Path, places: list[int], rows: Sequence[candle_oracle.Row] = ROWS
) -> TradeStore:
    """The trades in segments cut behind some of the rows, covered to a day after its end."""
    end = rows[-1][1] + 86_400 * 10**9
    return hold(TradeStore(path), cut(rows, [0, *(rows[place][1] for place in places), end]))


def months_between(first: str, last: str) -> list[str]:
    numbers = [int(text[:4]) * 12 + int(text[5:]) - 1 for text in (first, last)]
    return [f"{n // 12}-{n % 12 + 1:02d}" for n in range(numbers[0], numbers[1] + 1)]


def test_a_digest_is_computed_as_the_format_documents(tmp_path: Path) -> None:
    [digest] = digests(archive_of(tmp_path, [100, 200]), PAIR)
    months = months_between(digest.first, digest.last)
    assert len(months) > 3
    assert [month.month for month in digest.months] == months
    assert (digest.rows, digest.sha256) == by_hand(ROWS, months)


@pytest.mark.parametrize("places", [[], [1], [7, 8, 9, 250], list(range(20, 380, 20))])
def test_a_digest_does_not_depend_on_the_boundaries_of_segments(
    tmp_path: Path, places: list[int]
) -> None:
    truth = digests(archive_of(tmp_path / "a", [100, 200]), PAIR)
    archive = archive_of(tmp_path / "b", places)
    assert digests(archive, PAIR) == truth
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.compact(merge_all=True)
    assert digests(TradeStore(tmp_path / "b"), PAIR) == truth


def test_one_trade_less_is_another_digest_and_one_other_month(tmp_path: Path) -> None:
    [whole] = digests(archive_of(tmp_path / "a", []), PAIR)
    [less] = digests(archive_of(tmp_path / "b", [], ROWS[:200] + ROWS[201:]), PAIR)
    assert less.sha256 != whole.sha256
    different = [a.month for a, b in zip(whole.months, less.months, strict=True) if a != b]
    assert len(different) == 1


def test_a_span_takes_the_months_that_lie_in_it_whole(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, [])
    [whole] = digests(archive, PAIR)
    first, second, third, fourth = whole.months[:4]
    begin, end = (f"{month.month}-02" for month in (first, fourth))
    [some] = digests(archive, PAIR, range_between(parse_moment(begin, 0), parse_moment(end, 0)))
    assert some.months == [second, third]
    [exact] = digests(
        archive,
        PAIR,
        range_between(parse_moment(f"{first.month}-01", 0), parse_moment(f"{third.month}-01", 0)),
    )
    assert exact.months == [first, second]


def test_a_gap_parts_the_months(tmp_path: Path) -> None:
    [whole] = digests(archive_of(tmp_path / "a", []), PAIR)
    lost = whole.months[2].month
    inside = parse_moment(f"{lost}-10", 0)
    parts = cut(ROWS, [0, inside]) + cut(ROWS, [inside + 10**9, ROWS[-1][1] + 86_400 * 10**9])
    found = digests(hold(TradeStore(tmp_path / "b"), parts), PAIR)
    assert [[month.month for month in digest.months] for digest in found] == [
        [month.month for month in whole.months[:2]],
        [month.month for month in whole.months[3:]],
    ]


def test_nothing_whole_is_no_digest(tmp_path: Path) -> None:
    assert digests(TradeStore(tmp_path / "none"), PAIR) == []
    day = hold(TradeStore(tmp_path / "day"), [(Range(0, ROWS[0][1]), ROWS[:1])])
    assert digests(day, PAIR) == []


def test_it_reads_as_one_line() -> None:
    digest = Digest(PAIR, "2019-01", "2020-12", 1_234_567, "ab" * 32, [])
    assert str(digest) == f"XBTUSD 2019-01 to 2020-12: 1,234,567 trades, {'ab' * 32}"
