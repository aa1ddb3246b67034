"""Candles of all pairs on Spark, beside harvester's own. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from statistics import median

import duckdb
from pyspark.sql import SparkSession

import harvester
import harvester.spark

CPU_UNITS_PER_S = os.sysconf("SC_CLK_TCK")


def processor_s(jvm: int) -> float:
    """Processor time of this process and of Spark's JVM, in seconds."""
    fields = Path(f"/proc/{jvm}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / CPU_UNITS_PER_S


def timed(run: Callable[[], object], jvm: int) -> tuple[float, float, object]:
    """How long a function takes, in seconds of the clock and of processors, and what it returns."""
    begun, processor_begun = time.perf_counter(), processor_s(jvm)
    found = run()
    return time.perf_counter() - begun, processor_s(jvm) - processor_begun, found


def own(root: Path, interval: str) -> tuple[int, Decimal]:
    """Compute candles of all pairs with harvester: trades and value."""
    archive = harvester.open(root)
    table = archive.ohlc(archive.stored_pairs(), interval, all_columns=True).to_arrow_table()
    totals = duckdb.from_arrow(table).aggregate("sum(count)::BIGINT, sum(value)").fetchall()
    return totals[0][0], totals[0][1]


def on_spark(spark: SparkSession, root: Path, interval: str) -> tuple[int, Decimal]:
    """Compute all columns of the same candles with Spark: trades and value."""
    frame = harvester.spark.candles(spark, root, interval, all_columns=True)
    totals = [f"count(`{name}`)" for name in frame.columns]
    [row] = frame.selectExpr("sum(count)", "sum(value)", *totals).collect()
    return row[0], row[1]


def main() -> None:
    """Measure both in turn, round after round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, help="an archive, such as one of latency.py")
    parser.add_argument("-i", "--interval", default="1h")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    spark = (
        SparkSession.builder.master(f"local[{given.threads}]")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", str(given.threads))
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    spark.range(1000).count()
    # In local mode the JVM is what PySpark started.
    jvm = int(spark.sparkContext._jvm.java.lang.ProcessHandle.current().pid())  # noqa: SLF001
    with tempfile.TemporaryDirectory() as folder:
        without = Path(folder)
        shutil.copytree(given.archive / "trades", without / "trades")
        ways: dict[str, Callable[[], object]] = {
            "harvester, from roll-ups": lambda: own(given.archive, given.interval),
            "harvester, from trades": lambda: own(without, given.interval),
            "Spark, from trades": lambda: on_spark(spark, given.archive, given.interval),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        found = set()
        for _ in range(given.rounds):
            for name, run in ways.items():
                wall_s, cpu_s, answer = timed(run, jvm)
                print(f"{name:26} {wall_s:8.2f} s {cpu_s:8.2f} CPU s", flush=True)
                seconds[name].append((round(wall_s, 2), round(cpu_s, 2)))
                found.add(answer)
    spark.stop()
    if len(found) != 1:
        raise SystemExit(f"the answers differ: {found}")
    print("\nmedians")
    for name, values in seconds.items():
        wall_s, cpu_s = (median(column) for column in zip(*values, strict=True))
        print(f"{name:26} {wall_s:8.2f} s {cpu_s:8.2f} CPU s")
    print(json.dumps({"interval": given.interval, "found": str(found), "seconds": seconds}))


if __name__ == "__main__":
    main()
