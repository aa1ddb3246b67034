"""Which segments are merged: touching ones of one year, as many as a file takes, if worth it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.storage.compaction import LARGEST_ROWS, is_within, plan_merges
from harvester.storage.segment import Segment
from harvester.times import Range


def laid_out(parts: list[tuple[int, int, int]]) -> tuple[list[Segment], dict[Segment, int]]:
    """Segments in order from (gap before, year's turn before, rows), and the rows of each."""
    made: list[Segment] = []
    rows: dict[Segment, int] = {}
    at, year = 0, 2019
    for gap, turn, count in parts:
        after = at + gap
        year += turn
        segment = Segment("A", year, Range(after, after + 10), f"{after}", 1)
        made.append(segment)
        rows[segment] = count
        at = after + 10
    return made, rows


PARTS = st.lists(
    st.tuples(
        st.sampled_from((0, 0, 0, 5)),
        st.sampled_from((0, 0, 0, 0, 1)),
        st.sampled_from((0, 1, 1000, 250_000, 900_000, 2_000_000, 4_000_000)),
    ),
    max_size=20,
)


@settings(deadline=None)
@given(PARTS)
def test_only_neighbours_that_touch_in_one_year_are_merged(
    parts: list[tuple[int, int, int]],
) -> None:
    segments, rows = laid_out(parts)
    for run in plan_merges(segments, rows.__getitem__, merge_all=True):
        assert all(segment.range.through == other.range.after for segment, other in pairwise(run))
        assert len({segment.year for segment in run}) == 1


@settings(deadline=None)
@given(PARTS)
def test_no_merged_file_has_more_rows_than_the_limit(parts: list[tuple[int, int, int]]) -> None:
    segments, rows = laid_out(parts)
    for run in plan_merges(segments, rows.__getitem__, merge_all=True):
        assert sum(rows[segment] for segment in run) <= LARGEST_ROWS


@settings(deadline=None)
@given(PARTS, st.booleans())
def test_no_segment_is_merged_twice_and_none_alone(
    parts: list[tuple[int, int, int]], merge_all: bool
) -> None:
    segments, rows = laid_out(parts)
    runs = plan_merges(segments, rows.__getitem__, merge_all=merge_all)
    merged = [segment for run in runs for segment in run]
    assert merged == [segment for segment in segments if segment in merged]
    assert all(len(run) > 1 for run in runs)


@settings(deadline=None)
@given(PARTS)
def test_what_was_merged_is_not_merged_again(parts: list[tuple[int, int, int]]) -> None:
    segments, rows = laid_out(parts)
    wide: dict[Segment, int] = {}
    runs = plan_merges(segments, rows.__getitem__, merge_all=True)
    first = {run[0]: run for run in runs}
    inner = {later for run in runs for later in run[1:]}
    for segment in segments:
        if segment in first:
            span = Range(segment.range.after, first[segment][-1].range.through)
            wide[segment._replace(range=span)] = sum(rows[part] for part in first[segment])
        elif segment not in inner:
            wide[segment] = rows[segment]
    assert plan_merges(wide, wide.__getitem__, merge_all=True) == []


def test_without_neighbours_nothing_is_merged() -> None:
    segments, rows = laid_out([(0, 0, 10), (5, 0, 10), (5, 0, 10)])
    assert plan_merges(segments, rows.__getitem__, merge_all=True) == []


def test_a_large_file_is_not_written_again_for_a_trifle() -> None:
    segments, rows = laid_out([(0, 0, 1_000_000), (0, 0, 1000)])
    assert plan_merges(segments, rows.__getitem__) == []
    assert plan_merges(segments, rows.__getitem__, merge_all=True) == [segments]


def test_a_large_file_is_written_again_for_as_much_as_it_holds() -> None:
    almost, rows = laid_out([(0, 0, 800_000), (0, 0, 799_999)])
    assert plan_merges(almost, rows.__getitem__) == []
    segments, rows = laid_out([(0, 0, 800_000), (0, 0, 800_000)])
    assert plan_merges(segments, rows.__getitem__) == [segments]


def test_small_files_behind_a_large_one_are_merged_without_it() -> None:
    segments, rows = laid_out([(0, 0, 1_000_000), *[(0, 0, 1)] * 8])
    assert plan_merges(segments, rows.__getitem__) == [segments[1:]]


def test_small_files_in_front_of_a_large_one_are_merged_without_it() -> None:
    segments, rows = laid_out([*[(0, 0, 1)] * 8, (0, 0, 1_000_000)])
    assert plan_merges(segments, rows.__getitem__) == [segments[:-1]]


def test_a_year_that_is_over_is_merged_as_far_as_can_be() -> None:
    segments, rows = laid_out([(0, 0, 900_000), (0, 0, 400_000), (0, 1, 900_000), (0, 0, 400_000)])
    assert plan_merges(segments, rows.__getitem__) == []
    assert plan_merges(segments, rows.__getitem__, merge_past_years=True) == [segments[:2]]


def merged_nightly(nights: list[int]) -> tuple[list[int], int, int]:
    """Add a segment a night, and merge: the rows of each file, the most files, all rows written."""
    files, written, most = [], 0, 0
    for count in nights:
        files.append(count)
        segments, rows = laid_out([(0, 0, file) for file in files])
        for run in reversed(plan_merges(segments, rows.__getitem__)):
            first, total = segments.index(run[0]), sum(rows[segment] for segment in run)
            files[first : first + len(run)] = [total]
            written += total
        most = max(most, len(files))
    return files, most, written


@pytest.mark.parametrize(
    ("nights", "most_files", "most_written"),
    [
        pytest.param([30_000] * 365, 8, 4, id="30,000 trades a day"),
        pytest.param([30_000 * (1 + n % 7) // 4 for n in range(365)], 10, 5, id="uneven days"),
        pytest.param([1_000] * 365, 9, 5, id="1,000 trades a day"),
        pytest.param([30_000] * 3_000, 30, 4, id="one long download"),
    ],
)
def test_over_a_year_of_nights_files_stay_few_and_rows_are_seldom_written_again(
    nights: list[int], most_files: int, most_written: int
) -> None:
    files, most, written = merged_nightly(nights)
    assert sum(files) == sum(nights)
    assert most <= most_files
    assert written <= most_written * sum(nights)


def test_of_a_year_of_quiet_nights_two_files_stay() -> None:
    files, most, _ = merged_nightly([n % 12 for n in range(365)])
    assert sum(files) == sum(n % 12 for n in range(365))
    assert most <= 2


def test_segments_of_no_rows_are_merged_too() -> None:
    segments, rows = laid_out([(0, 0, 0), (0, 0, 0)])
    assert plan_merges(segments, rows.__getitem__) == [segments]


def test_a_range_lies_within_itself_and_what_is_wider() -> None:
    assert is_within(Range(5, 9), Range(5, 9))
    assert is_within(Range(5, 9), Range(0, 10))
    assert not is_within(Range(5, 11), Range(0, 10))
    assert not is_within(Range(4, 9), Range(5, 10))
