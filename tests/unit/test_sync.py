"""Which objects a sync may delete, by what checksum it knows a file, and the extra it needs."""

from __future__ import annotations

import hashlib
import io
import sys
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollup_cases import busy_archive

import harvester
from harvester.errors import UsageError, not_installed
from harvester.events import CancelToken
from harvester.operations.sync import PART_BYTES, _Sync, choose_deletions, find_cut, md5_tags
from harvester.storage.filesystem import Entry
from harvester.storage.segment import parse_path
from harvester.times import SECOND, union

NOW_NS = 2_000 * SECOND


def segment(after: int, through: int, ending: str = "", pair: str = "XBTUSD") -> str:
    name = f"{after * SECOND:019d}-{through * SECOND:019d}{ending}.parquet"
    return f"trades/pair={pair}/year=1970/{name}"


def rollup(path: str) -> str:
    return path.replace("trades/", "candles/interval=1h/")


def deletions(
    objects: dict[str, int], local: set[str], now_s: int = 2_000
) -> tuple[list[str], list[str]]:
    """The choice for objects by the second in which each was written."""
    entries = [Entry(path, 1, written_s * SECOND) for path, written_s in objects.items()]
    return choose_deletions(entries, local, now_s * SECOND)


A, B, AB = segment(0, 10), segment(10, 20), segment(0, 20)


def test_what_was_merged_is_deleted_roll_ups_first() -> None:
    objects = {path: 1 for name in (A, B) for path in (name, rollup(name))}
    objects |= {AB: 2, rollup(AB): 2}
    assert deletions(objects, {AB, rollup(AB)}) == ([rollup(A), rollup(B), A, B], [])


def test_what_was_written_in_the_same_second_is_deleted_if_it_is_read_later() -> None:
    assert deletions({A: 1, B: 1, AB: 1}, {AB}) == ([A, B], [])
    assert deletions({A: 1, B: 1, AB: 1}, {A, B}) == ([], [AB])


def test_an_imported_segment_is_deleted_once_downloaded_segments_cover_it() -> None:
    imported = segment(0, 20, ".csv")
    assert deletions({imported: 1, A: 2, B: 2}, {A, B}) == ([imported], [])
    assert deletions({imported: 1, A: 2}, {A}) == ([], [imported])


def test_a_segment_written_later_is_not_replaced() -> None:
    assert deletions({AB: 1, A: 2}, {AB}) == ([], [A])


def test_a_range_that_became_a_gap_stays() -> None:
    parts = (segment(0, 10), segment(15, 20))
    assert deletions({AB: 1, parts[0]: 2, parts[1]: 2}, set(parts)) == ([], [AB])


def test_a_range_in_the_future_counts_up_to_the_end_of_coverage() -> None:
    future = segment(0, 1_000_000)
    assert deletions({future: 1, AB: 2}, {AB}, now_s=100) == ([future], [])
    assert deletions({future: 1, AB: 2}, {AB}, now_s=2_000_000) == ([], [future])


@pytest.mark.parametrize("after", [0, 10, 30])
def test_a_range_in_the_future_stays_if_it_was_written_after_the_end_of_coverage(
    after: int,
) -> None:
    """Until it was written, by the store's clock, it may have trades that the archive lacks."""
    future = segment(after, 1_000_000)
    assert deletions({future: 50, A: 60}, {A}, now_s=100) == ([], [future])
    past = segment(after, 200_000)
    assert deletions({past: 200_050, A: 200_060}, {A}, now_s=100) == ([], [past])


IMPORTED = segment(10, 30, ".csv")


