"""Candles in the layout of QuantConnect's LEAN: CSV in zip files, one a day below an hour.

Source: LEAN's `Data/crypto/readme.md` and the paths in its own tests of `LeanData`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from harvester.cli.texts import as_text
from harvester.errors import BadInterval
from harvester.schema import times
from harvester.storage.export import file_sink
from harvester.times import DAY, SECOND, Interval

MARKET = "kraken"

_DAILY_FILES = {SECOND: "second", 60 * SECOND: "minute"}
_ONE_FILE = {3600 * SECOND: "hour", DAY: "daily"}
_MILLISECOND = SECOND // 1000


class Line(NamedTuple):
    """A candle: when it opens, and its figures as LEAN's CSV has them."""

    time_ns: int
    figures: str


def resolution(interval: Interval) -> str:
    """The interval as LEAN calls it.

    Raises:
        BadInterval: LEAN knows none of this length.
    """
    name = (_DAILY_FILES | _ONE_FILE).get(interval.width_ns or 0)
    if name is None:
        raise BadInterval(f"LEAN knows no interval {interval.text!r}: give one of 1s, 1m, 1h, 1d")
    return name


def write_candles(
    batches: Iterator[pa.RecordBatch], folder: Path, symbol: str, interval: Interval
) -> None:
    """Write candles under `folder`, LEAN's data folder; files of the same days are replaced.

    Args:
        batches: the candles, in order.
        folder: LEAN's data folder.
        symbol: the pair in LEAN's spelling for file names, such as `btcusd`.
        interval: the candles' length.
    """
    name, kind = symbol, resolution(interval)
    home = folder / "crypto" / MARKET / kind
    if interval.width_ns in _ONE_FILE:
        lines = (f"{_day(one.time_ns):%Y%m%d %H:%M},{one.figures}" for one in _lines(batches))
        _write(home / f"{name}_trade.zip", f"{name}.csv", lines)
        return
    for day_ns, held in groupby(_lines(batches), lambda one: one.time_ns // DAY * DAY):
        day = f"{_day(day_ns):%Y%m%d}"
        lines = (f"{(one.time_ns - day_ns) // _MILLISECOND},{one.figures}" for one in held)
        _write(home / name / f"{day}_trade.zip", f"{day}_{name}_{kind}_trade.csv", lines)


def _lines(batches: Iterator[pa.RecordBatch]) -> Iterator[Line]:
    for batch in batches:
        figures = as_text(batch.select(["open", "high", "low", "close", "volume"]))
        columns = [column.to_pylist() for column in figures.columns]
        for stamp, *texts in zip(times(batch).tolist(), *columns, strict=True):
            yield Line(stamp, ",".join(text or "" for text in texts))


def _day(stamp_ns: int) -> datetime:
    return datetime.fromtimestamp(stamp_ns // SECOND, UTC)


def _write(file: Path, entry: str, lines: Iterator[str]) -> None:
    """One zip that holds one text; the same lines give the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    info = zipfile.ZipInfo(entry)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    with (
        file_sink(file) as whole,
        zipfile.ZipFile(whole, "w") as packed,
        packed.open(info, "w") as sink,
    ):
        sink.writelines(f"{line}\n".encode() for line in lines)
