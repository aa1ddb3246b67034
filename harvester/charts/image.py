"""A figure as an image: PNG, SVG or PDF, drawn by the Chrome or Chromium that is installed."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from harvester.errors import HarvesterError, not_installed

IMAGE_WIDTH, IMAGE_HEIGHT = 1280, 720
SCALE = {"png": 1.5}
"""Image pixels for each pixel of the page; vector formats need no more."""


def image_of(figure: go.Figure, kind: str) -> bytes:
    """Draw the figure as an image.

    Args:
        figure: what to draw; its width and height, if it has them, are the image's.
        kind: png, svg or pdf.

    Raises:
        UsageError: kaleido, of the extra `png`, is not installed.
        HarvesterError: no browser was found, or it produced no image.
    """
    try:
        import kaleido
        from kaleido.errors import ChromeNotFoundError
    except ImportError as error:
        raise not_installed("an image needs kaleido", "kaleido") from error
    layout = figure.layout
    size: dict[str, Any] = {
        "format": kind,
        "width": layout.width or IMAGE_WIDTH,
        "height": layout.height or IMAGE_HEIGHT,
        "scale": SCALE.get(kind, 1),
    }
    try:
        # By default it loads MathJax from the network, which no chart needs.
        made: bytes = kaleido.calc_fig_sync(figure.to_dict(), opts=size, kopts={"mathjax": False})
    except ChromeNotFoundError as error:
        raise HarvesterError(
            "an image is drawn by Chrome or Chromium, and none is found: install one, or save "
            "the chart as .html"
        ) from error
    except Exception as error:
        text = str(error).partition("\n")[0]
        raise HarvesterError(
            f"the browser made no image ({type(error).__name__}: {text}): save the chart as .html"
        ) from error
    return made
