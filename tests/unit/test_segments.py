"""A segment is one Parquet file that any reader reads, and its footer describes it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sample_trades
from corruption import TYPE_OF_TIME_CHANGED, replace_bytes
from kraken_market import Market, expected
from segment_rows import batch, checksum

from harvester.errors import ArchiveDamaged, ArchiveError, ArchiveTooNew, ArchiveUnwritable
from harvester.schema import SEGMENT_SCHEMA
from harvester.storage import parquet_files as module
from harvester.storage.filesystem import LocalStore
from harvester.storage.parquet_files import (
    read_batches,
    read_footer,
    read_unverified_footer,
    stage_segment,
)
from harvester.storage.segment import Footer, IdPair, Segment, parse_path, segment_path
from harvester.times import Range

AFTER, THROUGH = 1_559_347_199_999_999_999, 1_561_939_199_999_999_999


def written(
    root: Path, rows: list[Any], footer: Footer | None = None
) -> tuple[LocalStore, str, Footer]:
    """A segment staged, and where."""
    store = LocalStore(root)
    given = footer or Footer(Range(0, 2**62), '{"altname":"XBTUSD"}')
    staged, full = stage_segment(store, "XBTUSD", [batch(rows)] if rows else [], given)
    return store, staged, full


def read_back(store: LocalStore, path: str, within: Range | None = None) -> list[Any]:
    """The rows of a segment as tuples."""
    found = []
    for read_batch in read_batches(store, path, within):
        stamps = [value.value for value in read_batch.column("time")]
        for row, stamp in zip(read_batch.to_pylist(), stamps, strict=True):
            found.append(tuple({**row, "time": stamp}[name] for name in SEGMENT_SCHEMA.names))
    return found


def test_a_file_is_the_same_however_its_rows_came_in_batches(tmp_path: Path) -> None:
    rows = expected(Market(trades=sample_trades.xbtusd_like(500, 1)))
    whole = batch(rows)
    store = LocalStore(tmp_path)
    note = Footer(Range(0, 2**62), '{"altname":"XBTUSD"}')
    files = []
    for parts in ([whole], [whole.slice(at, 7) for at in range(0, 500, 7)]):
        staged, _ = stage_segment(store, "XBTUSD", parts, note)
        files.append((tmp_path / staged).read_bytes())
    assert files[0] == files[1]


def test_words_of_batches_with_other_dictionaries_stay_dictionaries(tmp_path: Path) -> None:
    rows = expected(Market(trades=sample_trades.xbtusd_like(60, 1)))
    parts = [batch([row]) for row in rows]
    assert not parts[0].column("side").dictionary.equals(batch(rows).column("side").dictionary)
    store = LocalStore(tmp_path)
    note = Footer(Range(0, 2**62), "{}")
    files = [stage_segment(store, "XBTUSD", given, note)[0] for given in (parts, [batch(rows)])]
    assert (tmp_path / files[0]).read_bytes() == (tmp_path / files[1]).read_bytes()


# Names.


def test_a_name_is_its_range_in_the_year_of_its_rows() -> None:
    assert segment_path("XBTUSD", Range(AFTER, THROUGH), sample_trades.utc_ns(2019, 6, 2)) == (
        "trades/pair=XBTUSD/year=2019/1559347199999999999-1561939199999999999.parquet"
    )


def test_an_empty_segment_lies_in_the_year_of_its_end() -> None:
    through = sample_trades.utc_ns(2020, 1, 1)
    path = segment_path("A", Range(0, through), None)
    assert path.startswith("trades/pair=A/year=2020/0000000000")


def test_a_name_is_read_back() -> None:
    path = segment_path("XBTUSD.d", Range(5, THROUGH), THROUGH)
    assert parse_path(path, 77) == Segment("XBTUSD.d", 2019, Range(5, THROUGH), path, 77)


@pytest.mark.parametrize(
    "path",
    [
        "trades/pair=A/year=2019/1-2.parquet",
        "trades/pair=A/year=2019/1559347199999999999-1561939199999999999.parquet.tmp",
        "trades/pair=A/1559347199999999999-1561939199999999999.parquet",
        "trades/pair=A/B/year=2019/1559347199999999999-1561939199999999999.parquet",
        "candles/pair=A/year=2019/1559347199999999999-1561939199999999999.parquet",
        "x/trades/pair=A/year=2019/1559347199999999999-1561939199999999999.parquet",
        "trades/pair=A/year=2019/1561939199999999999-1559347199999999999.parquet",
        "trades/pair=A/year=2019/1559347199999999999-1559347199999999999.parquet",
        "trades/pair=A/year=2019/README.md",
    ],
)
def test_the_path_of_a_foreign_file_is_no_segment(path: str) -> None:
    assert parse_path(path, 1) is None


# The file, as another reader sees it.


@pytest.fixture(scope="module")
def market() -> Market:
    """What a busy pair looks like, large enough for two row groups."""
    return sample_trades.market(sample_trades.xbtusd_like(200_000))


@pytest.fixture(scope="module")
def rows(market: Market) -> list[Any]:
    """The rows of the market."""
    return list(expected(market))


@pytest.fixture(scope="module")
def big(rows: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segment of 200,000 trades."""
    store, staged, _ = written(tmp_path_factory.mktemp("big"), rows)
    return store.root / staged


