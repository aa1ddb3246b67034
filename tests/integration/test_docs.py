"""The pages of the documentation: links, anchors, paths, the index, and every block of code.

Commands that pages name are run one by one in test_advice.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any, NamedTuple

import csv_files
import pytest
import sample_trades
from backfills import serve
from click.testing import CliRunner

import harvester
from harvester.cli.main import cli, load_command
from harvester.server.sample_data import create_sample_archive

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INDEX = (DOCS / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *DOCS.glob("*.md"),
        *(ROOT / "notebooks").glob("*.md"),
        *(ROOT / "notebooks").glob("*.ipynb"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "data").glob("*.md"),
    ]
)
MARKDOWN = [path for path in PAGES if path.suffix == ".md"]
NAMES = sorted(path.name for path in DOCS.glob("*.md") if path.name != "README.md")

TESTED_ELSEWHERE = {
    ("python.md", "python"): "integration/test_api_examples.py",
    ("recipes.md", "python"): "engines",
    ("recipes.md", "sql"): "engines",
    ("tools.md", "python"): "engines",
    ("tools.md", "json"): "engines",
    ("object-store.md", "python"): "engines/test_object_store.py",
    ("other-engines.md", "python"): "engines",
    ("other-engines.md", "sql"): "engines",
    ("other-engines.md", "scala"): "engines",
}
"""Blocks of code that other tests run, by page and language."""

OUTPUT = {"", "text"}
"""Languages of blocks that show what is printed, or what lies where."""

SHELL_LINES_NOT_RUN = {
    "pip install": "installs from the package index; test_installed.py does so",
    "python3 -m venv": "makes a venv; test_installed.py does so",
    "export AWS_": "sets credentials; tests/engines has its own",
    "python -m harvester.spark": "tests/engines runs it",
    "spark-submit": "tests/engines runs the same program",
    "make ": "test_readme.py looks for the targets",
    ".venv/bin/pytest": "runs the tests",
    "systemctl --user": "changes this machine",
    "loginctl enable-linger": "changes this machine",
    "(crontab -l; harvester schedule cron) | crontab -": "changes this machine",
    "rsync -a": "needs another machine",
    "ssh -N": "needs another machine",
    "freqtrade ": "tests/engines runs it",
    "duckdb -readonly": "the shell of DuckDB; test_sql.py opens such files",
    "psql -c": "tests/engines runs it",
    "clickhouse client": "needs a server; tests/engines reads the same file",
    "mv all.parquet": "needs QuestDB; the page says that it is not tested",
}
"""Lines of shell blocks that call no harvester and that no test here runs, and why."""


class Block(NamedTuple):
    """A fenced block of code."""

    page: str
    line: int
    language: str
    code: str


def place_of(path: Path) -> str:
    """Where a page lies in the project."""
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    """A page, or what a notebook says between its code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def prose(text: str) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "`code`", re.sub(r"(?ms)^```.*?^```", "", text))


def blocks(*names: str) -> list[Block]:
    """The blocks of code of some pages."""
    found = []
    for name in names:
        text = (DOCS / name).read_text(encoding="utf-8")
        for match in re.finditer(r"(?ms)^```(\w*)\n(.*?)^```", text):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(name, line, match[1], match[2]))
    return found


# --- links ----------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors of a page, as GitHub and the website make them of its headings."""
    text = re.sub(r"(?ms)^```.*?^```", "", text_of(path))
    found = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"(?m)^#+ (.+)$", text):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-"))
    return found


def broken_links(path: Path) -> Iterator[str]:
    """Yield the links of a page that lead nowhere."""
    for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", prose(text_of(path))):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("path", PAGES, ids=place_of)
