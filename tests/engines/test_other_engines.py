"""DuckDB, Polars, DataFusion and pandas: the code of docs/other-engines.md on an archive."""

from __future__ import annotations

from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from candle_cases import hold
from candle_oracle import Row
from engines import REASON
from kraken_market import SECOND_NS
from recipes import blocks, run_section

import harvester
from harvester.storage.trade_store import TradeStore
from harvester.times import Range

PAGE = "other-engines.md"
COLUMNS = ("open", "high", "low", "close", "volume", "count", "value")
HOUR_NS = 3600 * SECOND_NS
BEGIN_NS = 472_222 * HOUR_NS
FITS = [("0.0000012345", "80000000000000.12345678"), ("99999999.9999999999", "99999999999.5")]
TOO_LARGE = [("99999999", "999999999999")] * 2
"""Two products below 10^20 whose sum is above."""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> harvester.Archive:
    """The archive that the page calls `data`: two trades of each time, at the edges of hours."""
    times = [
        BEGIN_NS + hour * HOUR_NS + offset_ns
        for hour in (0, 1, 3)
        for offset_ns in (0, 1, 999, 123_456_789, HOUR_NS - 1)
    ]
    prices = [Decimal(units).scaleb(-10) for units in range(10**14, 10**14 + 2 * len(times))]
    rows: list[Row] = [
        (number + 1, times[number // 2], number % 2, price, price * 7, "buy", "market", "")
        for number, price in enumerate(prices)
    ]
    rows = [(*row[:4], row[4].quantize(Decimal("1e-8")), *row[5:]) for row in rows]
    hold(TradeStore(tmp_path / "data"), [(Range(0, rows[-1][1]), rows)])
    monkeypatch.chdir(tmp_path)
    return harvester.open("data")


def expected(archive: harvester.Archive) -> dict[str, list[Any]]:
    """The hours of the archive, times in nanoseconds."""
    table = archive.ohlc("XBT/USD", "1h", all_columns=True).to_arrow_table()
    hours = table.column("time").cast(pa.int64()).to_pylist()
    return {"hour": hours} | {name: table.column(name).to_pylist() for name in COLUMNS}


def found(table: pa.Table, hour: str = "hour") -> dict[str, list[Any]]:
    hours = table.column(hour).cast(pa.timestamp("ns")).cast(pa.int64()).to_pylist()
    return {"hour": hours} | {name: table.column(name).to_pylist() for name in COLUMNS}


def test_duckdb(archive: harvester.Archive) -> None:
    [query] = blocks("DuckDB", "sql", PAGE)
    table = duckdb.connect().sql(query).to_arrow_table()
    assert found(table) == expected(archive)


def test_polars(archive: harvester.Archive) -> None:
    pytest.importorskip("polars", reason=REASON.format("polars"))
    hours = run_section("Polars", PAGE)["hours"]
    assert found(hours.to_arrow(), "time") == expected(archive)


def test_polars_refuses_a_sum_that_does_not_fit() -> None:
    pl = pytest.importorskip("polars", reason=REASON.format("polars"))
    exact = pl.Decimal(38, 18)

    def total(rows: list[tuple[str, str]]) -> Decimal:
        columns = dict(zip(("price", "volume"), zip(*rows, strict=True), strict=True))
        frame = pl.DataFrame({k: [Decimal(v) for v in values] for k, values in columns.items()})
        value = pl.col("price").cast(exact) * pl.col("volume").cast(exact)
        [made] = frame.select(value.sum()).to_series().to_list()
        assert isinstance(made, Decimal)
        return made

    with localcontext(prec=60):
        assert total(FITS) == sum(Decimal(price) * Decimal(volume) for price, volume in FITS)
    with pytest.raises(pl.exceptions.PolarsError, match="overflow"):
        total(TOO_LARGE)


def test_datafusion(archive: harvester.Archive) -> None:
    pytest.importorskip("datafusion", reason=REASON.format("datafusion"))
    assert found(run_section("DataFusion", PAGE)["hours"]) == expected(archive)


def test_datafusion_wraps_a_sum_that_does_not_fit() -> None:
    """If it no longer does, the page says so too harshly."""
    datafusion = pytest.importorskip("datafusion", reason=REASON.format("datafusion"))
    rows = ", ".join(
        f"(CAST({price} AS DECIMAL(18, 10)), CAST({volume} AS DECIMAL(22, 8)))"
        for price, volume in TOO_LARGE
    )
    query = f"SELECT sum(price * volume) AS value FROM (VALUES {rows}) AS rows (price, volume)"  # noqa: S608
    [row] = datafusion.SessionContext().sql(query).to_pylist()
    assert row["value"] < 0


def test_pandas(archive: harvester.Archive) -> None:
    trades = run_section("pandas", PAGE)["trades"]
    assert trades["time"].astype("int64").tolist() == [
        row[0] for row in archive.trades("XBT/USD").select("epoch_ns(time)").fetchall()
    ]
    with localcontext(prec=60):
        assert (trades["price"] * trades["volume"]).sum() == sum(expected(archive)["value"])