def test_row_groups_hold_122_880_rows(big: Path) -> None:
    meta = pq.read_metadata(big)
    assert [meta.row_group(at).num_rows for at in range(meta.num_row_groups)] == [122_880, 77_120]


def test_a_trade_costs_at_most_thirteen_bytes(big: Path) -> None:
    assert big.stat().st_size <= 13 * 200_000


def test_times_are_int64_nanoseconds_without_a_zone(big: Path) -> None:
    column = pq.read_metadata(big).schema.column(1)
    assert (column.name, column.physical_type) == ("time", "INT64")
    logical = str(column.logical_type)
    assert logical.startswith("Timestamp(isAdjustedToUTC=false, timeUnit=nanoseconds")


def test_decimals_are_stored_as_documented(big: Path) -> None:
    schema = pq.read_metadata(big).schema
    price, volume = schema.column(3), schema.column(4)
    assert (price.name, price.physical_type, str(price.logical_type)) == (
        "price",
        "INT64",
        "Decimal(precision=18, scale=10)",
    )
    assert (volume.name, str(volume.logical_type)) == ("volume", "Decimal(precision=22, scale=8)")


def test_every_column_has_statistics_in_every_row_group(big: Path) -> None:
    meta = pq.read_metadata(big)
    lacking = [
        (group, column)
        for group in range(meta.num_row_groups)
        for column in range(meta.num_columns)
        if not meta.row_group(group).column(column).is_stats_set
    ]
    assert lacking == []


def test_the_statistics_of_time_are_its_first_and_last(big: Path, rows: list[Any]) -> None:
    statistics = pq.read_metadata(big).row_group(1).column(1).statistics
    assert (statistics.min_raw, statistics.max_raw) == (rows[122_880][1], rows[-1][1])


