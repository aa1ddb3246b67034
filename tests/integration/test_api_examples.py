"""The examples of docstrings and of docs/python.md are run, on trades of an API server."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from api_server import serving

import harvester
from harvester.cli.main import COMMANDS
from harvester.server.sample_data import create_sample_archive

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
PUBLIC = {
    f"{kind.__name__}.{name}": member
    for kind in (harvester.Archive, harvester.Result, harvester.Chart)
    for name, member in inspect.getmembers(kind)
    if not name.startswith("_") and callable(member)
} | {"open": harvester.open, "sample_exchange": harvester.sample_exchange}
NOT_IN_PYTHON = {"mcp", "completion", "config", "schedule", "serve", "demo"}
"""Commands about settings, and about serving made-up or stored trades."""
METHOD_OF = {"import": "import_csv"}
"""Methods that can't have the name of their command, a word of Python's."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to stand in, beside an exchange of 20,000 made-up trades."""
    source = create_sample_archive(tmp_path / "exchange", 20_000, 7)
    (tmp_path / "here").mkdir()
    trades = harvester.open(source.path).trades("XBT/USD").fetchall()
    lines = [
        f"{int(time.timestamp())},{price},{volume}\n" for _, time, _, price, volume, *_ in trades
    ]
    (tmp_path / "here" / "XBTUSD.csv").write_text("".join(lines))
    monkeypatch.chdir(tmp_path / "here")
    with serving(source) as url:
        monkeypatch.setenv("HARVESTER_EXCHANGE_URL", url)
        monkeypatch.setenv("HARVESTER_EXCHANGE_RATE", "0")
        monkeypatch.setenv("HARVESTER_REFRESH_SETTLE_S", "0")
        yield tmp_path / "here"


def test_the_examples_of_the_docstrings_are_right(folder: Path) -> None:
    create_sample_archive(folder / "data", 20_000, 7)
    names = {"harvester": harvester, "asyncio": asyncio, "duckdb": duckdb}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    printed: list[str] = []
    tried = 0
    for name, member in PUBLIC.items():
        archive = harvester.open("data")
        [test] = doctest.DocTestFinder(recurse=False).find(
            member, name, globs=names | {"archive": archive}
        )
        assert test.examples, f"{name} has no example"
        tried += len(test.examples)
        runner.run(test, out=printed.append)
    assert (runner.summarize(verbose=False).failed, printed) == (0, [])
    assert tried > 30


@pytest.mark.usefixtures("folder")
def test_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 14
    for block in blocks:
        line = PAGE[: PAGE.index(block)].count("\n")
        exec(compile("\n" * line + block, "docs/python.md", "exec"), names)  # noqa: S102


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_page_has_every_method(name: str) -> None:
    assert re.search(rf"`(?:harvester)?\.{name.rpartition('.')[2]}\(", PAGE)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - NOT_IN_PYTHON))
def test_every_command_is_a_method(name: str) -> None:
    assert hasattr(harvester.Archive, METHOD_OF.get(name, name))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_docstring_names_errors_that_exist(name: str) -> None:
    text = PUBLIC[name].__doc__ or ""
    raised = re.findall(r"^        +([A-Z]\w+): ", text.partition("Raises:")[2], re.MULTILINE)
    known = {*harvester.__all__, "KeyboardInterrupt"}
    assert [error for error in raised if error not in known] == []
