"""`harvester mcp`, by the client of the package mcp: tools that answer as the archive does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from explorer_archive import GAP, START_NS, sample_archive

pytest.importorskip("mcp", reason="the extra mcp is not installed")

from mcp import Client, StdioServerParameters

import harvester
from harvester.errors import not_installed
from harvester.exporters.formats import as_text
from harvester.times import DAY, show

Call = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harvester.Archive]:
    folder = tmp_path_factory.mktemp("asked") / "data"
    with sample_archive(folder, (GAP,), trades=5_000) as opened:
        yield opened


def server(archive: harvester.Archive) -> StdioServerParameters:
    code = "from harvester.cli.main import main; main()"
    arguments = ["-c", code, "mcp", "--data", archive.path]
    return StdioServerParameters(command=sys.executable, args=arguments)


def call(archive: harvester.Archive, *calls: Call) -> list[Any]:
    """The results of some calls of tools, in one session with a process of its own."""

    async def run() -> list[Any]:
        async with Client(server(archive)) as client:
            return [await client.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(run())


def test_each_tool_has_a_description_and_a_schema(archive: harvester.Archive) -> None:
    async def tools() -> list[Any]:
        async with Client(server(archive)) as client:
            return list((await client.list_tools()).tools)

    found = {tool.name: tool for tool in asyncio.run(tools())}
    assert list(found) == ["pairs", "coverage", "candles", "trades", "sql"]
    for tool in found.values():
        assert len(tool.description) > 50
        assert tool.annotations.read_only_hint
        for argument in tool.input_schema["properties"].values():
            assert argument["description"]
    assert found["candles"].input_schema["required"] == ["pair"]
    assert found["trades"].input_schema["properties"]["count"]["maximum"] == 500


def test_the_tools_answer_what_is_stored(archive: harvester.Archive) -> None:
    results = call(
        archive,
        ("pairs", {}),
        ("coverage", {"pair": "btc/usd"}),
        ("candles", {"pair": "XBT/USD", "interval": "1d"}),
        ("trades", {"pair": "XBTUSD", "place": "oldest", "count": 2}),
        ("sql", {"query": "SELECT count(*) AS trades FROM trades"}),
    )
    assert not [result.content for result in results if result.is_error]
    pairs, coverage, candles, trades, sql = (result.structured_content for result in results)
    total = archive.trades("XBTUSD").shape[0]
    assert [(pair["pair"], pair["trades"]) for pair in pairs["pairs"]] == [("XBTUSD", total)]
    assert coverage["gaps"] == [
        {"since": show(START_NS + 2 * DAY), "until": show(START_NS + 4 * DAY)}
    ]
    [batch] = archive.ohlc("XBTUSD", "1d").to_arrow_table().to_batches()
    close = candles["columns"].index("close")
    assert [row[close] for row in candles["rows"]] == as_text(batch).column("close").to_pylist()
    assert [row["trade_id"] for row in trades["trades"]] == [1, 2]
    assert sql["rows"] == [[str(total)]]


def test_an_error_says_what_is_wrong(archive: harvester.Archive) -> None:
    """All in one session, which goes on after each of them."""
    texts: list[tuple[Call, str]] = [
        (("coverage", {"pair": "DOGE/EUR"}), "DOGE/EUR"),
        (("candles", {"pair": "XBTUSD", "interval": "1M"}), "months"),
        (("trades", {"pair": "XBTUSD", "count": 501}), "500"),
        (("sql", {"query": "FROM read_csv('/etc/passwd')"}), "disabled by configuration"),
        (("sql", {"query": "COPY (SELECT 1) TO '/tmp/new.csv'"}), "COPY is not allowed"),
        (("sql", {"query": "FROM trades", "rows": 10_001}), "10000"),
    ]
    results = call(archive, *(asked for asked, _ in texts))
    for (asked, said), result in zip(texts, results, strict=True):
        assert result.is_error, asked
        assert said in result.content[0].text, asked


def test_rows_have_a_limit(archive: harvester.Archive) -> None:
    [result] = call(archive, ("sql", {"query": "FROM trades", "rows": 3}))
    assert len(result.structured_content["rows"]) == 3
    assert result.structured_content["is_cut"]


def test_without_the_extra_the_command_says_what_to_install(archive: harvester.Archive) -> None:
    code = "import sys; sys.modules['mcp'] = None; from harvester.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "mcp", "--data", archive.path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    error = not_installed("the command mcp needs the package mcp", "mcp")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"harvester: {error}\n")