def test_encodings_and_compression_are_those_of_the_format(big: Path) -> None:
    group = pq.read_metadata(big).row_group(0)
    columns = {group.column(at).path_in_schema: group.column(at) for at in range(8)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    delta = {name for name, c in columns.items() if "DELTA_BINARY_PACKED" in c.encodings}
    words = {name for name, c in columns.items() if "RLE_DICTIONARY" in c.encodings}
    assert delta == {"trade_id", "time", "tie", "price"}
    assert words == {"side", "order_type", "misc"}


def test_a_plain_parquet_reader_reads_every_digit(big: Path, rows: list[Any]) -> None:
    table = pq.read_table(big)
    assert table.schema.remove_metadata() == SEGMENT_SCHEMA
    assert table.column("time").cast(pa.int64()).to_pylist() == [row[1] for row in rows]
    for name, place in (("trade_id", 0), ("tie", 2), ("price", 3), ("volume", 4), ("side", 5)):
        assert table.column(name).to_pylist() == [row[place] for row in rows]


@pytest.mark.parametrize("kind", ["empty", "one", "no ids", "unknown words"])
def test_all_files_have_one_schema(tmp_path: Path, kind: str) -> None:
    single = expected(sample_trades.market(sample_trades.xbtusd_like(1)))
    kinds: dict[str, list[Any]] = {
        "empty": [],
        "one": list(single),
        "no ids": [(None, *single[0][1:])],
        "unknown words": [(*single[0][:5], None, None, None)],
    }
    store, staged, _ = written(tmp_path, kinds[kind])
    assert pq.read_schema(store.root / staged).remove_metadata() == SEGMENT_SCHEMA


# The footer.


def test_the_footer_describes_the_rows_of_the_segment(tmp_path: Path) -> None:
    rows = [(None, 5, 0, *REST), (7, 6, 0, *REST), (9, 6, 1, *REST), (None, 8, 0, *REST)]
    given = Footer(
        Range(4, 9), "{}", cursor="0000000000000000008", confirmed_id_gaps=(IdPair(7, 9),)
    )
    store, staged, full = written(tmp_path, rows, given)
    assert full == Footer(
        range=Range(4, 9),
        pair_json="{}",
        source="api",
        cursor="0000000000000000008",
        rows=4,
        first_trade_id=7,
        last_trade_id=9,
        rows_before_first_id=1,
        rows_after_last_id=1,
        confirmed_id_gaps=(IdPair(7, 9),),
        checksum=checksum(rows),
    )
    assert read_footer(store, staged) == full


def test_a_plain_reader_finds_the_footer_as_text(tmp_path: Path) -> None:
    rows = [(7, 5, 0, *REST)]
    footer = Footer(
        Range(4, 9), '{"altname":"XBTUSD"}', source="csv", confirmed_id_gaps=(IdPair(6, 7),)
    )
    store, staged, _ = written(tmp_path, rows, footer)
    found = {
        key.decode(): value.decode()
        for key, value in pq.read_metadata(store.root / staged).metadata.items()
        if key.startswith(b"harvester.")
    }
    assert found == {
        "harvester.format": "1",
        "harvester.range": "0000000000000000004-0000000000000000009",
        "harvester.pair": '{"altname":"XBTUSD"}',
        "harvester.source": "csv",
        "harvester.cursor": "",
        "harvester.rows": "1",
        "harvester.first_trade_id": "7",
        "harvester.last_trade_id": "7",
        "harvester.rows_before_first_id": "0",
        "harvester.rows_after_last_id": "0",
        "harvester.jumps": "[[6,7]]",
        "harvester.jumps_not_asked_for": "0",
        "harvester.rows_sha256": checksum(rows),
    }


def test_rows_without_any_id_are_all_counted_before_and_after_the_ids(tmp_path: Path) -> None:
    rows = [(None, at, 0, *REST) for at in (5, 6, 7)]
    _, _, full = written(tmp_path, rows, Footer(Range(4, 9), "{}"))
    assert (
        full.first_trade_id,
        full.last_trade_id,
        full.rows_before_first_id,
        full.rows_after_last_id,
    ) == (None, None, 3, 3)


def test_rows_before_the_first_and_after_the_last_id_are_counted_over_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROW_GROUP_ROWS", 2)
    ids = [None, None, None, 4, 5, None, None, None]
    rows = [(trade_id, at, 0, *REST) for at, trade_id in enumerate(ids, 1)]
    _, _, full = written(tmp_path, rows, Footer(Range(0, 9), "{}"))
    assert (
        full.first_trade_id,
        full.last_trade_id,
        full.rows_before_first_id,
        full.rows_after_last_id,
    ) == (4, 5, 3, 3)


REST = expected(sample_trades.market(sample_trades.xbtusd_like(1)))[0][3:]


# Reading.


@pytest.fixture
def grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LocalStore, str]:
    """A segment of eight rows at 10, 20 … 80, two a row group."""
    monkeypatch.setattr(module, "ROW_GROUP_ROWS", 2)
    rows = [(at, at * 10, 0, *REST) for at in range(1, 9)]
    store, staged, _ = written(tmp_path, rows, Footer(Range(0, 100), "{}"))
    return store, staged


