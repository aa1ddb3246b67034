"""Harms done by hand to an archive, each caught with a line that names file and range."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sample_trades
from backfills import Backfill, serve
from corruption import span_text
from kraken_market import Market

from harvester.query import sql
from harvester.query.rollups import parse_levels, roll_up
from harvester.storage.parquet_files import PARTIALS, WRITER_OPTIONS, stage_segment
from harvester.storage.segment import segment_path
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range
from harvester.verify.integrity import verify

TRADES = sample_trades.xbtusd_like(4_000, 71)
CUTS = [TRADES[i].true_ns for i in (1_000, 2_000, 3_000)]
END = TRADES[-1].true_ns + 10**9


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four segments that touch, of a thousand trades each."""
    folder = tmp_path_factory.mktemp("sound")
    with serve(sample_trades.market(TRADES)) as exchange:
        for i, ends in enumerate(zip([0, *CUTS], [*CUTS, END], strict=True)):
            part = tmp_path_factory.mktemp(f"part{i}")
            Backfill(exchange.url, part).only("XBTUSD", Range(*ends))
            for name in ("trades", "wanted"):
                shutil.copytree(part / name, folder / name, dirs_exist_ok=True)
    (folder / "wanted/XBTUSD.json").write_text(f'{{"pair":"XBTUSD","spans":[[0,{END}]]}}')
    return folder


