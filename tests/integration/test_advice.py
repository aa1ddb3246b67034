"""Every command that a message, a help text or a page of the documentation names works as printed.

They are collected from the source, so a new one is tried without a word here.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import csv_files
import pytest
import sample_trades
from backfills import serve
from command_line import own_environment, program_of_server
from kraken_server import Exchange

from harvester.cli.main import COMMANDS, cli, load_command

ROOT = Path(__file__).parents[2]

XBTUSD = sample_trades.xbtusd_like(300, 51)
ETHEUR = sample_trades.sparse(20, 51)

PLACEHOLDERS = {
    "pair": "XBTUSD",
    "pair.altname": "XBTUSD",
    "footer.altname": "XBTUSD",
    "segment.pair": "XBTUSD",
    "writer.pair": "XBTUSD",
    "self.pair": "XBTUSD",
    "self._pair": "XBTUSD",
    "self.report.pair": "XBTUSD",
    "since": "2026-01-30",
    "show(gaps[-1].through + 1)": "2026-01-31T12:00:00.000000001",
    "shlex.quote(file)": "other.toml",
    "shlex.quote(text)": "XBT/USD",
    "command": "backfill XBTUSD ETHEUR",
    "data": "data",
    "holder.command": "refresh",
}
"""What stands for the expressions within the commands of messages."""

USAGE = {
    "PAIR...": "XBT/USD ETH/EUR",
    "[PAIR...]": "XBT/USD",
    "PAIR": "XBT/USD",
    "FILE...": "XBTUSD.csv --pair XBT/USD",
    "[TEXT]": "doge",
    "[QUERY]": "'FROM trades LIMIT 1'",
}
"""The README's table of commands has usage lines, which nobody takes for commands."""

PARSED_ONLY = {
    "harvester serve --data data --port 8722": "serves until it is interrupted",
    "harvester explore": "serves until it is interrupted",
    "harvester explore --data data": "serves until it is interrupted",
    "harvester mcp --data data": "answers until its stdin ends; test_mcp_server.py runs it",
    "harvester serve --data demo/data": "serves until it is interrupted",
    "harvester backfill XBT/USD --until 2026-01-25 --data trial --api-url http://127.0.0.1:8722 "
    "--rate 0": "needs the server of the line before",
    "harvester refresh --data trial --api-url http://127.0.0.1:8722 --rate 0": "needs it, too",
    "harvester serve --guess-sides": "serves until it is interrupted",
    "harvester status XBT/USD --watch": "watches until it is interrupted",
    "harvester follow XBT/USD ETH/USD": "follows until it is interrupted",
    "harvester follow XBT/USD ETH/EUR": "follows until it is interrupted",
    "harvester follow XBT/USD ETH/EUR --every 10s": "follows until it is interrupted",
    "harvester follow XBT/USD --since 2024-01-01": "follows until it is interrupted",
    "harvester follow XBT/USD --json | jq .last_price": "follows until it is interrupted",
    "harvester demo": "takes long; tests/integration/test_cli.py runs it",
    "harvester demo --trades 50000": "takes long; tests/integration/test_cli.py runs it",
    "harvester verify --against-exchange": "takes long; the line with a pair is run",
    "harvester verify --against-csv Kraken_OHLCVT.zip": "needs files of candles",
    "harvester verify XBT/USD --against-csv Kraken_OHLCVT_Q1_2026.zip": "needs files of candles",
    **dict.fromkeys(
        (
            "harvester ohlc XBT/USD -i 1h --data s3://my-bucket/kraken",
            "harvester refresh --sync s3://bucket/kraken",
            "harvester refresh --sync s3://my-bucket/kraken",
            "harvester serve --data s3://my-bucket/kraken",
            "harvester sync s3://...",
            "harvester sync s3://bucket/prefix",
            "harvester sync s3://my-bucket/kraken",
            "harvester sync s3://my-bucket/kraken --dry-run",
        ),
        "needs an object store; tests/engines/test_object_store.py has some",
    ),
    "harvester doctor --exchange": "the sample lists no stocks, so it ends with status 3",
    "harvester doctor --exchange --pair ETH/EUR": "the sample has no such pair",
}
"""Commands that are not run, and why: their words, options and values are parsed."""

STORIES = {"tutorial.md", "moving.md"}
"""Pages whose blocks are run from top to bottom, by test_docs.py."""


