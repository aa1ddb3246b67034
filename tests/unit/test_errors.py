"""The exception tree is as its docstring draws it, and the gravest status wins."""

from __future__ import annotations

import re
import sys

import pytest

from harvester import errors
from harvester.errors import HarvesterError, gravest, not_installed

LINE = re.compile(r"[ │├└─]*(?P<name>[A-Z][A-Za-z]+)(?: +(?P<status>\d+))?(?:   .*)?")


def drawn() -> dict[str, tuple[str, int]]:
    """Parent and exit status of each class as the docstring draws them."""
    tree: dict[str, tuple[str, int]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = LINE.fullmatch(line)
        if match is None or not line.startswith("    "):
            continue
        depth = (match.start("name") - 4) // 5
        path[depth:] = [match["name"]]
        parent = path[depth - 1] if depth else "Exception"
        inherited = tree[parent][1] if depth else 0
        tree[match["name"]] = (parent, int(match["status"] or inherited))
    return tree


def made() -> dict[str, tuple[str, int]]:
    """Parent and exit status of each class as they are."""
    return {
        name: (kind.__bases__[0].__name__, kind.exit_status)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, HarvesterError)
    }


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    assert drawn() == made()


def test_the_drawing_is_read_whole() -> None:
    assert drawn()["NothingStored"] == ("UsageError", 2)
    assert drawn()["Interrupted"] == ("HarvesterError", 130)


def test_every_error_says_in_a_docstring_what_it_is() -> None:
    assert [name for name in made() if not getattr(errors, name).__doc__] == []


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 5], 5),
        ([3, 5, 0], 3),
        ([3, 4, 0], 4),
        ([0, 3, 4, 1], 1),
        ([1, 2], 2),
        ([1, 2, 130], 130),
    ],
)
def test_over_several_pairs_the_gravest_status_counts(statuses: list[int], worst: int) -> None:
    assert gravest(statuses) == worst


def test_gravest_knows_every_status_that_a_class_has() -> None:
    for _, status in made().values():
        assert gravest([status, 0]) == status


@pytest.mark.parametrize(
    ("has_pip", "installer"),
    [
        (True, "'/a b/python' -m pip install"),
        (False, "uv pip install --python '/a b/python'"),
    ],
)
def test_what_is_not_installed_is_installed_where_harvester_is(
    monkeypatch: pytest.MonkeyPatch, has_pip: bool, installer: str
) -> None:
    monkeypatch.setattr(sys, "executable", "/a b/python")
    monkeypatch.setattr(errors, "find_spec", lambda name: name if has_pip else None)
    error = not_installed("an image needs kaleido", "kaleido")
    assert str(error) == f"an image needs kaleido: {installer} --upgrade kaleido"
