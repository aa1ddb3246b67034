"""A figure as an image, made by a browser of this machine that needs no window."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from harvester.errors import HarvesterError, UsageError

KINDS = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
WIDTH, HEIGHT = 1280, 720
SCALE = {"png": 1.5}
"""Pixels of an image for each of the page's; what is drawn by lines needs no more."""


def image_of(figure: go.Figure, kind: str) -> bytes:
    """The figure as it is first seen.

    Args:
        figure: what it shows; its own width and height, where it has them, are the image's.
        kind: png, svg or pdf.

    Raises:
        UsageError: kaleido, of the extra `png`, is not installed.
        HarvesterError: no browser was found, or it made no image.
    """
    try:
        import kaleido
        from kaleido.errors import ChromeNotFoundError
    except ImportError as error:
        raise UsageError("an image needs kaleido: pip install --upgrade kaleido") from error
    layout = figure.layout
    size: dict[str, Any] = {
        "format": kind,
        "width": layout.width or WIDTH,
        "height": layout.height or HEIGHT,
        "scale": SCALE.get(kind, 1),
    }
    try:
        # Left alone, it fetches MathJax from the network, which no chart needs.
        made: bytes = kaleido.calc_fig_sync(figure.to_dict(), opts=size, kopts={"mathjax": False})
    except ChromeNotFoundError as error:
        raise HarvesterError(
            "an image is drawn by Chrome or Chromium, and none is found: install one, or save "
            "the chart as .html"
        ) from error
    except Exception as error:
        raise HarvesterError(
            f"the browser made no image ({type(error).__name__}: {_brief(error)}): save the chart "
            "as .html"
        ) from error
    return made


def _brief(error: Exception) -> str:
    return str(error).partition("\n")[0]