def texts_of(path: Path) -> Iterator[str]:
    """A file's strings that people may read, with `{expression}` for each value in them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            hidden |= {part for part in ast.walk(node) if part is not node}
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and not is_command(node):
                hidden.add(first.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                f"{{{ast.unparse(part.value)}}}"
                if isinstance(part, ast.FormattedValue)
                else str(ast.literal_eval(part))
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in hidden:
            yield node.value


def is_command(node: ast.AST) -> bool:
    """Whether a function's docstring is the help text of a command."""
    decorators = getattr(node, "decorator_list", [])
    return any("click.command" in ast.unparse(decorator) for decorator in decorators)


def commands_in(text: str) -> Iterator[str]:
    """The commands between backticks, and those that have a line of their own."""
    for found in re.findall(r"`(harvester [^`]+)`", text):
        yield " ".join(found.split())
    for found in re.findall(r"(?m)^\s*(?:Example: |run: )?(harvester [a-z]+(?: .*)?)$", text):
        if found.split()[1] in COMMANDS:
            yield found


def filled(command: str) -> str:
    """The command with sample values; an expression that is not known stays, and so fails."""
    return re.sub(r"\{([^{}]*)\}", lambda match: PLACEHOLDERS.get(match[1], match[0]), command)


def from_messages() -> set[str]:
    """What messages and help texts name."""
    paths = sorted((ROOT / "harvester").rglob("*.py"))
    return {
        filled(command)
        for path in paths
        for text in texts_of(path)
        for command in commands_in(text)
    }


def from_pages() -> set[str]:
    """What the README and the pages of docs name."""
    found = set()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"(?ms)^```(?:sh|text)\n(.*?)^```", text):
            if page.name in STORIES:
                continue
            found |= {command.partition("  #")[0].rstrip() for command in commands_in(block)}
        for line in re.sub(r"(?ms)^```.*?^```", "", text).split("\n\n"):
            for row in line.split("\n") if line.startswith("|") else [line]:
                for command in commands_in(row):
                    is_usage = page.name == "README.md" and row.startswith("| `")
                    # Prose calls a command by its name, which is no line to type.
                    if command.partition(" ")[2] not in COMMANDS:
                        found.add(usage_filled(command) if is_usage else command)
    return found


def usage_filled(command: str) -> str:
    return " ".join(USAGE.get(word, word) for word in command.split())


def without_spelling(command: str) -> str:
    """The command without how its pairs are spelled and what its start time is."""
    of_pairs = re.sub(r"\b(?:XBT|BTC|ETH)/?(?:USD|EUR)\b", "PAIR", command)
    return re.sub(r"--since [^ ]+", "--since TIME", of_pairs)


