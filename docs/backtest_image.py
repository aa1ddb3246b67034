"""Make the image of the last notebook: `python docs/backtest_image.py FILE`, with a Chromium."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from harvester.charts.chart import image_of

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "05-from-720-to-a-backtest.ipynb"


def main(file: str) -> None:
    """Run the notebook in a folder that is deleted, and write its figure."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for cell in cells:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)  # noqa: S102
    figure = names["figure"].update_layout(width=1000)
    Path(file).write_bytes(image_of(figure, "png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
