"""How many imported trades there should be, by the trade ids around them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from harvester.storage.id_gaps import wrong_counts
from harvester.storage.segment import Footer, IdPair
from harvester.times import Range


def api(
    first: int | None, last: int | None, *, rows: int = 0, unconfirmed: int = 0
) -> dict[str, Any]:
    """Downloaded trades; all have an id, or none has."""
    without_ids = rows if first is None else 0
    return {
        "rows": rows if first is None or last is None else last - first + 1,
        "first_trade_id": first,
        "last_trade_id": last,
        "rows_before_first_id": without_ids,
        "rows_after_last_id": without_ids,
        "unconfirmed_id_gaps": unconfirmed,
    }


def csv(rows: int) -> dict[str, Any]:
    """Imported trades."""
    return api(None, None, rows=rows) | {"source": "csv"}


def found(
    *segments: dict[str, Any],
    after: int = 7,
    confirmed_id_gaps: tuple[tuple[int, int], ...] = (),
    newest_id: int = 0,
) -> list[tuple[object, ...]]:
    """The wrong counts of segments that follow one another, the first one behind a time."""
    confirmed = tuple(IdPair(*id_gap) for id_gap in confirmed_id_gaps)
    bounds = pairwise(range(after, after + 10 * len(segments) + 1, 10))
    footers = [
        Footer(Range(*ends), "", confirmed_id_gaps=confirmed, **fields)
        for fields, ends in zip(segments, bounds, strict=True)
    ]
    return [
        (count.sides, count.imported, count.expected, count.is_proved)
        for count in wrong_counts(footers, newest_id)
    ]


LEFT, RIGHT = api(1, 10), api(21, 30)


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        (10, []),
        (9, [((10, 21), 9, 10, True)]),
        (11, [((10, 21), 11, 10, True)]),
        (0, [((10, 21), 0, 10, True)]),
    ],
)
def test_imported_trades_are_as_many_as_the_ids_between(rows: int, wrong: list[object]) -> None:
    assert found(LEFT, csv(rows), RIGHT) == wrong
    assert found(LEFT, csv(rows // 2), csv(rows - rows // 2), RIGHT) == wrong


def test_confirmed_id_gaps_are_counted() -> None:
    assert found(LEFT, csv(7), RIGHT, confirmed_id_gaps=((12, 16),)) == []
    assert found(LEFT, csv(8), RIGHT, confirmed_id_gaps=((12, 16),)) == [((10, 21), 8, 7, True)]
    assert found(LEFT, csv(3), RIGHT, confirmed_id_gaps=((10, 21),)) == []
    assert found(LEFT, csv(7), RIGHT, confirmed_id_gaps=((30, 34),)) == [((10, 21), 7, 10, True)]


def test_coverage_from_the_beginning_continues_id_0() -> None:
    assert found(csv(20), RIGHT, after=0) == []
    assert found(csv(19), RIGHT, after=0) == [((0, 21), 19, 20, True)]
    assert found(csv(21), RIGHT, after=0) == [((0, 21), 21, 20, True)]
    assert found(csv(13), RIGHT, after=0, confirmed_id_gaps=((0, 8),)) == []
    assert found(csv(19), RIGHT) == []


def test_behind_the_last_download_they_are_as_many_as_ids_up_to_the_newest() -> None:
    assert found(LEFT, csv(10), newest_id=20) == []
    assert found(LEFT, csv(9), newest_id=20) == [((10, 21), 0, 10, True)]
    assert found(csv(20), after=0, newest_id=20) == []
    assert found(csv(17), after=0, newest_id=20) == [((0, 21), 0, 20, True)]
    assert found(csv(17), after=0, newest_id=20, confirmed_id_gaps=((0, 4),)) == []


def test_trades_behind_the_newest_that_is_known_are_not_too_many() -> None:
    assert found(LEFT, csv(12), newest_id=20) == []
    assert found(LEFT, csv(10), api(21, 30), newest_id=25) == []
    assert found(csv(19), after=0, newest_id=20, confirmed_id_gaps=((0, 4),)) == []
    assert found(LEFT, newest_id=10) == []
    assert found(LEFT, newest_id=12) == []
    assert found(LEFT, numbered(11, 15), newest_id=15) == []
    assert found(LEFT, numbered(11, 15), newest_id=18) == [((15, 19), 0, 3, True)]
    assert found(csv(17), newest_id=20) == []


def test_trades_that_the_exchange_shows_without_an_id_are_never_too_many() -> None:
    without_ids = api(None, None, rows=5)
    assert found(LEFT, csv(5), without_ids, RIGHT) == []
    assert found(LEFT, csv(8), without_ids, RIGHT) == []
    assert found(LEFT, csv(4), without_ids, RIGHT) == [((10, 21), 4, 10, True)]
    assert found(without_ids, csv(5), RIGHT, after=0) == []


def test_downloaded_trades_alone_are_not_counted_here() -> None:
    assert found(LEFT, api(None, None, rows=3), RIGHT) == []
    assert found(LEFT, RIGHT) == []


def test_where_ids_skip_all_the_time_too_few_trades_prove_nothing() -> None:
    skipping = api(21, 30, unconfirmed=3)
    assert found(LEFT, csv(9), skipping) == [((10, 21), 9, 10, False)]
    assert found(LEFT, csv(11), skipping) == [((10, 21), 11, 10, True)]


def test_a_few_id_gaps_that_were_not_confirmed_prove_no_skipping() -> None:
    """The exchange may have answered badly for a while."""
    assert found(LEFT, csv(9), api(21, 1_020, unconfirmed=3)) == [((10, 21), 9, 10, True)]


def numbered(first: int, last: int, **fields: Any) -> dict[str, Any]:
    """Imported trades with ids."""
    return api(first, last) | {"source": "csv"} | fields


def test_no_id_is_missing_where_imported_trades_meet_others() -> None:
    assert found(LEFT, numbered(11, 20), RIGHT) == []
    assert found(LEFT, numbered(13, 20), RIGHT) == [((10, 13), 0, 2, True)]
    assert found(LEFT, numbered(11, 15), RIGHT) == [((15, 21), 0, 5, True)]
    assert found(LEFT, numbered(11, 15), numbered(18, 20), RIGHT) == [((15, 18), 0, 2, True)]
    assert found(numbered(3, 20), RIGHT, after=0) == [((0, 3), 0, 2, True)]
    assert found(LEFT, numbered(11, 15), RIGHT, confirmed_id_gaps=((15, 21),)) == []


def test_ids_that_are_on_record_as_skipped_beside_imported_trades_prove_nothing() -> None:
    skipped = numbered(11, 15, id_gaps_across_imports=((15, 21),))
    assert found(LEFT, skipped, RIGHT) == [((15, 21), 0, 5, False)]
    assert found(LEFT, numbered(11, 15), api(21, 30, unconfirmed=3)) == [((15, 21), 0, 5, False)]


def test_nothing_is_known_across_a_gap_in_coverage() -> None:
    left = Footer(Range(0, 10), "", first_trade_id=1, last_trade_id=10, rows=10)
    imported = Footer(
        Range(11, 20), "", "csv", rows=1, rows_before_first_id=1, rows_after_last_id=1
    )
    right = Footer(Range(20, 30), "", first_trade_id=21, last_trade_id=30, rows=10)
    assert wrong_counts([left, imported, right]) == []
