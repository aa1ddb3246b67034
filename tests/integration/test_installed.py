"""The main commands as a user has them: from the wheel, in a venv of its own, in another folder.

Here the venv borrows the libraries of the tests. `make check-newest`, `make check-oldest` and
`make dist` install harvester into venvs with libraries of their own, without constraints or extras,
and name their Python in HARVESTER_PYTHON.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRADES = 20_000
COUNT = "SELECT count(*) AS trades FROM tape('XBT/USD')"
FILES = (
    "import harvester, pathlib; top = pathlib.Path(harvester.__file__).parent; print(top); "
    "print(*(p.relative_to(top) for p in top.rglob('*.*') if p.suffix != '.pyc'), sep='\\n')"
)
"""Prints where the package is installed, and its files."""


def run(folder: Path, *command: str | Path, **variables: str) -> str:
    """What a command prints, which must end well."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("HARVESTER_")}
    done = subprocess.run(
        command, cwd=folder, env=known | variables, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr if done.returncode else "") == (0, "")
    return done.stdout


def with_the_wheel(folder: Path) -> Path:
    """Build the wheel, install it into a new venv, and return the venv's Python."""
    run(ROOT, sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", folder)
    [wheel] = folder.glob("*.whl")
    # Installing pip takes seconds, so the pip of the tests is used. uv makes venvs without it.
    has_pip = find_spec("pip") is not None
    venv.create(folder / "venv", symlinks=True, with_pip=not has_pip)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable if has_pip else str(python), "-m", "pip", "--python", str(python)]
    run(folder, *pip, "install", "--quiet", "--no-index", "--no-deps", wheel)
    # Only paths of libraries: the folder of this checkout must not be among them.
    borrowed = [path for path in sys.path if path.endswith("-packages")]
    site = next((folder / "venv").glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    return python


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Python and of harvester's commands in a venv."""
    named = os.environ.get("HARVESTER_PYTHON")
    python = Path(named) if named else with_the_wheel(tmp_path_factory.mktemp("wheel"))
    return python.absolute().parent


@pytest.fixture(scope="module")
def harvester(bin_folder: Path) -> Path:
    return bin_folder / "harvester"


@pytest.fixture(scope="module")
def folder(harvester: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo was run, so that `demo/data` is an archive."""
    made = tmp_path_factory.mktemp("installed")
    run(made, harvester, "demo", "--quiet", "--trades", str(TRADES))
    return made


@contextmanager
def served(harvester: Path, folder: Path) -> Iterator[str]:
    """`harvester serve` on a free port while the block runs; gives its URL."""
    process = subprocess.Popen(
        [harvester, "serve", "--data", "demo/data", "--port", "0"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        yield process.stderr.readline().split(" at ")[1].split()[0]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_it_has_every_file_of_the_checkout_and_no_other(folder: Path, bin_folder: Path) -> None:
    top, *installed = run(folder, bin_folder / "python", "-c", FILES).splitlines()
    assert Path(top).is_relative_to(bin_folder.parent)
    package = ROOT / "harvester"
    files = (path for path in package.rglob("*.*") if path.suffix != ".pyc")
    assert sorted(installed) == sorted(str(path.relative_to(package)) for path in files)


def test_it_has_a_second_command_of_the_name_of_the_package(
    folder: Path, bin_folder: Path, harvester: Path
) -> None:
    version = run(folder, harvester, "--version")
    assert run(folder, bin_folder / "kraken-harvester", "--version") == version


def test_sql_runs(folder: Path, harvester: Path) -> None:
    printed = run(folder, harvester, "sql", COUNT, "--data", "demo/data", "-f", "csv")
    assert printed == f"trades\n{TRADES}\n"


def test_a_database_is_opened_by_plain_duckdb(
    folder: Path, bin_folder: Path, harvester: Path
) -> None:
    run(folder, harvester, "sql", "--db", "views.db", "--data", "demo/data")
    plain = (
        "import duckdb; views = duckdb.connect('views.db', read_only=True); "
        "print(*views.sql(\"SELECT (SELECT count(*) FROM tape(pair := 'XBT/USD')), sum(count) "
        "FROM ohlc('btcusd', '1d')\").fetchall())"
    )
    assert run(folder, bin_folder / "python", "-c", plain) == f"({TRADES}, {TRADES})\n"


@pytest.mark.parametrize("kind", ["cron", "systemd", "launchd"])
def test_a_schedule_is_printed(folder: Path, harvester: Path, kind: str) -> None:
    printed = run(folder, harvester, "schedule", kind, "--data", "demo/data")
    assert str(folder / "demo" / "data") in printed


def test_a_chart_is_drawn(folder: Path, harvester: Path) -> None:
    chart = ["chart", "XBT/USD", "-i", "1h", "-o", "chart.html", "--data", "demo/data"]
    run(folder, harvester, *chart)
    assert "plotly" in (folder / "chart.html").read_text(encoding="utf-8")


def test_an_archive_is_served_and_copied(folder: Path, harvester: Path) -> None:
    with served(harvester, folder) as url:
        backfill = ["backfill", "XBT/USD", "--api-url", url, "--rate", "0", "--data", "copy"]
        run(folder, harvester, *backfill, HARVESTER_REFRESH_SETTLE_S="0")
    printed = run(folder, harvester, "sql", COUNT, "--data", "copy", "-f", "csv")
    assert printed == f"trades\n{TRADES}\n"
