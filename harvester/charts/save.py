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
"""The height of a chart in a notebook, in pixels."""

# Whatever a figure contains, the browser itself sends and loads nothing.
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

# Plotly zooms each axis by itself; here prices and volumes follow the visible time.
_FOLLOW = """
var gd = document.getElementById('{plot_id}'), all = gd._fullData, x = gd._fullLayout.xaxis;
var follows = ['yaxis', 'yaxis2'].filter(function (name) {
  var axis = gd._fullLayout[name];
  return axis && axis.autorange && axis.type === 'linear';
});
var prices = all.filter(function (trace) { return trace.type === 'candlestick'; })[0];
var bars = all.filter(function (trace) { return trace.type === 'bar' && trace.yaxis === 'y2'; });
if (!prices) return;
var at = Array.from(prices.x, function (time) { return x.d2c(time); });
function seen(from, to) {
  var low = Infinity, high = -Infinity, most = 0;
  for (var i = 0; i < at.length; i++) {
    if (at[i] < from || at[i] > to || !(prices.low[i] <= prices.high[i])) continue;
    low = Math.min(low, prices.low[i]);
    high = Math.max(high, prices.high[i]);
    most = Math.max(most, bars.reduce(function (sum, trace) {
      return sum + (trace.visible === true ? trace.y[i] || 0 : 0);
    }, 0));
  }
  var margin = (high - low || Math.abs(high) * 0.001 || 1) * 0.05;
  return high < low ? null : {yaxis: [low - margin, high + margin], yaxis2: [0, most * 1.05 || 1]};
}
function follow() {
  var ends = x.range.map(function (end) { return x.r2c(end); });
  var found = seen(ends[0], ends[1]), change = {};
  if (!found) return;
  follows.forEach(function (name) { change[name + '.range'] = found[name]; });
  Plotly.relayout(gd, change);
}
gd.on('plotly_relayout', function (change) {
  var moved = Object.keys(change).some(function (name) { return name.indexOf('xaxis') === 0; });
  if (moved) follow();
});
"""


def page_of(figure: go.Figure, title: str) -> str:
    """A complete HTML page that contains plotly.js and loads nothing from the network.

    Args:
        figure: what it shows.
        title: of the browser's window; it is escaped.
    """
    page_figure = go.Figure(figure)
    # Only the time axis is zoomed and moved by the user; prices follow.
    for axis in page_figure.select_yaxes():
        if axis.fixedrange is None:
            axis.fixedrange = True
    chart = pio.to_html(
        page_figure,
        config=CONFIG,
        include_plotlyjs=True,
        full_html=False,
        default_height="100vh",
        div_id="chart",
        post_script=_FOLLOW,
    )
    return _PAGE.format(policy=escape(_POLICY), title=escape(title), chart=chart)


def frame_in_notebook(page: str) -> str:
    """The page as an isolated frame of another page."""
    return (
        '<iframe sandbox="allow-scripts allow-downloads" width="100%" '
        f'height="{HEIGHT}" style="border:0;background:white" srcdoc="{escape(page)}"></iframe>'
    )


# --- image ----------------------------------------------------------------------------------------

KINDS = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
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
        raise UsageError("an image needs kaleido: pip install --upgrade kaleido") from error
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
        raise HarvesterError(
            f"the browser made no image ({type(error).__name__}: {_brief(error)}): save the chart "
            "as .html"
        ) from error
    return made


def _brief(error: Exception) -> str:
    return str(error).partition("\n")[0]
