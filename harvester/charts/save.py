"""Save a chart: one HTML page without network, or PNG, SVG and PDF."""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

from harvester.errors import HarvesterError, UsageError

# --- page -----------------------------------------------------------------------------------------

CONFIG = {
    "scrollZoom": True,
    "displaylogo": False,
    "doubleClick": "reset",
    "responsive": True,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}
HEIGHT = 560
"""Of a chart in a notebook, in pixels."""

# Whatever a figure came to hold, the browser itself lets nothing out and fetches nothing.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; worker-src blob:"
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>html, body {{ height: 100%; margin: 0; background: white; }}
body > div {{ min-height: 360px; }}
.hoverlayer .axistext {{ display: none; }}</style>
</head>
<body>
<noscript>This chart needs JavaScript, which is switched off here.</noscript>
{chart}
</body>
</html>
"""

# Plotly zooms an axis by itself only; prices and volumes are to follow the span that is seen.
_FOLLOW = """
var gd = document.getElementById('{plot_id}'), all = gd._fullData, x = gd._fullLayout.xaxis;
var follows = ['yaxis', 'yaxis2'].filter(function (one) {
  var axis = gd._fullLayout[one];
  return axis && axis.autorange && axis.type === 'linear';
});
var prices = all.filter(function (one) { return one.type === 'candlestick'; })[0];
var bars = all.filter(function (one) { return one.type === 'bar' && one.yaxis === 'y2'; });
if (!prices) return;
var at = Array.from(prices.x, function (one) { return x.d2c(one); });
function seen(from, to) {
  var low = Infinity, high = -Infinity, most = 0;
  for (var i = 0; i < at.length; i++) {
    if (at[i] < from || at[i] > to || !(prices.low[i] <= prices.high[i])) continue;
    low = Math.min(low, prices.low[i]);
    high = Math.max(high, prices.high[i]);
    most = Math.max(most, bars.reduce(function (sum, one) {
      return sum + (one.visible === true ? one.y[i] || 0 : 0);
    }, 0));
  }
  var aside = (high - low || Math.abs(high) * 0.001 || 1) * 0.05;
  return high < low ? null : {yaxis: [low - aside, high + aside], yaxis2: [0, most * 1.05 || 1]};
}
function follow() {
  var ends = x.range.map(function (one) { return x.r2c(one); });
  var found = seen(ends[0], ends[1]), change = {};
  if (!found) return;
  follows.forEach(function (one) { change[one + '.range'] = found[one]; });
  Plotly.relayout(gd, change);
}
gd.on('plotly_relayout', function (change) {
  var moved = Object.keys(change).some(function (one) { return one.indexOf('xaxis') === 0; });
  if (moved) follow();
});
"""


def page_of(figure: go.Figure, title: str) -> str:
    """One whole page: plotly.js is in it, and it asks nobody for anything.

    Args:
        figure: what it shows.
        title: of the browser's window; it is escaped.
    """
    still = go.Figure(figure)
    # Only time is zoomed and moved by hand; prices follow.
    for axis in still.select_yaxes():
        if axis.fixedrange is None:
            axis.fixedrange = True
    chart = pio.to_html(
        still,
        config=CONFIG,
        include_plotlyjs=True,
        full_html=False,
        default_height="100vh",
        div_id="chart",
        post_script=_FOLLOW,
    )
    return _PAGE.format(policy=escape(_POLICY), title=escape(title), chart=chart)


def frame_in_notebook(page: str) -> str:
    """The page inside another one, apart from what else is there."""
    return (
        '<iframe sandbox="allow-scripts allow-downloads" width="100%" '
        f'height="{HEIGHT}" style="border:0;background:white" srcdoc="{escape(page)}"></iframe>'
    )


# --- image ----------------------------------------------------------------------------------------

KINDS = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
IMAGE_WIDTH, IMAGE_HEIGHT = 1280, 720
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
        "width": layout.width or IMAGE_WIDTH,
        "height": layout.height or IMAGE_HEIGHT,
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
