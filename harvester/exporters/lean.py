"""Write candles as zipped CSV files in QuantConnect LEAN's data folder."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from harvester.errors import BadInterval
from harvester.exporters.formats import as_text
from harvester.exporters.symbols import lean_symbol
from harvester.kraken.pairs import Pair
from harvester.schema import times
from harvester.storage.filesystem import writing
from harvester.storage.output_files import check_outside, file_sink
from harvester.times import DAY, SECOND, Interval

# Source: LEAN's `Data/crypto/readme.md` and the paths in its own tests of `LeanData`.

MARKET = "kraken"

_FILE_PER_DAY = {SECOND: "second", 60 * SECOND: "minute"}
_SINGLE_FILE = {3600 * SECOND: "hour", DAY: "daily"}
_MILLISECOND = SECOND // 1000


class LeanCandle(NamedTuple):
    """A candle: its opening time, and its figures as LEAN's CSV has them."""

    time_ns: int
    figures: str


def lean_resolution(interval: Interval) -> str:
    """LEAN's name of the interval.

    Raises:
        BadInterval: LEAN has no interval of this length.
    """
    name = (_FILE_PER_DAY | _SINGLE_FILE).get(interval.width_ns or 0)
    if name is None:
        raise BadInterval(f"LEAN has no interval {interval.text!r}: give one of 1s, 1m, 1h, 1d")
    return name


def write_lean_candles(
    batches: Iterable[pa.RecordBatch], pair: Pair, interval: Interval, folder: str
) -> Path:
    """Write candles of one pair and interval; return LEAN's data folder. Files are replaced.

    Seconds and minutes make one zip a day, hours and days a single zip.

    Args:
        batches: the candles, in order.
        pair: the pair, whose names are known.
        interval: the candles' length.
        folder: LEAN's data folder.

    Raises:
        UsageError: the pair's currencies are not known, or the folder lies in an archive.
        BadInterval: LEAN has no interval of this length.
        ArchiveUnwritable: a file can't be written.
    """
    resolution, root = lean_resolution(interval), Path(folder)
    check_outside(root)
    with writing(folder):
        symbol = lean_symbol(pair)
        market = root / "crypto" / MARKET / resolution
        if interval.width_ns in _SINGLE_FILE:
            lines = (
                f"{_utc(candle.time_ns):%Y%m%d %H:%M},{candle.figures}"
                for candle in _candles(batches)
            )
            _write_zip(market / f"{symbol}_trade.zip", f"{symbol}.csv", lines)
            return root
        for day_ns, candles in groupby(_candles(batches), _day_ns):
            day = f"{_utc(day_ns):%Y%m%d}"
            lines = (
                f"{(candle.time_ns - day_ns) // _MILLISECOND},{candle.figures}"
                for candle in candles
            )
            entry = f"{day}_{symbol}_{resolution}_trade.csv"
            _write_zip(market / symbol / f"{day}_trade.zip", entry, lines)
    return root


def _candles(batches: Iterable[pa.RecordBatch]) -> Iterator[LeanCandle]:
    for batch in batches:
        figures = as_text(batch.select(["open", "high", "low", "close", "volume"]))
        columns = [column.to_pylist() for column in figures.columns]
        for time_ns, *texts in zip(times(batch).tolist(), *columns, strict=True):
            yield LeanCandle(time_ns, ",".join(text or "" for text in texts))


def _day_ns(candle: LeanCandle) -> int:
    return candle.time_ns // DAY * DAY


def _utc(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // SECOND, UTC)


def _write_zip(file: Path, entry: str, lines: Iterator[str]) -> None:
    """Write a zip with one text file in it; equal lines give equal bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    info = zipfile.ZipInfo(entry)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    with (
        file_sink(file) as sink,
        zipfile.ZipFile(sink, "w") as archive,
        archive.open(info, "w") as text,
    ):
        text.writelines(f"{line}\n".encode() for line in lines)