OF_MESSAGES, OF_PAGES = from_messages(), from_pages()
ADVISED = sorted(OF_MESSAGES | OF_PAGES)
RUN = {without_spelling(line): line for line in reversed(ADVISED) if line not in PARSED_ONLY}
"""Of the commands that are alike but for the spelling, the first."""


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with serve(
        sample_trades.market(XBTUSD, wsname="XBT/USD"),
        sample_trades.market(
            ETHEUR, altname="ETHEUR", key="XETHZEUR", wsname="ETH/EUR", base="XETH"
        ),
        sample_trades.market(
            sample_trades.sparse(20, 52),
            altname="ETHUSD",
            key="XETHZUSD",
            wsname="ETH/USD",
            base="XETH",
        ),
        sample_trades.market(
            sample_trades.sparse(20, 53),
            altname="XDGUSD",
            key="XXDGZUSD",
            wsname="XDG/USD",
            base="XXDG",
        ),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def shell(exchange: Exchange, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell that has `harvester`, and no one's home or configuration."""
    programs = tmp_path_factory.mktemp("bin")
    with program_of_server(programs):
        yield own_environment(
            PATH=f"{programs}{os.pathsep}{os.environ['PATH']}",
            HOME=str(tmp_path_factory.mktemp("home")),
            HARVESTER_API_URL=exchange.url,
            HARVESTER_EXCHANGE_RATE="0",
        )


def run(command: str, shell: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", command],
        env=shell,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def sample(shell: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive, and the files that the commands name."""
    folder = tmp_path_factory.mktemp("sample")
    done = run("harvester backfill XBTUSD ETHEUR ETHUSD -q", shell, folder)
    assert done.returncode == 0, done.stderr
    rows = {
        "XBTUSD.csv": csv_files.three_columns(XBTUSD),
        "ETHEUR.csv": csv_files.three_columns(ETHEUR),
    }
    (folder / "XBTUSD.csv").write_bytes(rows["XBTUSD.csv"])
    for name in ("Kraken_Trading_History.zip", "Kraken_Trading_History_Q1_2026.zip"):
        csv_files.packed(folder / name, rows)
    (folder / "hours.sql").write_text("FROM ohlc('XBT/USD', '1h')")
    return folder


def test_there_are_commands_to_try() -> None:
    """Of each kind one that is known to be there: so none of them is overlooked."""
    assert {
        "harvester backfill XBTUSD --replace-imported",
        "harvester pairs doge",
        "harvester chart XBT/USD -i 1h --data data -o chart.html",
    } <= OF_MESSAGES
    assert {"harvester sql --db kraken.db", "harvester config --init"} <= OF_PAGES
    assert set(ADVISED) >= set(PARSED_ONLY)


@pytest.mark.parametrize("command", sorted(RUN.values()))
def test_a_command_that_is_named_works(
    command: str, shell: dict[str, str], sample: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    shutil.copytree(sample, folder)
    done = run(command, shell, folder)
    assert (done.returncode, done.stderr if done.returncode else "") == (0, "")


@pytest.mark.parametrize("command", sorted({*ADVISED} - {*RUN.values()}))
def test_a_command_that_is_not_run_is_parsed(command: str) -> None:
    name, *words = shlex.split(command)[1:]
    root = click.Context(cli, **cli.context_settings)
    load_command(name).make_context(name, words, parent=root).close()


def advice(command: str, shell: dict[str, str], folder: Path) -> list[str]:
    """The commands that a command names on stderr, but for the way to its help."""
    found = list(commands_in(run(command, shell, folder).stderr))
    return [line for line in found if not line.endswith("--help")]


@pytest.mark.parametrize(
    "command",
    [
        "harvester backfill XBTUSX",
        "harvester backfill '*/FOO'",
        "harvester refresh 'no such pair'",
        "harvester ohlc XBTUSX -i 1h",
        "harvester trades 'no such pair'",
        "harvester status 'it'\\''s'",
        "harvester trades XBT/USD --until 2013-01-01",
        "harvester bars XDGUSD --trades 5",
        "harvester chart XBT/USD -i 1h --until 2013-01-01",
        "harvester import XBTUSD.csv --pair XBT/USD --data new",
        "harvester status --data new",
        "harvester status --data 'a b'",
        "harvester refresh --data 'a b'",
        "harvester trades XBT/USD --data 'a b'",
        "harvester trades XBT/USD --until 2013-01-01 -d data",
        "harvester --data data",
        "harvester --data data -v",
        "harvester --data data pairs doge",
        "harvester --quote USD --all --dry-run",
        "harvester --volume 10 bars XBT/USD",
        "harvester verify --config no.toml",
    ],
)
def test_a_command_that_is_named_on_the_way_works(
    command: str, shell: dict[str, str], sample: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    shutil.copytree(sample, folder)
    for name in ("new", "a b"):
        (folder / name).mkdir()
    advised = advice(command, shell, folder)
    assert advised
    for line in advised:
        done = run(line, shell, folder)
        assert (line, done.returncode, done.stderr if done.returncode else "") == (line, 0, "")


@pytest.mark.parametrize(
    "words", ["--data status", "--replace-imported ohlc XBTUSD -i 1h", "--fill no ohlc"]
)
def test_no_order_of_words_is_advised_that_no_command_takes(
    words: str, shell: dict[str, str], sample: Path
) -> None:
    done = run(f"harvester {words}", shell, sample)
    assert (done.returncode, advice(f"harvester {words}", shell, sample)) == (2, [])
    assert "goes after the command" in done.stderr


def test_a_printed_command_names_the_same_archive_and_configuration(
    shell: dict[str, str], sample: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    shutil.copytree(sample, folder)
    (folder / "a b").mkdir()
    (folder / "other.toml").write_text("[exchange]\ntimeout_s = 20\n")
    command = "harvester trades XDG/USD --config other.toml --data 'a b'"
    [line] = advice(command, shell, folder)
    assert shlex.split(line)[-4:] == ["--data", "a b", "--config", "other.toml"]
    assert run(line, shell, folder).returncode == 0
    assert not (folder / "data" / "trades" / "pair=XDGUSD").exists()
    assert run(command, shell, folder).stdout.count("\n") > 1
