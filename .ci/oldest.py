"""Print pip constraints that hold every dependency of pyproject.toml at its oldest version."""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"([\w.-]+)>=([\w.]+)(;.*)?")


def constraint(requirement: str) -> str:
    """The constraint for one requirement; a requirement without an oldest version is an error."""
    found = REQUIREMENT.fullmatch(requirement)
    if found is None:
        sys.exit(f"pyproject.toml, {requirement!r}: give its oldest version, as name>=version")
    name, version, marker = found.groups(default="")
    return f"{name}=={version}{marker}"


if __name__ == "__main__":
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    # Of the tools for development (`dev`), any version will do.
    extras = [
        lines
        for name, lines in project["optional-dependencies"].items()
        if name not in ("dev", "site")
    ]
    for requirement in sum(extras, project["dependencies"]):
        if not requirement.startswith(f"{project['name']}["):
            print(constraint(requirement))
