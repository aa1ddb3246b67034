"""How fast a ZIP of CSVs becomes an archive, beside pandas, which rounds and checks nothing.

    python benchmarks/csv_import.py --rows 20000000

Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from harvester.kraken.pairs import Pair
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.trade_store import TradeStore

Numbers = NDArray[np.int64]
BEGINS_S = 1_767_225_600
SECONDS = 89 * 86_400
STEP = 100_000
QUARTER = "Kraken_Trading_History_Q1_2026.zip"
HARVESTER = [sys.executable, "-c", "from harvester.cli.main import main; main()"]
PANDAS = """
import sys, zipfile
from pathlib import Path
import pandas as pd
WIDE = ["price", "volume", "time", "side", "order_type", "misc", "trade_id"]
rows = 0
with zipfile.ZipFile(sys.argv[1]) as archive:
    for name in archive.namelist():
        with archive.open(name) as file:
            wide = file.peek(5)[:5] == b"price"
            names = WIDE if wide else ["time", "price", "volume"]
            frame = pd.read_csv(file, header=None, names=names, skiprows=int(wide){options})
        frame.to_parquet(Path(sys.argv[2]) / f"{Path(name).stem}.parquet")
        rows += len(frame)
print(rows)
"""
EXACT = ', converters={"price": Decimal, "volume": Decimal}'
PANDAS_FLOAT = PANDAS.replace("{options}", "")
PANDAS_EXACT = "from decimal import Decimal\n" + PANDAS.replace("{options}", EXACT)


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--exact", action="store_true", help="pandas with exact decimals, too")
    parser.add_argument("--three-columns", action="store_true", help="in all files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        wide_files = 0 if given.three_columns else given.pairs // 2
        truth = make(folder / QUARTER, given.rows, given.pairs, wide_files)
        size = (folder / QUARTER).stat().st_size
        print(f"{sum(rows for rows, _ in truth.values()):,} rows, {size / 1e6:,.0f} MB packed")
        programs = ["harvester", "pandas"] + ["pandas, exact"] * given.exact
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
        for number in range(given.rounds):
            for name in programs:
                figures[name].append(measure(name, folder, number, truth))
        print_report(figures, sum(rows for rows, _ in truth.values()))


def make(path: Path, rows: int, pairs: int, wide_files: int) -> dict[str, tuple[int, Decimal]]:
    """A ZIP of made trades, uneven pairs; rows and volumes.

    Every other file has seven columns, until there are `wide_files`. A twentieth of the rows are
    equal to the one before in every field but the id.
    """
    source = np.random.default_rng(7)
    weights = 1 / np.arange(1, pairs + 1) ** 0.7
    truth = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for place, share in enumerate(weights / weights.sum()):
            count = max(int(rows * share), 10)
            is_wide = place % 2 == 1 and place < 2 * wide_files
            name = f"M{place:02d}USD"
            stamps = np.sort(source.integers(60, SECONDS, count)) + BEGINS_S
            prices = np.abs(300_000 + np.cumsum(source.integers(-3, 4, count))) + 1
            volumes = source.integers(1, 10**9, count)
            equal = (source.random(count) < 0.05).nonzero()[0]
            equal = equal[equal > 0]
            for values in (stamps, prices, volumes):
                values[equal] = values[equal - 1]
            truth[name] = (count, Decimal(int(volumes.sum())).scaleb(-8))
            with archive.open(f"TimeAndSales_Combined/{name}.csv", "w") as file:
                if is_wide:
                    file.write(b"price,volume,timestamp,b/s,m/l,misc\n")
                for start in range(0, count, STEP):
                    part = slice(start, start + STEP)
                    columns = (stamps[part], prices[part], volumes[part])
                    file.write(lines(start, *columns, wide=is_wide))
    return truth


def lines(first: int, stamps: Numbers, prices: Numbers, volumes: Numbers, *, wide: bool) -> bytes:
    """Rows as text."""
    rows = zip(stamps.tolist(), prices.tolist(), volumes.tolist(), strict=True)
    if not wide:
        return b"".join(
            b"%d,%d.%d0000,%d.%08d\n" % (at, price // 10, price % 10, *divmod(volume, 10**8))
            for at, price, volume in rows
        )
    return b"".join(
        b"%d.%d0000,%d.%08d,%d.%04d,%s,%s,,%d\n"
        % (
            price // 10,
            price % 10,
            *divmod(volume, 10**8),
            at,
            volume % 7_919,
            b"bs"[volume % 2 :][:1],
            b"ml"[volume % 3 > 0 :][:1],
            number,
        )
        for number, (at, price, volume) in enumerate(rows, first + 1)
    )


def measure(
    name: str, folder: Path, number: int, truth: dict[str, tuple[int, Decimal]]
) -> dict[str, float]:
    """One program, as a process of its own: seconds, processor seconds, peak of memory."""
    out = folder / f"{name.replace(', ', '-')}-{number}"
    out.mkdir()
    if name == "harvester":
        pairs = {pair: Pair(altname=pair) for pair in truth}
        store_pairs(TradeStore(out).store, msgspec.json.encode(pairs))
        command = [*HARVESTER, "import", str(folder / QUARTER), "-d", str(out), "-q", "--json"]
    else:
        program = PANDAS_EXACT if name.endswith("exact") else PANDAS_FLOAT
        command = [sys.executable, "-c", program, str(folder / QUARTER), str(out)]
    with (out / "stdout").open("wb") as stdout:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
    if status:
        raise SystemExit(f"{name} ended with status {status}")
    if name == "harvester":
        check(json.loads((out / "stdout").read_bytes()), truth)
    return {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss / 1024}


def check(report: dict[str, Any], truth: dict[str, tuple[int, Decimal]]) -> None:
    """Every row must have been kept, with all its volume."""
    kept = {
        outcome["pair"]: (outcome["imported"]["rows"], Decimal(outcome["imported"]["volume"]))
        for outcome in report["files"]
    }
    if kept != truth:
        raise SystemExit("harvester kept other rows than were made")


def print_report(figures: dict[str, list[dict[str, float]]], rows: int) -> None:
    """A table, and one line of JSON."""
    medians = {
        name: {what: statistics.median(run[what] for run in some) for what in some[0]}
        for name, some in figures.items()
    }
    own = medians["harvester"]["wall"]
    print(f"{'':16}{'wall s':>8}{'CPU s':>8}{'M rows/s':>10}{'peak MB':>9}{'x time':>8}")
    for name, middle in medians.items():
        pace = rows / middle["wall"] / 1e6
        print(
            f"{name:16}{middle['wall']:8.1f}{middle['cpu']:8.1f}{pace:10.2f}{middle['peak']:9.0f}"
            f"{middle['wall'] / own:8.2f}"
        )
    print(json.dumps({"rows": rows, "medians": medians}))


if __name__ == "__main__":
    main()