def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    assert list(broken_links(path)) == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n\n[a](page.md#one) [b](#two) [c](no.md) `[d](code.md)`\n")
    assert list(broken_links(page)) == ["#two", "no.md"]


@pytest.mark.parametrize("path", MARKDOWN, ids=place_of)
def test_paths_of_files_exist(path: Path) -> None:
    """Those in backticks that begin with a folder of the project, or of the package."""
    packages = "|".join(sorted(entry.name for entry in (ROOT / "harvester").iterdir()))
    folders = rf"(?:tests|benchmarks|docs|notebooks|{packages})"
    named = re.findall(rf"`({folders}/[\w/.-]+\.(?:py|md|txt))[`:]", text_of(path))
    places = (ROOT, ROOT / "harvester")
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


@pytest.mark.parametrize("path", MARKDOWN, ids=place_of)
def test_benchmarks_have_the_options_that_pages_name(path: Path) -> None:
    """They take too long to be run."""
    unknown = []
    for name, words in re.findall(r"(benchmarks/\w+\.py)([^`#\n]*)", text_of(path)):
        known = (ROOT / name).read_text(encoding="utf-8")
        unknown += [(name, word) for word in re.findall(r"--[\w-]+", words) if word not in known]
    assert unknown == []


# --- the index and the beginnings of pages --------------------------------------------------------


def listed(text: str) -> list[str]:
    """The pages of docs that the index lists, group by group, in order."""
    return re.findall(r"(?m)^- \[[^\]]+\]\(([\w-]+\.md)\): \S", text)


def test_the_index_lists_every_page_once() -> None:
    assert sorted(listed(INDEX)) == NAMES
    assert re.findall(r"(?m)^## (.+)$", INDEX) == ["Start here", "How to", "Reference", "Internals"]


def test_the_website_has_the_pages_of_the_index_in_its_order() -> None:
    website = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    in_menu = re.findall(r"(?m)^ +- .+: docs/([\w-]+\.md)$", website)
    assert [name for name in in_menu if name != "README.md"] == listed(INDEX)
    assert re.findall(r"(?m)^  - ([^:]+):$", website) == re.findall(r"(?m)^## (.+)$", INDEX)


@pytest.mark.parametrize("name", [*NAMES, "README.md"])
def test_a_page_begins_with_what_it_is_for(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    title, *paragraphs = re.sub(r"(?s)<!--.*?-->\n*", "", text).split("\n\n")
    assert re.fullmatch(r"# .+", title)
    assert re.match(r"(?s)[A-Z].*[.:]$", paragraphs[0]), paragraphs[0]


# --- code -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive `data` of made-up trades, and a database file of its views."""
    place = tmp_path_factory.mktemp("docs")
    create_sample_archive(place / "data", 20_000, 7)
    harvester.open(place / "data").write_database(place / "kraken.db")
    return place


def test_every_block_of_code_has_a_test() -> None:
    here = {"python", "sh", "toml", "json", "ini"} | OUTPUT
    rest = [
        f"{block.page}:{block.line} ({block.language})"
        for block in blocks(*NAMES, "README.md")
        if block.language not in here and (block.page, block.language) not in TESTED_ELSEWHERE
    ]
    assert rest == []
    assert [
        place for place in TESTED_ELSEWHERE.values() if not (ROOT / "tests" / place).exists()
    ] == []


def python_pages() -> list[str]:
    """The pages with Python code that no other test runs."""
    pages = {block.page for block in blocks(*NAMES) if block.language == "python"}
    return sorted(page for page in pages if (page, "python") not in TESTED_ELSEWHERE)


@pytest.mark.parametrize("name", python_pages())
def test_the_python_of_a_page_runs(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for linked in folder.iterdir():
        (tmp_path / linked.name).symlink_to(linked)
    monkeypatch.chdir(tmp_path)
    with harvester.open("data") as archive:
        names: dict[str, Any] = {"archive": archive}
        for block in blocks(name):
            if block.language == "python":
                code = compile("\n" * block.line + block.code, f"docs/{name}", "exec")
                exec(code, names)  # noqa: S102


def shell_lines(block: Block) -> Iterator[str]:
    """Yield the commands of a shell block without their comments."""
    for line in block.code.replace("\\\n", " ").splitlines():
        command = line.partition("  #")[0].strip()
        if command and not command.startswith("#"):
            yield command


def is_script(block: Block) -> bool:
    """Whether a block is a whole program, which test_notify.py runs."""
    return block.code.startswith("#!")


def test_every_shell_line_is_run_or_has_a_reason() -> None:
    """Lines that begin with `harvester` are run by test_advice.py, which collects them."""
    rest = [
        f"{block.page}:{block.line}: {line}"
        for block in blocks(*NAMES, "README.md")
        if block.language == "sh" and block.page not in RUN_IN_ORDER and not is_script(block)
        for line in shell_lines(block)
        if not line.startswith(("harvester ", *SHELL_LINES_NOT_RUN))
    ]
    assert rest == []


RUN_IN_ORDER = {
    "tutorial.md": ("systemctl --user", "loginctl enable-linger"),
    "moving.md": ("rsync -a", "harvester serve", "ssh -N", "harvester backfill XBT/USD --api-url"),
}
"""Pages whose shell blocks are run from top to bottom, and the lines that are only parsed."""


@pytest.mark.parametrize("name", sorted(RUN_IN_ORDER))
def test_the_commands_of_a_page_run_from_top_to_bottom(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trades = sample_trades.xbtusd_like(300, 51)
    rows = {"XBTUSD.csv": csv_files.three_columns(trades)}
    csv_files.packed(tmp_path / "Kraken_Trading_History.zip", rows)
    lines = [
        line for block in blocks(name) if block.language == "sh" for line in shell_lines(block)
    ]
    for block in blocks(name):
        if block.language == "toml":
            (tmp_path / "config.toml").write_text(block.code)
    if name == "moving.md":
        create_sample_archive(tmp_path / "data", 2_000, 7)
        # The page's first step moves the archive, and the following ones begin with `data` again.
        lines.insert(2, "mv archive-of-kraken data")
    with serve(sample_trades.market(trades, wsname="XBT/USD")) as exchange:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("HARVESTER_API_URL", exchange.url)
        monkeypatch.setenv("HARVESTER_EXCHANGE_RATE", "0")
        for line in lines:
            if not line.startswith(RUN_IN_ORDER[name]):
                assert run_line(line) == (0, line)
            elif line.startswith("harvester "):
                command, *words = shlex.split(line)[1:]
                load_command(command).make_context(command, words).close()


def run_line(line: str) -> tuple[int, str]:
    """Run a line of a shell, a command of harvester in this process.

    Returns the status and, if it is 0, the line; else what was printed.
    """
    program, *words = shlex.split(line)
    if program != "harvester":
        status = subprocess.run([program, *words], check=False).returncode
        return status, line
    done = CliRunner().invoke(cli, [word.replace("~", os.environ["HOME"]) for word in words])
    return done.exit_code, f"{done.output}{done.exception or ''}" if done.exit_code else line


def test_settings_and_json_on_pages_are_valid(tmp_path: Path) -> None:
    tried = 0
    for block in blocks(*NAMES, "README.md"):
        if block.language == "toml":
            file = tmp_path / "config.toml"
            file.write_text(block.code)
            harvester.open(tmp_path / "data", config=file)
            tried += 1
        elif block.language == "json":
            json.loads(block.code)
            tried += 1
    assert tried > 5


def test_units_on_pages_start_a_command_that_exists() -> None:
    units = [block for block in blocks(*NAMES) if block.language == "ini"]
    assert units
    for unit in units:
        parser = ConfigParser(interpolation=None)
        parser.read_string(unit.code)
        name, *words = parser["Service"]["ExecStart"].partition("/harvester ")[2].split()
        load_command(name).make_context(name, words).close()
