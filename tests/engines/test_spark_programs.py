"""Programs that run Spark by themselves: those of the documentation, and Spark Connect."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from candle_cases import MADE_HISTORIES
from engines import REASON
from recipes import blocks
from spark_candles import MARKS, archive_of_three_pairs, assert_equal, expected, small_archive

import harvester

pyspark = pytest.importorskip("pyspark", reason=REASON.format("pyspark"))
pytestmark = MARKS


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> harvester.Archive:
    return archive_of_three_pairs(tmp_path_factory.mktemp("archives") / "data")


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, with this Python and its Spark."""
    names = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(harvester.__file__).parents[1]),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_SUBMIT_ARGS": "--master local[2] --conf spark.ui.enabled=false pyspark-shell",
    }
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | names | environment,
        timeout=600,
    )


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    archive = small_archive(tmp_path / "data", MADE_HISTORIES["busy"])
    code = "\n".join(blocks("Spark", "python", "other-engines.md"))
    checks = "[row] = trades.selectExpr('count(*)', 'sum(volume)').collect(); print(tuple(row))"
    done = run(tmp_path, sys.executable, "-c", f"{code}\n{checks}")
    assert done.returncode == 0, done.stderr
    totals = archive.trades("XBTUSD").aggregate("count(*), sum(volume)").fetchall()
    assert done.stdout.endswith(f"\n{totals[0]}\n")
    [file] = (tmp_path / "candles/interval=1d/pair=XBTUSD").glob("*.parquet")
    made = pq.read_table(file, partitioning=None).to_pylist()
    truth = archive.ohlc("XBTUSD", "1d", since="2020-01-01").to_arrow_table().to_pylist()
    assert [row["close"] for row in made] == [row["close"] for row in truth]


def test_the_programs_of_the_page_run(tmp_path: Path) -> None:
    archive = small_archive(tmp_path / "data", MADE_HISTORIES["busy"])
    truth = archive.ohlc("XBTUSD", "1h", all_columns=True).to_arrow_table()
    [lines] = blocks("Spark", "sh", "other-engines.md")
    for line, columns in zip(lines.splitlines(), (20, 8), strict=True):
        here = line.replace("spark://host:7077", "local[2]")
        done = run(tmp_path, "bash", "-c", here)
        assert done.returncode == 0, done.stderr
        # spark-submit writes to stdout what its program writes to stderr.
        assert "written: candles/interval=1h\n" in done.stdout + done.stderr
        [file] = (tmp_path / "candles/interval=1h/pair=XBTUSD").glob("*.parquet")
        made = pq.read_table(file, partitioning=None)
        assert made.column("volume").to_pylist() == truth.column("volume").to_pylist()
        assert made.num_columns == columns


def test_the_module_reports_an_error_as_a_line(archive: harvester.Archive, tmp_path: Path) -> None:
    done = run(
        tmp_path, sys.executable, "-m", "harvester.spark", archive.path, "-i", "1M", "-o", "out"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "harvester: interval '1M': is 1m (minutes) meant, or 1mo (months)?\n" in done.stderr


CONNECT = """
import sys
from pathlib import Path
from pyspark.sql import SparkSession
import harvester.spark
root, out = sys.argv[1:]
spark = SparkSession.builder.remote("local[2]").getOrCreate()
spark.conf.set("spark.sql.ansi.enabled", "false")
frame = harvester.spark.candles(spark, root, "1h", all_columns=True)
assert type(frame).__module__.startswith("pyspark.sql.connect")
frame.coalesce(1).write.parquet(out)
print("written", harvester.spark.write_candles(spark, root, "1d", out + "2"))
"""


def test_spark_connect_gives_the_same(archive: harvester.Archive, tmp_path: Path) -> None:
    pytest.importorskip("grpc", reason=REASON.format("pyspark[connect]"))
    place = str(tmp_path / "out")
    command = (sys.executable, "-c", CONNECT, archive.path, place)
    done = run(tmp_path, *command, PYSPARK_SUBMIT_ARGS="pyspark-shell")
    assert done.returncode == 0, done.stderr
    assert f"written {tmp_path}/out2/interval=1d" in done.stdout
    made = pq.read_table(place, partitioning=None)
    nanoseconds = made.column("time").cast("timestamp[ns]").cast("int64")
    made = made.set_column(made.column_names.index("time"), "time", nanoseconds)
    assert_equal(sorted(tuple(row.values()) for row in made.to_pylist()), expected(archive, "1h"))