@pytest.fixture
def harmed(sound: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    shutil.copytree(sound, folder)
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"), key=lambda file: file.name)


def faults(folder: Path) -> list[str]:
    return [str(fault) for fault in verify(TradeStore(folder), "XBTUSD").faults]


def rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a file again with other rows, as a clumsy tool would: the footer stays."""
    table = pq.ParquetFile(file).read()
    footer = pq.ParquetFile(file).metadata.metadata
    changed = change(table).replace_schema_metadata(
        {k: v for k, v in footer.items() if k.startswith(b"harvester.")}
    )
    pq.write_table(changed, file, **WRITER_OPTIONS)


def name_of(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def test_a_sound_archive_has_no_faults_and_all_counts(sound: Path) -> None:
    report = verify(TradeStore(sound), "XBTUSD")
    counts = (report.files, report.rows, report.ids, report.boundaries, report.confirmed_id_gaps)
    assert (report.faults, counts) == ([], (4, 4_000, 4_000, 3, 0))


@pytest.fixture
def rolled(harmed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive with a roll-up of minutes and one of hours beside each segment.

    `verify` computes them again in many parts.
    """
    monkeypatch.setattr(sql, "_PART_ROWS", 50)
    roll_up_all(harmed)
    return harmed


def roll_up_all(folder: Path) -> None:
    with open_writer(TradeStore(folder), "XBTUSD") as pair_writer:
        roll_up(pair_writer, parse_levels(["1m", "1h"]))


def rollup_of(folder: Path, place: int, level: str = "1m") -> Path:
    return sorted(folder.glob(f"candles/interval={level}/**/*.parquet"), key=lambda f: f.name)[
        place
    ]


def alter(file: Path, column: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Write a roll-up again with other values in one column; the footer stays."""
    table, footer = pq.ParquetFile(file).read(), pq.ParquetFile(file).metadata.metadata
    place, kind = table.schema.get_field_index(column), table.schema.field(column)
    values = pa.array(change(table.column(column).to_pylist()), kind.type)
    kept = {key: text for key, text in footer.items() if key.startswith(b"harvester.")}
    pq.write_table(table.set_column(place, kind, values).replace_schema_metadata(kept), file)


def test_sound_rollups_are_counted(rolled: Path) -> None:
    report = verify(TradeStore(rolled), "XBTUSD")
    assert (report.faults, report.rollups) == ([], 8)


@pytest.fixture(scope="module")
def rolled_for_all(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """As `rolled`; a test that alters a file of it restores that file."""
    folder = tmp_path_factory.mktemp("rolled") / "data"
    shutil.copytree(sound, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "_PART_ROWS", 50)
        roll_up_all(folder)
        yield folder


@pytest.mark.parametrize(
    ("column", "level"),
    [(column, ("1m", "1h")[place % 2]) for place, column in enumerate(PARTIALS.names)],
)
def test_a_rollup_altered(rolled_for_all: Path, level: str, column: str) -> None:
    rolled = rolled_for_all
    file = rollup_of(rolled, 1, level)
    before = file.read_bytes()

    def change(values: list[Any]) -> list[Any]:
        value = values[0]
        step = {int: 1, Decimal: Decimal("0.00000001")}.get(type(value), timedelta(microseconds=1))
        return [value + step, *values[1:]]

    alter(file, column, change)
    segment = files(rolled / "trades")[1]
    after, through = (int(part) for part in segment.stem.split("-"))
    found = verify(TradeStore(rolled), "XBTUSD").faults
    file.write_bytes(before)
    [fault] = found
    assert fault[:4] == (
        "XBTUSD",
        Range(after, through),
        name_of(file, rolled),
        "it does not agree with the trades of its segment",
    )


@pytest.mark.parametrize("level", ["1m", "1h"])
@pytest.mark.parametrize("change", ["lacks its first", "lacks its last", "has its last twice"])
def test_a_rollup_with_other_rows(rolled: Path, level: str, change: str) -> None:
    file = rollup_of(rolled, 1, level)
    changes: dict[str, Callable[[pa.Table], pa.Table]] = {
        "lacks its first": lambda table: table.slice(1),
        "lacks its last": lambda table: table.slice(0, table.num_rows - 1),
        "has its last twice": lambda table: pa.concat_tables(
            [table, table.slice(table.num_rows - 1)]
        ),
    }
    rewrite(file, changes[change])
    assert [line.split("; ")[0] for line in faults(rolled)] == [
        f"{name_of(file, rolled)}: it does not agree with the trades of its segment"
    ]


def test_a_rollup_of_another_segment(rolled: Path) -> None:
    shutil.copy(rollup_of(rolled, 2), rollup_of(rolled, 1))
    assert [line.split("; ")[0] for line in faults(rolled)] == [
        f"{name_of(rollup_of(rolled, 1), rolled)}: it does not agree with the trades of its segment"
    ]


def test_a_rollup_whose_footer_was_swapped(rolled: Path) -> None:
    path, other = rollup_of(rolled, 1), rollup_of(rolled, 2)
    footer = pq.ParquetFile(other).metadata.metadata
    kept = {key: text for key, text in footer.items() if key.startswith(b"harvester.")}
    pq.write_table(pq.ParquetFile(path).read().replace_schema_metadata(kept), path)
    assert [line.split("; ")[0] for line in faults(rolled)] == [
        f"{name_of(path, rolled)}: its footer is of another segment"
    ]


def test_a_rollup_cut_off(rolled: Path) -> None:
    file = rollup_of(rolled, 0)
    file.write_bytes(file.read_bytes()[:-30])
    [line] = faults(rolled)
    assert line.startswith(f"{name_of(file, rolled)}: it can't be read: ")


def test_where_the_rows_are_wrong_their_rollups_are_not_judged(rolled: Path) -> None:
    file = files(rolled / "trades")[1]
    rewrite(file, lambda table: pa.concat_tables([table.slice(0, 10), table.slice(11)]))
    [line] = faults(rolled)
    assert line.startswith(f"{name_of(file, rolled)}: has ")


def test_a_row_taken_out(harmed: Path) -> None:
    file = files(harmed)[1]
    rewrite(file, lambda table: pa.concat_tables([table.slice(0, 10), table.slice(11)]))
    rows = pq.read_metadata(file).num_rows
    [line] = faults(harmed)
    assert line.split("; ")[0] == (
        f"{name_of(file, harmed)}: has {rows} rows, but its footer says {rows + 1}"
    )


def test_a_changed_digit_is_a_fault(harmed: Path) -> None:
    file = files(harmed)[2]

    def change(table: pa.Table) -> pa.Table:
        prices = table.column("price").to_pylist()
        prices[500] += Decimal("0.1")
        return table.set_column(
            3, table.schema.field("price"), pa.array(prices, pa.decimal128(18, 10))
        )

    rewrite(file, change)
    assert [line.split("; ")[0] for line in faults(harmed)] == [
        f"{name_of(file, harmed)}: the checksum of its rows is not that of its footer"
    ]


def test_two_rows_swapped(harmed: Path) -> None:
    file = files(harmed)[2]

    def change(table: pa.Table) -> pa.Table:
        order = list(range(table.num_rows))
        order[100], order[200] = order[200], order[100]
        return table.take(order)

    rewrite(file, change)
    texts = [line.split("; ")[0].partition(": ")[2] for line in faults(harmed)]
    assert "its times go back" in texts
    assert "the checksum of its rows is not that of its footer" in texts


def test_a_file_lost(harmed: Path) -> None:
    lost = files(harmed)[1]
    after, through = (int(part) for part in lost.stem.split("-"))
    lost.unlink()
    report = verify(TradeStore(harmed), "XBTUSD")
    assert [(f.range, f.path, f.text) for f in report.faults] == [
        (Range(after, through), None, "missing: requested, but no file has it")
    ]


def test_a_file_doubled_under_a_shifted_name(harmed: Path) -> None:
    file = files(harmed)[1]
    after, through = (int(part) for part in file.stem.split("-"))
    double = file.with_name(f"{after + 5:019d}-{through:019d}.parquet")
    shutil.copy(file, double)
    lines = [line.split("; ")[0] for line in faults(harmed)]
    assert f"{name_of(double, harmed)}: it overlaps with {name_of(file, harmed)}" in lines
    assert (
        f"{name_of(double, harmed)}: its footer says {span_text(Range(after, through))}, "
        "its name another range" in lines
    )


def test_a_file_renamed_to_a_wider_range(harmed: Path) -> None:
    file = files(harmed)[1]
    after, through = (int(part) for part in file.stem.split("-"))
    wide = file.with_name(f"{after:019d}-{through + 10**9:019d}.parquet")
    file.rename(wide)
    lines = [line.split("; ")[0] for line in faults(harmed)]
    assert (
        f"{name_of(wide, harmed)}: its footer says {span_text(Range(after, through))}, "
        "its name another range" in lines
    )


@pytest.mark.parametrize(("place", "later_ns"), [(-1, -(10**12)), (0, 10**12)])
def test_statistics_that_leave_out_rows(harmed: Path, place: int, later_ns: int) -> None:
    """A query for the time of these rows would skip them."""
    file = files(harmed)[1]
    stamp = pq.ParquetFile(file).read().column("time").cast(pa.int64())[place].as_py()
    raw = file.read_bytes()
    begin = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    old, new = (ns.to_bytes(8, "little") for ns in (stamp, stamp + later_ns))
    assert old in raw[begin:]
    file.write_bytes(raw[:begin] + raw[begin:].replace(old, new))
    [line] = faults(harmed)
    text = f"{name_of(file, harmed)}: its statistics leave out times of its rows; range "
    assert line.startswith(text)


def test_fewer_rows_than_the_row_groups_say(harmed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some damaged files pyarrow reads only a part, without an error."""
    file = files(harmed)[1]
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: iter(()))
    found = [line for line in faults(harmed) if line.startswith(name_of(file, harmed))]
    assert any("it has fewer rows than its row groups say" in line for line in found)


def test_bytes_cut_off(harmed: Path) -> None:
    file = files(harmed)[3]
    file.write_bytes(file.read_bytes()[:-100])
    [line] = faults(harmed)
    assert line.startswith(f"{name_of(file, harmed)}: {file} can't be read: ")


def test_a_byte_changed_in_the_middle(harmed: Path) -> None:
    file = files(harmed)[3]
    body = bytearray(file.read_bytes())
    body[len(body) // 3] ^= 0xFF
    file.write_bytes(body)
    lines = faults(harmed)
    assert lines
    assert all(line.startswith(f"{name_of(file, harmed)}: ") for line in lines)


def test_a_footer_swapped(harmed: Path) -> None:
    path, other = files(harmed)[1:3]
    mine = pq.ParquetFile(path).read()
    other_metadata = pq.ParquetFile(other).metadata.metadata
    pq.write_table(
        mine.replace_schema_metadata(
            {k: v for k, v in other_metadata.items() if k.startswith(b"harvester.")}
        ),
        path,
        **WRITER_OPTIONS,
    )
    there, said = (pq.read_metadata(file).num_rows for file in (path, other))
    [line] = faults(harmed)
    assert line.split("; ")[0] == (
        f"{name_of(path, harmed)}: has {there} rows, but its footer says {said}"
    )


def test_a_file_in_the_folder_of_another_pair(harmed: Path) -> None:
    file = files(harmed)[0]
    other = harmed / "trades/pair=ETHUSD" / file.parent.name / file.name
    other.parent.mkdir(parents=True)
    shutil.copy(file, other)
    report = verify(TradeStore(harmed), "ETHUSD")
    assert [fault.text for fault in report.faults] == [
        "its footer is of XBTUSD, its folder of ETHUSD"
    ]


def test_a_file_with_trades_of_two_years(tmp_path: Path) -> None:
    """SQL finds trades by the year of their folder."""
    market = sample_trades.market(sample_trades.new_years())
    with serve(market) as exchange:
        Backfill(exchange.url, tmp_path).only(market.altname)
    archive = TradeStore(tmp_path)
    first, second = archive.segments(market.altname)[:2]
    both = Range(first.range.after, second.range.through)
    rows = list(archive.scan(market.altname, both))
    footers = [archive.footer(segment) for segment in (first, second)]
    footer = replace(
        footers[1],
        range=both,
        first_trade_id=footers[0].first_trade_id,
        rows_before_first_id=footers[0].rows_before_first_id,
    )
    with open_writer(archive, market.altname) as pair_writer:
        staged, written = stage_segment(archive.store, market.altname, rows, footer)
        for segment in (first, second):
            pair_writer.remove(segment)
        last_ns = written.bounds[1] if written.bounds else None
        archive.store.commit(staged, segment_path(market.altname, both, last_ns))
    [fault] = verify(TradeStore(tmp_path), market.altname).faults
    assert fault.text == "its name or folder is not that of its source, range and rows"


def test_ids_that_skip_between_files(tmp_path: Path) -> None:
    left, right = tmp_path / "left", tmp_path / "right"
    with serve(sample_trades.market(TRADES)) as exchange:
        Backfill(exchange.url, left).only("XBTUSD", Range(0, CUTS[0]))
    with serve(sample_trades.market(TRADES[:1_001] + TRADES[1_003:])) as exchange:
        Backfill(exchange.url, right).only("XBTUSD", Range(CUTS[0], CUTS[1]))
    shutil.copytree(right / "trades", left / "trades", dirs_exist_ok=True)
    [fault] = verify(TradeStore(left), "XBTUSD").faults
    first = TRADES[0].trade_id or 0
    assert fault.text == (f"unconfirmed id gap: {first + 1_000} is followed by {first + 1_003}")


def test_a_confirmed_id_gap_is_no_fault(tmp_path: Path) -> None:
    with serve(sample_trades.market(TRADES[:500] + TRADES[510:])) as exchange:
        Backfill(exchange.url, tmp_path).only("XBTUSD")
    report = verify(TradeStore(tmp_path), "XBTUSD")
    assert (report.faults, report.confirmed_id_gaps) == ([], 1)


def test_a_pair_with_id_gaps_everywhere_is_sound_and_they_are_counted(tmp_path: Path) -> None:
    with serve(
        sample_trades.market(sample_trades.ids_with_gaps(4_000, 72, chance=0.5))
    ) as exchange:
        Backfill(exchange.url, tmp_path, {"archive.flush_rows": 600}).only("XBTUSD")
    report = verify(TradeStore(tmp_path), "XBTUSD")
    assert report.faults == []
    assert report.confirmed_id_gaps + report.unconfirmed_id_gaps > 1_000


@pytest.mark.parametrize(
    "market",
    [
        sample_trades.old_style(3_000, 73),
        sample_trades.market(sample_trades.zero_ids(6_000, 73)),
        sample_trades.tiny_coin(900, 73),
    ],
    ids=["without ids", "runs of id 0", "tiny coin"],
)
def test_archives_of_unusual_markets_are_sound(market: Market, tmp_path: Path) -> None:
    with serve(market) as exchange:
        backfill = Backfill(exchange.url, tmp_path, {"archive.flush_rows": 500})
        outcome = backfill.only(market.altname)
    assert outcome.exit_status == 0
    assert verify(TradeStore(tmp_path), outcome.pair).faults == []


def test_an_interrupted_backfill_leaves_a_gap_that_is_a_fault(tmp_path: Path) -> None:
    with serve(sample_trades.market(TRADES)) as exchange:
        Backfill(exchange.url, tmp_path, stop_after_pages=2).only("XBTUSD", Range(0, END))
    [fault] = verify(TradeStore(tmp_path), "XBTUSD").faults
    [held] = TradeStore(tmp_path).coverage("XBTUSD")
    assert fault.range == Range(held.through, END)