@pytest.mark.parametrize(
    ("within", "ids"),
    [
        (None, [1, 2, 3, 4, 5, 6, 7, 8]),
        (Range(0, 100), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Range(10, 80), [2, 3, 4, 5, 6, 7, 8]),
        (Range(9, 79), [1, 2, 3, 4, 5, 6, 7]),
        (Range(20, 40), [3, 4]),
        (Range(20, 50), [3, 4, 5]),
        (Range(40, 45), []),
        (Range(39, 40), [4]),
        (Range(80, 100), []),
        (Range(0, 9), []),
    ],
)
def test_only_rows_of_the_range_are_read(
    grouped: tuple[LocalStore, str], within: Range | None, ids: list[int]
) -> None:
    assert [row[0] for row in read_back(*grouped, within)] == ids


def test_row_groups_outside_the_range_are_not_read(
    grouped: tuple[LocalStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[int]] = []
    real = pq.ParquetFile.iter_batches

    def spy(self: Any, rows: int, *, row_groups: list[int], **more: Any) -> Any:
        read.append(row_groups)
        return real(self, rows, row_groups=row_groups, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    list(read_batches(*grouped, Range(20, 40)))
    assert read == [[1]]


def test_time_bounds_are_the_first_and_the_last(grouped: tuple[LocalStore, str]) -> None:
    assert read_footer(*grouped).bounds == (10, 80)


def test_a_segment_of_no_rows_has_no_bounds(tmp_path: Path) -> None:
    store, staged, full = written(tmp_path, [])
    assert (read_footer(store, staged).bounds, read_back(store, staged), full.rows) == (None, [], 0)


# Damage.


def test_a_missing_file_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_footer(LocalStore(tmp_path), "trades/none.parquet")


@pytest.mark.parametrize("size", [0, 3, 100, -1])
def test_a_file_cut_short_is_damaged(tmp_path: Path, size: int) -> None:
    store, staged, _ = written(tmp_path, [(7, 5, 0, *REST)])
    os.truncate(
        store.root / staged, size if size >= 0 else (store.root / staged).stat().st_size - 1
    )
    with pytest.raises(ArchiveDamaged) as caught:
        read_footer(store, staged)
    assert str(caught.value).startswith(f"{store.root}/{staged} can't be read: ")


def test_a_parquet_file_of_somebody_else_is_no_segment(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ArchiveDamaged) as caught:
        read_footer(LocalStore(tmp_path), "x.parquet")
    assert str(caught.value) == "x.parquet has no footer of a segment (KeyError('format'))"


def rewritten(tmp_path: Path, changes: dict[str, bytes]) -> LocalStore:
    """A segment of one row whose footer was changed by hand, at `x.parquet`."""
    store, staged, _ = written(tmp_path, [(7, 5, 0, *REST)])
    table = pq.read_table(store.root / staged)
    metadata = {
        **pq.read_metadata(store.root / staged).metadata,
        **{f"harvester.{key}".encode(): value for key, value in changes.items()},
    }
    metadata.pop(b"ARROW:schema", None)
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    return store


def test_a_footer_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    store = rewritten(tmp_path, {"format": b"2"})
    with pytest.raises(ArchiveTooNew) as caught:
        read_footer(store, "x.parquet")
    assert str(caught.value) == (
        "x.parquet has format 2, this harvester reads up to 1: install a newer one"
    )


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("rows", b"x", "ValueError(\"invalid literal for int() with base 10: 'x'\")"),
        ("jumps", b"[[1]]", "ValidationError('Expected `array` of length 2 - at `$[0]`')"),
        (
            "pair",
            b"\xff",
            "UnicodeDecodeError('utf-8', b'\\xff', 0, 1, 'invalid start byte')",
        ),
    ],
)
def test_a_footer_that_cannot_be_read_is_damage(
    tmp_path: Path, key: str, value: bytes, reason: str
) -> None:
    store = rewritten(tmp_path, {key: value})
    with pytest.raises(ArchiveDamaged) as caught:
        read_footer(store, "x.parquet")
    assert str(caught.value) == f"x.parquet has no footer of a segment ({reason})"


