"""What the README says is run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sample_trades
from backfills import serve
from command_line import HARVESTER, run_harvester

from harvester.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's blocks of code."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Its lines that call harvester."""
    return [
        line
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("harvester ")
    ]


def test_its_commands_run(tmp_path: Path) -> None:
    markets = [
        sample_trades.market(sample_trades.xbtusd_like(300, 51), wsname="XBT/USD"),
        sample_trades.market(
            sample_trades.sparse(20, 51),
            altname="ETHEUR",
            key="XETHZEUR",
            wsname="ETH/EUR",
            base="XETH",
        ),
        sample_trades.market(
            sample_trades.sparse(20, 52),
            altname="XDGUSD",
            key="XXDGZUSD",
            wsname="XDG/USD",
            base="XXDG",
        ),
    ]
    assert len(commands()) == 5
    with serve(*markets) as exchange:
        for line in commands():
            variables = os.environ | {
                "HARVESTER_API_URL": exchange.url,
                "HARVESTER_EXCHANGE_RATE": "0",
            }
            done = run_harvester(shlex.split(line, comments=True)[1:], variables, tmp_path)
            assert (line, done.returncode) == (line, 0), done.stderr


def test_its_python_runs_on_an_archive(tmp_path: Path) -> None:
    with serve(
        sample_trades.market(sample_trades.xbtusd_like(300, 53)), sample_trades.tiny_coin(100, 53)
    ) as exchange:
        subprocess.run(
            [*HARVESTER, "backfill", "XBTUSD", "BTTUSD", "-q", "--rate", "0", "-d", "data"],
            env={**os.environ, "HARVESTER_API_URL": exchange.url},
            cwd=tmp_path,
            check=True,
            timeout=60,
        )
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True, timeout=60)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_readme_has_every_command(name: str) -> None:
    assert f"| `harvester {name}" in README


def test_it_names_no_command_that_is_not_there() -> None:
    named = set(re.findall(r"\| `harvester ([a-z]+)", README))
    assert named == set(COMMANDS)


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_its_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_make_targets_it_names_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {
        line.split()[1] for block in blocks("sh") for line in block.splitlines() if "make" in line
    }
    assert {"demo", "test"} <= named
    assert all(f"\n{target}:" in makefile for target in named)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize(
    ("target", "installed"), [("demo", "."), ("test", ".[notebook,png,mcp,s3,dev]")]
)
def test_the_demo_installs_nothing_that_only_tests_need(
    tmp_path: Path, target: str, installed: str
) -> None:
    make = ["make", "--dry-run", f"VENV={tmp_path / 'venv'}", target]
    shown = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [install] = [shlex.split(line) for line in shown.splitlines() if " pip install " in line]
    assert install[install.index("--editable") + 1 :] == [installed]
