"""`harvester mcp`, by the client of the package mcp: tools that answer as the archive does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
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


class Session:
    """A client's session with one server, which has a process of its own."""

    def __init__(self, client: Client, portal: BlockingPortal) -> None:
        self._client = client
        self._portal = portal

    def tools(self) -> list[Any]:
        return list(self._portal.call(self._client.list_tools).tools)

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """The result of a tool."""
        return self._portal.call(self._client.call_tool, name, arguments)


@pytest.fixture(scope="module")
def session(archive: harvester.Archive) -> Iterator[Session]:
    """One that all tests share: it goes on after each answer, and after each error."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Client(server(archive))) as client,
    ):
        yield Session(client, portal)


def test_each_tool_has_a_description_and_a_schema(session: Session) -> None:
    found = {tool.name: tool for tool in session.tools()}
    assert list(found) == ["pairs", "coverage", "candles", "trades", "sql"]
    for tool in found.values():
        assert len(tool.description) > 50
        assert tool.annotations.read_only_hint
        for argument in tool.input_schema["properties"].values():
            assert argument["description"]
    assert found["candles"].input_schema["required"] == ["pair"]
    assert found["trades"].input_schema["properties"]["count"]["maximum"] == 500


def test_the_tools_answer_what_is_stored(archive: harvester.Archive, session: Session) -> None:
    results = [
        session.call("pairs", {}),
        session.call("coverage", {"pair": "btc/usd"}),
        session.call("candles", {"pair": "XBT/USD", "interval": "1d"}),
        session.call("trades", {"pair": "XBTUSD", "place": "oldest", "count": 2}),
        session.call("sql", {"query": "SELECT count(*) AS trades FROM trades"}),
    ]
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


def test_an_error_says_what_is_wrong(session: Session) -> None:
    """All in one session, which goes on after each of them."""
    texts: list[tuple[Call, str]] = [
        (("coverage", {"pair": "DOGE/EUR"}), "DOGE/EUR"),
        (("candles", {"pair": "XBTUSD", "interval": "1M"}), "months"),
        (("trades", {"pair": "XBTUSD", "count": 501}), "500"),
        (("sql", {"query": "FROM read_csv('/etc/passwd')"}), "disabled by configuration"),
        (("sql", {"query": "COPY (SELECT 1) TO '/tmp/new.csv'"}), "COPY is not allowed"),
        (("sql", {"query": "FROM trades", "rows": 10_001}), "10000"),
    ]
    for asked, said in texts:
        result = session.call(*asked)
        assert result.is_error, asked
        assert said in result.content[0].text, asked


def test_rows_have_a_limit(session: Session) -> None:
    result = session.call("sql", {"query": "FROM trades", "rows": 3})
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
