"""A candle chart of a pair: drawn from an archive, shown in a notebook, saved as page or image."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
import pyarrow as pa

from harvester.argument_types import check_types
from harvester.charts.candle_arrays import candle_arrays
from harvester.charts.figure import ChartTexts, figure_of, frame_of, note
from harvester.errors import HarvesterError, NothingStored, UsageError, not_installed
from harvester.kraken.pairs import Pair
from harvester.query.candles import QuerySession
from harvester.query.plan import CandleQuery, Plan, check_gaps, gap_notes, max_candles
from harvester.query.sql import MEMORY_LIMIT
from harvester.storage.output_files import file_sink
from harvester.storage.trade_store import TradeStore
from harvester.times import parse_interval

# --- chart ----------------------------------------------------------------------------------------

IMAGES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """A chart, which a notebook shows and `save` writes to a file.

    Attributes:
        figure: of plotly; change it as you like before it is shown or saved.
        title: what it shows, as plain text.
        notes: what is to be known of it: an interval made coarser, ranges that are not downloaded.
        file_name: a name for its file, such as XBTUSD-1h.html, by the pair and the interval that
            was asked for.
    """

    figure: go.Figure
    title: str
    notes: tuple[str, ...]
    file_name: str

    def html(self) -> str:
        """An HTML page that needs no network: it contains plotly.js, some 5 MB.

        Example:
            >>> page = archive.chart("XBT/USD", "1h").html()
            >>> "XBT/USD, 1h candles" in page, "src=" in page.partition("<script")[0]
            (True, False)
        """
        page_figure = go.Figure(self.figure)
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
        return _PAGE.format(policy=escape(_POLICY), title=escape(self.title), chart=chart)

    @check_types
    def save(self, path: str | os.PathLike[str]) -> None:
        """Save it as a file, completely or not at all.

        Args:
            path: ends in .html, or (with the extra `png`, and a Chrome or Chromium) in .png, .svg
                or .pdf.

        Raises:
            UsageError: it has another ending, or the extra is not installed.
            ArchiveUnwritable: the machine refused to write.
            HarvesterError: no browser was found, or it produced no image.

        Example:
            >>> archive.chart("XBT/USD", "4h").save("chart.html")
        """
        file = Path(path)
        check_ending(file)
        ending = file.suffix.lower()
        is_image = ending in IMAGES
        content = image_of(self.figure, ending[1:]) if is_image else self.html().encode()
        with file_sink(file) as sink:
            sink.write(content)

    def _repr_html_(self) -> str:
        # An isolated frame of the notebook's page.
        return (
            '<iframe sandbox="allow-scripts allow-downloads" width="100%" '
            f'height="{HEIGHT}" style="border:0;background:white" '
            f'srcdoc="{escape(self.html())}"></iframe>'
        )


def check_ending(file: Path) -> None:
    """Check that a chart can be saved as such a file.

    Raises:
        UsageError: the ending is not supported.
    """
    ending = file.suffix.lower()
    if ending not in (".html", ".htm", *IMAGES):
        raise UsageError(
            f"{file}: a chart is kept as .html, .png, .svg or .pdf, and not as "
            f"{ending or 'a file without an ending'}"
        )


MAX_CANDLES = 3_000
"""More than a screen has columns of pixels; a browser still scrolls so many smoothly."""


LADDER = tuple(
    parse_interval(text)
    for text in "1s 5s 15s 30s 1m 5m 15m 30m 1h 4h 1d 1w 1mo 1q 1y".split()  # noqa: SIM905
)


def drawable(archive: TradeStore, query: CandleQuery) -> tuple[CandleQuery, int]:
    """Choose the next coarser interval with at most `MAX_CANDLES` candles, if there are more.

    No candles are computed: file names and footers show how many there can be.

    Args:
        archive: where the trades are.
        query: what is requested.

    Returns:
        The query that a screen can show, and how many candles the requested one has at most.

    Raises:
        NothingStored: no trades of the pair are stored.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """

    def expected(plan: Plan) -> int:
        return max_candles(archive, plan)

    session = QuerySession(archive)
    requested_candles = session.with_snapshot_retry(query, expected)
    found = query
    if requested_candles > MAX_CANDLES:
        for interval in LADDER:
            if interval.average_width_ns > query.interval.average_width_ns:
                found = replace(query, interval=interval)
                if session.with_snapshot_retry(found, expected) <= MAX_CANDLES:
                    break
    return found, requested_candles


def chart(
    archive: TradeStore,
    pair: Pair,
    query: CandleQuery,
    now_ns: int,
    *,
    memory_limit: str = MEMORY_LIMIT,
    strict: bool = False,
) -> Chart:
    """Draw candles and volume of a pair, with a coarser interval if there are too many candles.

    Args:
        archive: where the trades are.
        pair: its names.
        query: the candles to draw; empty intervals are not filled.
        now_ns: the current time in nanoseconds; later times are no gap.
        memory_limit: of DuckDB.
        strict: raise an error if a part of the requested range is not downloaded.

    Raises:
        ArchiveHasGaps: with `strict`, there are gaps.
        NothingStored: no trade of the pair is stored in the requested range.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """
    if strict:
        check_gaps(archive, pair.altname, [query.range], now_ns, strict=True)
    name = pair.wsname or pair.altname
    drawn, requested_candles = drawable(archive, replace(query, fill="none", all_columns=True))
    interval = drawn.interval
    table = pa.Table.from_batches(QuerySession(archive, memory_limit).batches(drawn))
    if not table.num_rows:
        raise NothingStored(
            f"no trade of {name} is stored from {query.range}: `harvester status` shows "
            "what is covered"
        )
    candles = candle_arrays(table, interval, pair)
    frame = frame_of(archive, drawn, candles.range, now_ns)
    title = f"{name}, {interval.text} candles, {frame.title_range} (UTC)"
    remarks = []
    if interval is not query.interval:
        remarks.append(
            f"{query.interval.text} would be up to {requested_candles:,} candles, more than a "
            f"screen shows: {interval.text} instead"
        )
    if query.tz is not None:
        remarks.append(f"candles follow the clock of {query.tz}")
    shown = [*remarks, *([note(frame.gaps)] if frame.gaps else [])]
    base, _, quote = pair.wsname.partition("/")
    texts = ChartTexts(title, shown, base if quote else "", quote, interval.text)
    notes = (*remarks, *gap_notes(frame.gaps))
    file_name = f"{pair.altname}-{query.interval.name}.html"
    return Chart(figure_of(candles, frame, texts), title, notes, file_name)


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


# --- images ---------------------------------------------------------------------------------------

IMAGE_WIDTH, IMAGE_HEIGHT = 1280, 720
IMAGE_SCALE = {"png": 1.5}
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
        "scale": IMAGE_SCALE.get(kind, 1),
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
