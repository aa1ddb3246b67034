"""Which files a repair moves, and which ranges it requests: by reports made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harvester.storage.filesystem import LocalStore
from harvester.storage.parquet_files import read_unverified_footer
from harvester.storage.segment import Footer, Segment
from harvester.times import Range
from harvester.verify import repair
from harvester.verify.repair import (
    BrokenFile,
    expected_ranges,
    plan_repair,
    ranges_of_files,
)
from harvester.verify.reports import Fault, PairReport

PAIR = "XBTUSD"
BTC, ETH = '{"altname": "XBTUSD"}', '{"altname": "ETHUSD"}'


def segment(after: int, through: int) -> Segment:
    path = f"trades/pair={PAIR}/year=1970/{after:019d}-{through:019d}.parquet"
    return Segment(PAIR, 1970, Range(after, through), path, 1)


A, B, C = segment(0, 10), segment(10, 20), segment(20, 30)


STORE = LocalStore("never read")


@pytest.fixture(autouse=True)
def disagreeing(monkeypatch: pytest.MonkeyPatch) -> set[tuple[Segment, Segment]]:
    """Footers agree with names, and the rows of files but for those of these pairs."""
    pairs: set[tuple[Segment, Segment]] = set()

    def footer(_store: LocalStore, path: str) -> Footer:
        return Footer(Range(*map(int, Path(path).stem.split("-"))), BTC)

    def have_equal_rows(_store: LocalStore, first: Segment, second: Segment) -> bool:
        return (first, second) not in pairs

    monkeypatch.setattr(repair, "read_unverified_footer", footer)
    monkeypatch.setattr(repair, "_have_equal_rows", have_equal_rows)
    return pairs


def report(*faults: Fault) -> PairReport:
    return PairReport(PAIR, faults=list(faults))


def wrong(segment: Segment, text: str = "odd", other: Segment | None = None) -> Fault:
    return Fault(PAIR, segment.range, segment.path, text, other and other.path)


def paths(found: list[BrokenFile]) -> list[str]:
    return [broken.path for broken in found]


def test_without_faults_no_file_is_moved() -> None:
    assert plan_repair(report(), [A, B], STORE) == []


def test_a_missing_file_can_not_be_moved() -> None:
    assert plan_repair(report(Fault(PAIR, B.range, None, "lost")), [A], STORE) == []


def test_a_broken_file_is_moved_once_with_all_its_faults() -> None:
    found = plan_repair(report(wrong(B, "one"), wrong(B, "two")), [A, B], STORE)
    assert found == [BrokenFile(B.path, B.range, ("one", "two"), (B.range,))]


def test_overlaps_are_judged_without_the_broken_files(disagreeing: Any) -> None:
    wide = segment(0, 25)
    faults = [wrong(wide), wrong(C, "overlap", wide)]
    disagreeing.add((wide, C))
    assert paths(plan_repair(report(*faults), [wide, C], STORE)) == [wide.path]


def test_of_sound_overlapping_files_the_later_is_moved() -> None:
    later, last = segment(5, 15), segment(12, 30)
    faults = [wrong(later, "overlap", A), wrong(last, "overlap", later)]
    # Once the one in the middle is gone, the others do not overlap.
    assert paths(plan_repair(report(*faults), [A, later, last], STORE)) == [later.path]


def test_a_file_inside_another_with_the_same_rows_is_left_for_the_sweep() -> None:
    inner = segment(2, 8)
    assert plan_repair(report(wrong(inner, "overlap", A)), [A, inner], STORE) == []


@pytest.mark.parametrize("other", [segment(2, 8), segment(5, 15)], ids=["inside", "in part"])
def test_of_overlapping_files_with_different_rows_both_are_moved(
    other: Segment, disagreeing: Any
) -> None:
    disagreeing.add((A, other))
    found = plan_repair(report(wrong(other, "overlap", A)), [A, other], STORE)
    assert {broken.path: broken.faults for broken in found} == {
        A.path: (f"it overlaps with {other.path}, which has other trades",),
        other.path: (f"it overlaps with {A.path}, which has other trades",),
    }


def test_sound_files_between_whose_ids_others_are_missing_stay() -> None:
    seam = Fault(PAIR, Range(0, 20), B.path, "ids skip", A.path, Range(9, 11))
    assert paths(plan_repair(report(seam), [A, B, C], STORE)) == []
    assert paths(plan_repair(report(seam, wrong(C)), [A, B, C], STORE)) == [C.path]


def test_a_broken_rollup_is_moved_and_no_range_is_requested() -> None:
    path = A.path.replace("trades/", "candles/interval=1m/")
    found = plan_repair(report(Fault(PAIR, A.range, path, "altered")), [A], STORE)
    assert found == [BrokenFile(path, A.range, ("altered",))]


def test_an_unreadable_record_of_requested_ranges_is_moved_first() -> None:
    path = f"wanted/{PAIR}.json"
    faults = [wrong(A), Fault(PAIR, A.range, "candles/x", "odd"), Fault(PAIR, A.range, path, "odd")]
    assert paths(plan_repair(report(*faults), [A], STORE)) == [
        path,
        "candles/x",
        A.path,
    ]


def test_files_of_an_unknown_kind_are_not_moved() -> None:
    assert plan_repair(report(Fault(PAIR, A.range, "pairs.json", "odd")), [A], STORE) == []


# --- expected ranges ------------------------------------------------------------------------------

NAME = Range(100, 200)


@pytest.mark.parametrize(
    ("footer_range", "bounds", "spans"),
    [
        (NAME, (101, 200), [NAME]),
        (Range(100, 150), (101, 150), [Range(100, 150)]),
        (Range(100, 150), None, [Range(100, 150)]),
        (Range(90, 200), (95, 200), [Range(90, 200)]),
        (Range(95, 195), (100, 195), [Range(95, 195)]),
        (Range(200, 300), (101, 200), [NAME]),
        (Range(200, 300), (201, 300), [Range(200, 300)]),
        (Range(200, 300), (150, 250), [NAME, Range(200, 300)]),
        (Range(200, 300), None, [NAME]),
    ],
    ids=[
        "both the same",
        "renamed wider",
        "renamed wider, and empty",
        "renamed narrower",
        "shifted",
        "footer swapped",
        "renamed to a range elsewhere",
        "rows that fit neither",
        "an empty one whose footer was swapped",
    ],
)
def test_the_times_of_the_rows_decide_between_name_and_footer(
    footer_range: Range, bounds: tuple[int, int] | None, spans: list[Range]
) -> None:
    assert expected_ranges(segment(*NAME), Footer(footer_range, BTC, bounds=bounds)) == (
        tuple(spans),
        False,
    )


def test_without_a_footer_the_expected_range_is_guessed_from_the_file_name() -> None:
    for nothing in (None, Footer(Range(7, 7), BTC)):
        assert expected_ranges(segment(*NAME), nothing) == ((NAME,), True)


def test_no_range_is_expected_of_a_file_of_another_pair() -> None:
    assert expected_ranges(segment(*NAME), Footer(NAME, ETH, bounds=(101, 200))) == (
        (),
        False,
    )


def test_a_footer_that_names_no_pair_is_believed_all_the_same() -> None:
    assert expected_ranges(segment(*NAME), Footer(NAME, "{", bounds=(101, 200))) == (
        (NAME,),
        False,
    )


@pytest.mark.parametrize(
    ("is_guess", "limit_ns", "spans"),
    [(True, 150, (Range(100, 150),)), (True, 100, ()), (True, 500, (NAME,)), (False, 150, (NAME,))],
)
def test_only_a_guess_ends_where_time_does(
    is_guess: bool, limit_ns: int, spans: tuple[Range, ...]
) -> None:
    broken = BrokenFile("x", NAME, (), (NAME,), is_guess)
    assert broken.limited_to(limit_ns).refetch == spans


def test_requested_ranges_are_those_of_sound_files_and_expected_of_broken_files() -> None:
    broken = [
        BrokenFile(B.path, B.range, (), (Range(10, 15),)),
        BrokenFile("candles/x", A.range, ()),
    ]
    assert ranges_of_files([A, B, C], broken) == [Range(0, 15), Range(20, 30)]


# --- what a file still says ----------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"PAR1", b"no Parquet at all"])
def test_a_file_that_is_no_segment_has_no_footer(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(body)
    assert read_unverified_footer(LocalStore(tmp_path), "x.parquet") is None
