"""The size and shape of the package: few modules, short functions, no import cycles, plain names.

`python tests/unit/test_structure.py` prints the figures.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "harvester"
FOLDERS_OF_CODE = ("harvester", "tests", "benchmarks")

MOST_MODULES = 110
LEAST_MEDIAN_LINES = 180
LARGE_LINES = 450
LONGEST_FUNCTION_LINES = 70

BANNED = frozenset(
    [
        "one",
        "tell",
        "told",
        "tells",
        "heard",
        "mend",
        "mended",
        "mending",
        "tend",
        "tending",
        "wish",
        "wishes",
        "owed",
        "anew",
        "torn",
        "gist",
        "gists",
        "ours",
        "theirs",
        "hole",
        "holes",
        "tape",
        "tapes",
        "mirror",
        "bulk",
    ]
)
"""Words that stand in no identifier: docs/glossary.md has the terms."""
ALLOWED = frozenset(("tape", "one_by_one", "tell"))
"""`tape` is the public SQL macro, `tell` a method of every file."""

BANNED_IN_TESTS = (BANNED - {"one"}) | {
    "asking",
    "crawl",
    "crawled",
    "crawling",
    "crawls",
    "hear",
    "hears",
    "holed",
    "jump",
    "jumps",
    "mends",
    "mirrors",
    "owe",
    "owes",
    "owing",
    "stranger",
    "strangers",
    "tick",
    "ticks",
    "wished",
}
"""Words that also stand in no identifier and no file name of tests and benchmarks."""
ALLOWED_IN_TESTS = frozenset(("on_trade_tick", "tick_size", "ticks"))
"""A method of nautilus_trader, a field of Kraken's AssetPairs, and a field of the run log."""


def modules() -> dict[str, Path]:
    """Every module with code, by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if path.name != "__init__.py" or path.parent == PACKAGE:
            found[name.removesuffix(".__init__")] = path
    return found


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@cache
def tree(path: Path) -> ast.Module:
    """A module of the package, parsed once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, path in modules().items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}.{node.name}", node


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring."""
    first = function.body[0]
    is_documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    doc = (first.end_lineno or 0) - first.lineno + 1 if is_documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - doc


def imports(path: Path, names: set[str]) -> set[str]:
    """The modules of the package that a module imports when it is loaded."""
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module:
                candidates = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
                found.update(name for name in candidates if name in names)
            elif (
                isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING"
            ) or isinstance(node, ast.Try):
                visit(node.body)

    visit(tree(path).body)
    return found


def cycles() -> list[list[str]]:
    """Groups of modules that import one another."""
    paths = modules()
    edges = {name: imports(path, set(paths)) - {name, "harvester"} for name, path in paths.items()}
    reached = {name: _reachable(name, edges) for name in edges}
    return [
        sorted([name, *(other for other in reached[name] if name in reached[other])])
        for name in sorted(edges)
        if name in reached[name]
    ]


def _reachable(name: str, edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(edges[name])
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += edges[module]
    return found


@cache
def identifiers(path: Path) -> tuple[tuple[int, str], ...]:
    """Every name that a module defines: functions, classes, parameters, variables, fields."""
    return tuple(_identifiers(path))


def _identifiers(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def words(identifier: str) -> set[str]:
    snake = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", identifier).lower()
    return set(snake.split("_"))


def test_modules_are_few_and_of_a_readable_size() -> None:
    sizes = sorted(line_count(path) for path in modules().values())
    assert len(sizes) <= MOST_MODULES
    assert statistics.median(sizes) >= LEAST_MEDIAN_LINES
    assert sum(size > LARGE_LINES for size in sizes) <= len(sizes) // 10


def test_no_function_is_long() -> None:
    long = {name: code_lines(node) for name, node in functions()}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION_LINES} == {}


def test_no_file_name_stands_for_two_things() -> None:
    names = Counter(
        path.name
        for path in modules().values()
        if path.parent.name != "cli" and path.name not in ("__init__.py", "__main__.py")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_function_passes_on_arguments_that_it_does_not_know() -> None:
    wrong = [
        name
        for name, node in functions()
        if node.args.kwarg is not None
        and node.args.kwarg.annotation is not None
        and ast.unparse(node.args.kwarg.annotation) == "Any"
    ]
    assert wrong == []


def test_no_modules_import_one_another() -> None:
    assert cycles() == []


def test_no_identifier_has_a_banned_word() -> None:
    wrong = [
        f"{name}:{line} {identifier}"
        for name, path in modules().items()
        for line, identifier in identifiers(path)
        if identifier not in ALLOWED and words(identifier) & BANNED
    ]
    assert wrong == []


def test_no_name_in_tests_and_benchmarks_has_a_banned_word() -> None:
    root = PACKAGE.parent
    paths = [path for name in ("tests", "benchmarks") for path in (root / name).rglob("*.py")]
    wrong = [
        f"{path.relative_to(root)}:{line} {identifier}"
        for path in sorted(paths)
        for line, identifier in [(0, path.stem), *identifiers(path)]
        if identifier not in ALLOWED_IN_TESTS and words(identifier) & BANNED_IN_TESTS
    ]
    assert wrong == []


def test_nothing_is_named_one() -> None:
    """A variable, argument or loop name says what it holds, in tests and benchmarks too."""
    root = PACKAGE.parent
    paths = [path for name in FOLDERS_OF_CODE for path in sorted((root / name).rglob("*.py"))]
    wrong = [
        f"{path.relative_to(root)}:{line}"
        for path in paths
        for line, identifier in identifiers(path)
        if identifier == "one"
    ]
    assert wrong == []


def test_every_module_and_class_has_a_docstring() -> None:
    silent = []
    for name, path in modules().items():
        module = tree(path)
        nodes: list[ast.Module | ast.ClassDef] = [module]
        nodes += [node for node in module.body if isinstance(node, ast.ClassDef)]
        silent += [
            f"{name} {getattr(node, 'name', '')}" for node in nodes if not ast.get_docstring(node)
        ]
    assert [text for text in silent if " _" not in text] == []


if __name__ == "__main__":
    lengths = sorted(line_count(path) for path in modules().values())
    longest = max((code_lines(node), name) for name, node in functions())
    print(f"{len(lengths)} modules, {sum(lengths):,} lines, median {statistics.median(lengths):g}")  # noqa: T201
    share = sum(size <= LARGE_LINES for size in lengths) / len(lengths)
    print(f"{share:.0%} of modules with {LARGE_LINES} lines or fewer")  # noqa: T201
    print(f"longest function: {longest[0]} lines, {longest[1]}")  # noqa: T201
    print(f"import cycles: {len(cycles())}")  # noqa: T201