def test_a_footer_that_counts_other_rows_is_damage(tmp_path: Path) -> None:
    store = rewritten(tmp_path, {"rows": b"2"})
    with pytest.raises(ArchiveDamaged) as caught:
        read_footer(store, "x.parquet")
    assert str(caught.value) == "x.parquet has 1 rows, but its footer says 2"


@pytest.mark.parametrize(
    ("text", "changed", "reason"),
    [
        (b"sell", b"sel9", "side has the unknown value 'sel9'"),
        (b"limit", b"lim\xe9t", ""),
        (b"note", b"n\xffte", ""),
    ],
)
def test_texts_that_no_trade_can_have_are_damage(
    tmp_path: Path, text: bytes, changed: bytes, reason: str
) -> None:
    first = (7, 5, 0, *REST[:2], "buy", "market", "note")
    second = (8, 6, 0, *REST[:2], "sell", "limit", "")
    store, staged, _ = written(tmp_path, [first, second])
    replace_bytes(store.root / staged, text, changed)
    with pytest.raises(ArchiveDamaged) as caught:
        read_back(store, staged)
    assert str(caught.value).startswith(f"{store.root}/{staged} can't be read: {reason}")


def test_a_column_of_another_type_is_damage(tmp_path: Path) -> None:
    store, staged, _ = written(tmp_path, [(7, 5, 0, *REST)])
    replace_bytes(store.root / staged, *TYPE_OF_TIME_CHANGED)
    with pytest.raises(ArchiveDamaged) as caught:
        read_footer(store, staged)
    assert str(caught.value) == (
        f"{store.root / staged} can't be read: "
        "the type of time in the schema is not that of a row group"
    )
    with pytest.raises(ArchiveDamaged) as caught:
        read_back(store, staged)
    assert str(caught.value) == f"{store.root / staged} has other columns than the format's"
    assert read_unverified_footer(store, staged) is None


def test_a_name_of_a_column_that_is_not_utf8_is_damage(tmp_path: Path) -> None:
    store, staged, _ = written(tmp_path, [(7, 5, 0, *REST)])
    replace_bytes(store.root / staged, b"\x18\x04misc", b"\x18\x04mi\xffc")
    with pytest.raises(ArchiveDamaged) as caught:
        read_footer(store, staged)
    assert str(caught.value).startswith(f"{store.root / staged} can't be read: 'utf-8' codec")


def test_keys_of_other_tools_are_no_concern_of_the_footer(tmp_path: Path) -> None:
    store = rewritten(tmp_path, {})
    table = pq.read_table(tmp_path / "x.parquet")
    strange = {**table.schema.metadata, b"\xff\xfe": b"\xff"}
    pq.write_table(table.replace_schema_metadata(strange), tmp_path / "y.parquet")
    assert read_footer(store, "y.parquet").rows == 1


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT]
)
def test_a_file_that_this_process_may_not_open_is_not_called_damaged(
    tmp_path: Path, number: int
) -> None:
    class Refusing:
        def open_input_file(self, _location: str) -> Any:
            raise OSError(number, os.strerror(number))

    store = LocalStore(tmp_path)
    store.filesystem = Refusing()
    with pytest.raises(ArchiveError) as caught:
        read_footer(store, "x.parquet")
    denied = {errno.EACCES: "no permission to read there: change its owner"}
    what = denied.get(number, os.strerror(number))
    assert str(caught.value) == f"can't read {tmp_path}/x.parquet: {what}"


def test_a_full_disk_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever is written to this device finds no room.
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    monkeypatch.setattr(LocalStore, "location", lambda _store, _path: "/dev/full")
    with pytest.raises(ArchiveUnwritable) as caught:
        written(tmp_path, [(7, 5, 0, *REST)])
    assert str(caught.value) == (
        "can't write /dev/full: the disk is full: make room, then run the same command again"
    )


def test_a_file_that_reads_back_otherwise_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "read_batches", lambda _store, _path: iter([batch([(8, 5, 0, *REST)])])
    )
    with pytest.raises(ArchiveDamaged) as caught:
        written(tmp_path, [(7, 5, 0, *REST)])
    assert str(caught.value).endswith(
        " does not read back as it was written: it was not added to the archive"
    )
