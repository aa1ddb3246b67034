"""Imports go one way, each outside library has one home, and one file prints."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2] / "harvester"

# From the top down; `__init__` is the public API, on which the commands are a thin skin.
LAYERS = (
    "__main__",
    "spark",
    "cli",
    "__init__",
    "archive",
    "async_runner",
    "progress_bars",
    "progress",
    "notebook",
    "operations",
    "verify",
    "csv_import",
    "server",
    "charts",
    "exporters",
    "download",
    "pair_selection",
    "query",
    "storage",
    "events",
    "kraken",
    "config",
    "argument_types",
    "schema",
    "times",
    "errors",
)
INDEPENDENT = {("storage", "kraken"), ("query", "kraken")}
HOMES = {
    "httpx": "kraken",
    "isal": "csv_import",
    "stamina": "kraken",
    "duckdb": "query",
    "pyarrow.parquet": "storage",
    "filelock": "storage",
    "fsspec": "storage",
    "obstore": "storage",
    "starlette": "server",
    "uvicorn": "server",
    "mcp": "server",
    "plotly": "charts",
    "kaleido": "charts",
    "click": "cli",
    "rich": "progress_bars",
    "pyspark": "spark",
}
SECOND_HOMES = {("cli", "rich")}
"""The progress bar is drawn for Python's callers, too; `status --watch` redraws a table."""
IN_NOTEBOOKS = {"IPython"}
"""Imported where a notebook runs, so it is installed there."""
HEAVY = (
    "httpx",
    "pyarrow",
    "duckdb",
    "pandas",
    "numpy",
    "plotly",
    "polars",
    "pyspark",
    "starlette",
    "uvicorn",
)


LIBRARIES = ("polars", "png", "mcp", "s3", "spark")
"""The extras whose packages are imported here."""


class Use(NamedTuple):
    """A module that a file names, and where."""

    module: str
    line: int


def uses(source: str, package: str) -> Iterator[Use]:
    """Every import of a source, wherever it stands; names taken from a module are tried as such."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Use(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield from (Use(f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            # `import pyarrow as pa` reaches a submodule as an attribute.
            if (node.value.id, node.attr) == ("pa", "parquet"):
                yield Use("pyarrow.parquet", node.lineno)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in {"import_module", "importlib.import_module", "__import__"}:
                yield Use(str(node.args[0].value), node.lineno)


def layer_of(module: str) -> str:
    """The layer that a module of ours lies in; what is none of the layers is the package itself."""
    first = module.split(".")[1] if "." in module else "__init__"
    return first if (ROOT / first).is_dir() or (ROOT / f"{first}.py").is_file() else "__init__"


def files() -> list[tuple[str, str, Path]]:
    """Room, package and path of each file of the product."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        layer = parts[1]
        found.append((layer, ".".join(parts[:-1]), path))
    return found


@cache
def all_uses() -> list[tuple[str, Path, Use]]:
    """Layer, file and import, of every import of the product."""
    return [
        (layer, path.relative_to(ROOT), use)
        for layer, package, path in files()
        for use in uses(path.read_text(), package)
    ]


def is_of(module: str, library: str) -> bool:
    return module == library or module.startswith(f"{library}.")


def test_every_file_lies_in_a_layer_that_has_its_place() -> None:
    assert {layer for layer, _, _ in files()} - set(LAYERS) == set()


def test_imports_go_down_the_list_of_layers_only() -> None:
    wrong = []
    for layer, path, use in all_uses():
        if not is_of(use.module, "harvester") or use.module == "harvester.__version__":
            continue
        target = layer_of(use.module)
        if target != layer and LAYERS.index(target) <= LAYERS.index(layer):
            wrong.append(f"{path}:{use.line} imports {use.module}")
    assert wrong == []


def test_kraken_and_archive_and_candles_and_kraken_know_nothing_of_each_other() -> None:
    wrong = [
        f"{path}:{use.line} imports {use.module}"
        for layer, path, use in all_uses()
        if is_of(use.module, "harvester")
        and {(layer, layer_of(use.module)), (layer_of(use.module), layer)} & INDEPENDENT
    ]
    assert wrong == []


def test_the_download_package_imports_neither_http_nor_sql() -> None:
    wrong = [
        f"{path}:{use.line} imports {use.module}"
        for layer, path, use in all_uses()
        if layer == "download"
        and any(is_of(use.module, lib) for lib in ("httpx", "duckdb", "sqlite3"))
    ]
    assert wrong == []


def test_each_outside_library_has_one_home() -> None:
    wrong = [
        f"{path}:{use.line} imports {use.module}, which belongs in {home}"
        for layer, path, use in all_uses()
        for library, home in HOMES.items()
        if is_of(use.module, library) and layer != home and (layer, library) not in SECOND_HOMES
    ]
    assert wrong == []


def test_each_home_is_lived_in() -> None:
    at_home = {
        library
        for layer, _, use in all_uses()
        for library, home in HOMES.items()
        if is_of(use.module, library) and layer == home
    }
    assert at_home == set(HOMES)


def test_output_alone_prints() -> None:
    wrong = []
    for _, _, path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in {"print", "click.echo", "click.secho", "rich.print"}:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} calls {called}")
    assert [text for text in wrong if not text.startswith("cli/output.py:")] == []


def test_no_layer_is_called_by_what_it_has_no_name_for() -> None:
    stems = {path.stem for _, _, path in files()}
    assert stems & {"utils", "util", "helpers", "common", "models", "misc"} == set()


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    code = f"import sys, harvester.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    made = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT.parent,
    )
    assert (made.stdout, made.stderr) == ("[]\n", "")


# The reader of imports is held to what it must not overlook.


def test_a_lazy_import_is_seen() -> None:
    assert list(uses("def f():\n    import duckdb\n", "harvester.cli")) == [Use("duckdb", 2)]


def test_an_import_for_types_alone_is_seen() -> None:
    source = "if TYPE_CHECKING:\n    from harvester.storage.trade_store import TradeStore\n"
    assert list(uses(source, "harvester.kraken")) == [
        Use("harvester.storage.trade_store.TradeStore", 2)
    ]


def test_a_relative_import_is_seen() -> None:
    assert list(uses("from ..storage import filesystem", "harvester.kraken")) == [
        Use("harvester.storage.filesystem", 1)
    ]


def test_a_module_taken_from_its_package_is_seen() -> None:
    assert list(uses("from pyarrow import parquet", "harvester.cli")) == [Use("pyarrow.parquet", 1)]


def test_an_import_by_name_is_seen() -> None:
    assert list(uses("importlib.import_module('httpx')", "harvester.cli")) == [Use("httpx", 1)]


def test_what_is_imported_is_installed_with_harvester_or_by_an_extra() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        return {requirement.partition(">=")[0] for requirement in requirements}

    imported = {use.module.partition(".")[0] for _, _, use in all_uses()}
    foreign = imported - set(sys.stdlib_module_names) - {"harvester"}
    optional = foreign - names(project["dependencies"]) - IN_NOTEBOOKS
    assert optional == names([name for extra in LIBRARIES for name in extras[extra]])