@pytest.mark.parametrize(
    ("objects", "local", "found"),
    [
        ({IMPORTED: 1}, {AB}, (AB, IMPORTED)),
        ({AB: 1}, {IMPORTED}, (AB, IMPORTED)),
        # An imported segment ends where it has no trades nearby; so does what is read behind it.
        ({IMPORTED: 1}, {segment(20, 40)}, None),
        ({IMPORTED: 1}, {segment(0, 20, ".csv")}, None),
        ({IMPORTED: 1}, {segment(20, 25)}, None),
        ({IMPORTED: 1}, {AB, segment(20, 30)}, None),
        ({segment(10, 30): 1}, {AB}, None),
        ({segment(10, 30, ".csv", "ETHEUR"): 1}, {AB}, None),
    ],
)
def test_an_imported_segment_is_not_cut_by_a_downloaded_one(
    objects: dict[str, int], local: set[str], found: tuple[str, str] | None
) -> None:
    expected = [Entry(path, 1, at * SECOND) for path, at in objects.items()]
    expected += [Entry(path, 1, 9 * SECOND) for path in local]
    assert find_cut(expected, choose_deletions(expected, local, NOW_NS)[0]) == found


def test_other_pairs_and_other_files_stay() -> None:
    other = segment(0, 10, pair="ETHEUR")
    objects = {other: 1, rollup(other): 1, "notes.txt": 1, "trades/pair=XBTUSD/a.parquet": 1, AB: 2}
    assert deletions(objects, {AB}) == ([], [other])


def test_a_roll_up_that_the_archive_lacks_stays_while_its_segment_does() -> None:
    assert deletions({AB: 1, rollup(AB): 1}, {AB}) == ([], [])


SEGMENTS = st.sampled_from(
    [
        segment(after, through, ending)
        for after, through in combinations(range(6), 2)
        for ending in ("", ".csv")
    ]
)


@settings(deadline=None)
@given(
    st.dictionaries(SEGMENTS, st.integers(0, 3), min_size=1),
    st.lists(st.tuples(st.sets(SEGMENTS), st.sets(SEGMENTS)), min_size=2, max_size=3),
)
def test_several_syncs_at_once_never_delete_the_last_that_has_a_range(
    objects: dict[str, int], syncs: list[tuple[set[str], set[str]]]
) -> None:
    """Each sync has its own archive, and an older or newer listing of the store than the others."""
    deleted: set[str] = set()
    for local, unlisted in syncs:
        listing = {path: at for path, at in objects.items() if path not in unlisted}
        deleted |= set(deletions(listing, local & set(listing))[0])
    assert coverage(set(objects) - deleted) == coverage(objects)


def coverage(paths: object) -> object:
    assert isinstance(paths, set | dict)
    segments = [parse_path(path, 1) for path in paths]
    return union(found.range for found in segments if found)


class EmptyStore:
    """An object store that has nothing."""

    url = "s3://bucket"

    def objects(self, _prefix: str) -> list[Entry]:
        return []


def test_a_dry_run_that_lists_the_archive_again_counts_each_file_once(tmp_path: Path) -> None:
    archive = busy_archive(tmp_path)
    remote = cast("Any", EmptyStore())
    run = _Sync(archive, remote, lambda _: None, CancelToken(), is_dry=True)
    run.run()
    paths = {file.path for file in run.uploaded}
    run.run()
    assert sorted(file.path for file in run.uploaded) == sorted(paths) != []


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1])
def test_etags_are_those_of_s3(size: int) -> None:
    content = bytes(size)
    [whole] = {tag for tag in md5_tags(io.BytesIO(content)) if "-" not in tag}
    assert whole == hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_the_etag_of_two_parts_is_the_checksum_of_their_checksums() -> None:
    parts = [hashlib.md5(bytes(size), usedforsecurity=False).digest() for size in (PART_BYTES, 1)]
    expected = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    assert f"{expected}-2" in md5_tags(io.BytesIO(bytes(PART_BYTES + 1)))


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "harvester.storage.object_store", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UsageError) as caught:
        harvester.open("s3://bucket/kraken")
    need = "an archive in an object store needs obstore and fsspec"
    assert str(caught.value) == str(not_installed(need, "obstore", "fsspec"))
