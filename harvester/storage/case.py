"""Pairs whose names differ only by case, on a disk that ignores case.

There the folder of one is the folder of the other, so the second one is refused.
"""

from __future__ import annotations

from pathlib import Path

from harvester.errors import ArchiveUnwritable
from harvester.storage.store import writing

_BESIDE = (("trades", "pair=", ""), ("wanted", "", ".json"), ("locks", "", ".lock"))
"""Where a pair leaves its name: the folder, and what stands before and behind the name there."""


def check_case(root: Path, pair: str) -> None:
    """Refuse to write a pair that would share its folder with another one.

    Raises:
        ArchiveUnwritable: the disk ignores case, and a pair is there whose name differs by case.
    """
    with writing(str(root)):
        for folder, before, behind in _BESIDE:
            mine = f"{before}{pair}{behind}"
            for entry in _entries(root / folder):
                is_other = entry != mine and entry.lower() == mine.lower()
                if is_other and ignores_case(root / folder / entry):
                    other = entry.removeprefix(before).removesuffix(behind)
                    raise ArchiveUnwritable(
                        f"{pair} can't be kept beside {other} in {root}: the disk ignores case, so "
                        "both would share one folder. Choose another folder for one of them"
                    )


def ignores_case(path: Path) -> bool:
    """Whether the disk finds a file or folder by another case of its name, too."""
    try:
        return path.samefile(path.with_name(path.name.swapcase()))
    except FileNotFoundError:
        return False


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
