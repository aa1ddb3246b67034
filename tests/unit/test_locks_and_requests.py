"""The small files beside the segments: written whole, merged, and damage in them is an error."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.errors import ArchiveDamaged, ArchiveTooNew
from harvester.storage import locks_and_requests
from harvester.storage.filesystem import LocalStore
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store that has nothing on disk yet."""
    return LocalStore(tmp_path / "data")


# The mark.


def test_an_archive_is_marked_with_its_format_once(store: LocalStore) -> None:
    locks_and_requests.write_format_file(store, "XBTUSD")
    first = (store.root / "archive.json").stat()
    locks_and_requests.write_format_file(store, "XBTUSD")
    assert json.loads((store.root / "archive.json").read_text()) == {
        "format": 1,
        "made_by": "harvester",
    }
    assert (store.root / "archive.json").stat().st_ino == first.st_ino


def test_a_folder_without_a_mark_is_a_new_archive(tmp_path: Path) -> None:
    assert TradeStore(tmp_path / "data").stored_pairs() == []


def test_a_newer_format_is_refused(store: LocalStore) -> None:
    store.write("archive.json", b'{"format":2}', "A")
    with pytest.raises(ArchiveTooNew) as caught:
        TradeStore(store.root)
    assert str(caught.value) == (
        f"the archive at {store.root} has format 2, this harvester reads up to 1: "
        "install a newer one"
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b'{"format":"1"}',
        b"\xff",
        b'{"format":1',
        b'{"\xff":1}',
        pytest.param(b'{"x":' + b"[" * 100_000, id="nested"),
    ],
)
def test_a_mark_that_cannot_be_read_is_damage(store: LocalStore, raw: bytes) -> None:
    store.write("archive.json", raw, "A")
    with pytest.raises(ArchiveDamaged) as caught:
        TradeStore(store.root)
    assert re.fullmatch(
        re.escape(f"{store.root}/archive.json can't be read (")
        + r".+"
        + re.escape(
            "): if the segments are sound, remove it; the next run writes it again",
        ),
        str(caught.value),
    )


class Interleaved(LocalStore):
    """A store in which another run marks the archive between staging and commit."""

    def commit(self, staged: str, path: str) -> None:
        locks_and_requests.write_format_file(LocalStore(self.root), "ETHUSD")
        super().commit(staged, path)


def test_two_runs_may_mark_a_new_archive_at_once(store: LocalStore) -> None:
    locks_and_requests.write_format_file(Interleaved(store.root), "XBTUSD")
    assert json.loads((store.root / "archive.json").read_text())["format"] == 1


# What was wanted.


def record_requested(store: LocalStore, pair: str, requested: Range) -> None:
    with open_writer(TradeStore(store.root), pair) as writer:
        writer.record_requested(requested)


def test_a_pair_without_requests_has_no_requested_ranges(store: LocalStore) -> None:
    assert locks_and_requests.read_requests(store, "XBTUSD").ranges == []


def test_requested_ranges_are_the_union_of_all_requests(store: LocalStore) -> None:
    for span in (Range(50, 60), Range(0, 10), Range(10, 20), Range(55, 70)):
        record_requested(store, "XBTUSD", span)
    assert locks_and_requests.read_requests(store, "XBTUSD").ranges == [Range(0, 20), Range(50, 70)]


SPANS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 8)).map(lambda p: Range(p[0], p[0] + p[1])),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=30)
@given(SPANS)
def test_no_moment_ever_wanted_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, spans: list[Range]
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("wanted"))
    for span in spans:
        record_requested(store, "A", span)
    moments = {at for wanted in spans for at in range(wanted.after + 1, wanted.through + 1)}
    found = locks_and_requests.read_requests(store, "A").ranges
    assert {at for wanted in found for at in range(wanted.after + 1, wanted.through + 1)} == moments


def test_what_is_wanted_already_is_not_written_again(store: LocalStore) -> None:
    record_requested(store, "XBTUSD", Range(0, 10))
    before = (store.root / "wanted/XBTUSD.json").stat().st_ino
    record_requested(store, "XBTUSD", Range(2, 8))
    assert (store.root / "wanted/XBTUSD.json").stat().st_ino == before


def test_pairs_are_wanted_apart(store: LocalStore) -> None:
    record_requested(store, "XBTUSD", Range(0, 10))
    assert locks_and_requests.read_requests(store, "ETHUSD").ranges == []


def test_what_was_wanted_stands_in_a_file_that_people_can_read(store: LocalStore) -> None:
    record_requested(store, "XBTUSD", Range(0, 10))
    assert json.loads((store.root / "wanted/XBTUSD.json").read_text()) == {
        "pair": "XBTUSD",
        "spans": [[0, 10]],
    }


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", ".+"),
        (b"[]", ".+"),
        (b'{"pair":"A","spans":[[1]]}', ".+"),
        (b'{"pair":"\xff"}', ".+"),
        (b'{"pair":"ETHUSD","spans":[[0,9]]}', "it is of pair 'ETHUSD', its name says 'XBTUSD'"),
        (b'{"pair":"xbtusd","spans":[[0,9]]}', "it is of pair 'xbtusd', its name says 'XBTUSD'"),
        (
            b'{"pair":"XBTUSD","spans":[[0,9],[20,10]]}',
            r"the range \[20, 10\] is impossible: its end is not after its start",
        ),
        (
            b'{"pair":"XBTUSD","spans":[[5,5]]}',
            r"the range \[5, 5\] is impossible: its end is not after its start",
        ),
        (
            b'{"pair":"XBTUSD","spans":[[-1,9]]}',
            r"the range \[-1, 9\] is impossible: its start is below 0",
        ),
        (
            b'{"pair":"XBTUSD","spans":[[0,9223372036854775808]]}',
            r"the range \[0, 9223372036854775808\] is impossible: "
            "it ends after the last nanosecond",
        ),
    ],
)
def test_spans_that_cannot_be_right_are_damage(store: LocalStore, raw: bytes, why: str) -> None:
    store.write("wanted/XBTUSD.json", raw, "A")
    with pytest.raises(ArchiveDamaged) as caught:
        locks_and_requests.read_requests(store, "XBTUSD")
    assert re.fullmatch(
        re.escape(f"{store.root}/wanted/XBTUSD.json can't be read (")
        + why
        + re.escape(
            "): `harvester verify XBTUSD --repair` writes it again, as does the next run once it "
            "is removed: then everything from the first segment to the last counts as requested"
        ),
        str(caught.value),
    )


def test_ranges_that_were_put_in_another_order_by_hand_count(store: LocalStore) -> None:
    store.write("wanted/XBTUSD.json", b'{"pair":"XBTUSD","spans":[[50,60],[0,10],[5,20]]}', "A")
    assert locks_and_requests.read_requests(store, "XBTUSD").ranges == [Range(0, 20), Range(50, 60)]


# Names.


def test_what_names_are_resolved_with_is_kept(store: LocalStore) -> None:
    assert store.read("pairs.json") is None
    locks_and_requests.store_pairs(store, b'{"XBTUSD":{"altname":"XBTUSD"}}')
    assert json.loads(store.read("pairs.json") or b"") == {"XBTUSD": {"altname": "XBTUSD"}}
    assert store.files("staging") == []
