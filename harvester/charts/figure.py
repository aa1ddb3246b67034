"""The Plotly figure of a chart: candles, vwap, volume by taker side, shaded gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from harvester.charts.candle_arrays import CandleArrays, escape_for_plotly, line_breaks
from harvester.query.plan import CandleQuery
from harvester.storage.trade_store import TradeStore
from harvester.times import BEGINNING_NS, END_OF_TIME, Range, missing, overlap, union

# --- gaps ----------------------------------------------------------------------------------------

MIN_GAP_WIDTH = 1 / 600
"""The least width of a shaded gap, as a part of the chart's width, so that it can be seen."""

MAX_LABELS = 5
"""At most this many gaps, the widest, get a label; hundreds of labels can't be read."""

MIN_LABEL_DISTANCE = 1 / 25
"""The least distance between two labels, as a part of the chart's width."""


class Frame(NamedTuple):
    """The time that a chart shows.

    Attributes:
        shown: the range of the time axis.
        title_range: the range that the title names.
        gaps: ranges in it that are not downloaded, in order.
    """

    shown: Range
    title_range: Range
    gaps: list[Range]


def frame_of(archive: TradeStore, query: CandleQuery, candles: Range, now_ns: int) -> Frame:
    """Find the time that a chart shows, and the gaps in it.

    It is from `since` to `until` where the user set them; else from the first candle to the last,
    and all ranges that were ever requested and are not covered.

    Args:
        archive: where the trades are.
        query: the candles.
        candles: from the opening of the first candle to the end of the last.
        now_ns: the current time in nanoseconds; later times are no gap.
    """
    covered = archive.coverage(query.pair)
    after, through = query.range
    title_range = Range(
        after if after > 0 else candles.after,
        through if through <= now_ns else min(candles.through, covered[-1].through),
    )
    requested = [overlap(gap, query.range) for gap in archive.gaps(query.pair)]
    gaps = union([*missing([title_range], covered), *filter(None, requested)])
    # A history that was requested from time 0 on has no edge to show.
    title_after = min(
        [title_range.after, *(gap.after for gap in gaps if gap.after >= BEGINNING_NS)]
    )
    title_through = max(
        [title_range.through, *(gap.through for gap in gaps if gap.through < END_OF_TIME)]
    )
    return Frame(
        Range(min(title_after, candles.after), max(title_through, candles.through)),
        Range(title_after, title_through),
        [gap for gap in gaps if gap.through > BEGINNING_NS],
    )


def labelled(frame: Frame) -> list[Range]:
    """The gaps with a label, in order: the widest ones, as far apart as labels need."""
    width_ns = frame.shown.through - frame.shown.after
    distance_ns = width_ns * MIN_LABEL_DISTANCE
    # Among hundreds of thin lines a label does not show which one is meant.
    min_ns = 0 if len(frame.gaps) <= MAX_LABELS else width_ns * MIN_GAP_WIDTH
    wide = [gap for gap in frame.gaps if gap.through - gap.after >= min_ns]
    found: list[Range] = []
    for gap in sorted(wide, key=lambda gap: gap.after - gap.through):
        center = middle(gap, frame)
        is_free = all(abs(center - middle(other, frame)) >= distance_ns for other in found)
        if is_free and overlap(gap, frame.shown) and len(found) < MAX_LABELS:
            found.append(gap)
    return sorted(found)


def middle(gap: Range, frame: Frame) -> int:
    """The middle of the visible part of a gap, in nanoseconds."""
    visible = overlap(gap, frame.shown) or gap
    return (visible.after + visible.through) // 2


def note(gaps: Sequence[Range]) -> str:
    """A note about all gaps together."""
    if len(gaps) == 1:
        return f"not downloaded: {gaps[0]}"
    widest = max(gaps, key=lambda gap: gap.through - gap.after)
    return f"{len(gaps):,} ranges are not downloaded, the widest from {widest}"


# --- figure ---------------------------------------------------------------------------------------

UP, DOWN, UNKNOWN, VWAP = "#1b6ca8", "#d9661f", "#8a8f98", "#3d3d3d"
"""Everybody can distinguish blue and orange; buyers have the colour of rising prices."""

INK, FAINT, GRID, SHADE = "#2b2f36", "#6b7280", "#eceef1", "rgba(107, 114, 128, 0.16)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"

BAR_SPACING = 0.25
"""The part of an interval's width that stays free between candles."""

_SIDES = (
    ("buy_volume", "takers buy", UP),
    ("sell_volume", "takers sell", DOWN),
    ("unknown_volume", "side unknown", UNKNOWN),
)


class ChartTexts(NamedTuple):
    """The texts of a chart, which come from outside: they are escaped when they are used.

    Attributes:
        title: the heading.
        notes: remarks below the heading.
        base: the currency of volumes; empty if it is not known.
        quote: the currency of prices; empty if it is not known.
        interval: the length of a candle.
    """

    title: str
    notes: Sequence[str]
    base: str
    quote: str
    interval: str


def figure_of(candles: CandleArrays, frame: Frame, texts: ChartTexts) -> go.Figure:
    """Build the figure; the caller may change it.

    Args:
        candles: at least one.
        frame: the time to show.
        texts: title, notes and units.
    """
    figure = go.Figure(
        [_prices(candles), _vwap(candles, frame), *_volumes(candles), _hover_line(candles, texts)]
    )
    figure.update_layout(_layout(texts))
    figure.update_xaxes(_time_axis(frame))
    figure.update_layout(shapes=_shades(frame), annotations=_labels(frame))
    return figure


def _prices(candles: CandleArrays) -> go.Candlestick:
    opens = candles.opens_ns
    columns = {name: candles.columns[name] for name in ("open", "high", "low", "close")}
    if len(opens) == 1 or int(np.diff(opens).min()) > candles.width_ns * 3 // 2:
        # Plotly makes bodies as wide as the distance of two neighbours: an empty one sets it.
        opens = np.append(opens, opens[-1] + candles.width_ns)
        columns = {key: np.append(column, np.nan) for key, column in columns.items()}
    return go.Candlestick(
        x=candles.centers(opens),
        **columns,
        name="candles",
        showlegend=False,
        hoverinfo="skip",
        increasing={"line": {"color": UP, "width": 1}, "fillcolor": UP},
        decreasing={"line": {"color": DOWN, "width": 1}, "fillcolor": DOWN},
        whiskerwidth=0,
    )


def _hover(texts: ChartTexts) -> str:
    base, quote = (
        f" {escape_for_plotly(unit)}" if unit else "" for unit in (texts.base, texts.quote)
    )
    lines = [
        *((label, quote) for label in ("open", "high", "low", "close", "vwap")),
        ("volume", base),
        ("  buy", base),
        ("  sell", base),
        ("count", " trades"),
    ]
    values = [
        f"{label:<7}%{{customdata[{place}]}}{unit}"
        for place, (label, unit) in enumerate(lines, start=1)
    ]
    heading = f"<b>%{{customdata[0]}} UTC</b>, {escape_for_plotly(texts.interval)}"
    return "<br>".join([heading, *values]) + "%{customdata[10]}<extra></extra>"


def _vwap(candles: CandleArrays, frame: Frame) -> go.Scatter:
    breaks = line_breaks(candles, frame.gaps)
    times = candles.centers(candles.opens_ns)
    return go.Scatter(
        x=np.insert(times, breaks, times[breaks]),
        y=np.insert(candles.columns["vwap"], breaks, np.nan),
        name="vwap",
        mode="lines",
        line={"color": VWAP, "width": 1},
        opacity=0.7,
        hoverinfo="skip",
    )


def _volumes(candles: CandleArrays) -> list[go.Bar]:
    sides = [
        side for side in _SIDES if side[0] != "unknown_volume" or candles.columns[side[0]].any()
    ]
    return [
        go.Bar(
            x=candles.centers(candles.opens_ns),
            y=candles.columns[column],
            width=candles.width_ns / 1e6 * (1 - BAR_SPACING),
            yaxis="y2",
            name=label,
            marker={"color": colour, "line": {"width": 0}},
            hoverinfo="skip",
        )
        for column, label, colour in sides
    ]


def _hover_line(candles: CandleArrays, texts: ChartTexts) -> go.Scatter:
    """An invisible line that shows the values of a candle under the mouse.

    A candle itself reacts only to a mouse within its width, which may be less than a pixel; the
    points of a line react from 20 pixels away.
    """
    return go.Scatter(
        x=candles.centers(candles.opens_ns),
        y=candles.columns["close"],
        mode="lines",
        line={"width": 0},
        name="hover",
        showlegend=False,
        customdata=candles.hover_texts,
        hovertemplate=_hover(texts),
    )


def _layout(texts: ChartTexts) -> dict[str, Any]:
    axis = {"gridcolor": GRID, "zeroline": False, "side": "right", "ticklabelposition": "outside"}
    spike = {
        "showspikes": True,
        "spikemode": "across",
        "spikesnap": "cursor",
        "spikethickness": 1,
        "spikedash": "dot",
        "spikecolor": FAINT,
    }
    base, quote = escape_for_plotly(texts.base), escape_for_plotly(texts.quote)
    unit = f"{quote} per {base}" if base and quote else ""
    notes = "<br>".join(escape_for_plotly(note) for note in texts.notes[:2])
    return {
        "template": "none",
        "title": {
            "text": escape_for_plotly(texts.title),
            "font": {"size": 17, "color": INK},
            "subtitle": {"text": notes, "font": {"size": 12, "color": FAINT}},
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "yref": "container",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 14},
        },
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 24, "r": 80, "t": 72 + 19 * len(texts.notes[:2]), "b": 44},
        "legend": {
            "orientation": "h",
            "traceorder": "normal",
            "x": 0,
            "xanchor": "left",
            "y": 1.005,
            "yanchor": "bottom",
        },
        "barmode": "stack",
        "boxgap": BAR_SPACING,
        "dragmode": "pan",
        "hovermode": "x",
        # The mouse over a volume shows the candle above it.
        "hoversubplots": "axis",
        "hoverlabel": {
            "bgcolor": "white",
            "bordercolor": "#c9cdd3",
            "font": {"family": MONO, "size": 12, "color": INK},
            "align": "left",
        },
        "yaxis": {**axis, **spike, "domain": [0.27, 1], "title": _unit(unit), "tickformat": ",~f"},
        "yaxis2": {
            **axis,
            "domain": [0, 0.23],
            "title": _unit(f"volume, {base}" if base else "volume"),
            "rangemode": "tozero",
            "nticks": 4,
        },
        "xaxis": {
            **spike,
            "anchor": "y2",
            "gridcolor": GRID,
            "zeroline": False,
            "ticks": "outside",
            "ticklen": 6,
            "tickcolor": GRID,
        },
    }


def _unit(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 12, "color": FAINT}}


def _time_axis(frame: Frame) -> dict[str, Any]:
    after, through = frame.shown
    margin_ns = (through - after) // 100
    return {
        "type": "date",
        "range": [_time(after - margin_ns + 1), _time(through + margin_ns + 1)],
        "rangeslider": {"visible": False},
        "hoverformat": "%Y-%m-%d %H:%M",
        "tickformatstops": [
            {"dtickrange": [None, 1000], "value": "%H:%M:%S.%L\n%Y-%m-%d"},
            {"dtickrange": [1000, 60_000], "value": "%H:%M:%S\n%Y-%m-%d"},
            {"dtickrange": [60_000, 86_400_000], "value": "%H:%M\n%Y-%m-%d"},
            {"dtickrange": [86_400_000, "M1"], "value": "%b %-d\n%Y"},
            {"dtickrange": ["M1", "M12"], "value": "%b\n%Y"},
            {"dtickrange": ["M12", None], "value": "%Y"},
        ],
    }


def _shades(frame: Frame) -> list[dict[str, Any]]:
    """The shaded ranges, in order: the gaps, wide enough to be seen; close ones are joined."""
    min_ns = int((frame.shown.through - frame.shown.after) * MIN_GAP_WIDTH)
    wide = []
    for gap in frame.gaps:
        part = overlap(gap, frame.shown)
        if part is not None:
            more_ns = max(min_ns - (part.through - part.after), 0)
            wide.append(Range(part.after - more_ns // 2, part.through + more_ns // 2))
    return [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": _time(part.after + 1),
            "x1": _time(part.through + 1),
            "y0": 0,
            "y1": 1,
            "fillcolor": SHADE,
            "line": {"width": 0},
            "layer": "below",
            "name": "not downloaded",
            "legendgroup": "gaps",
            "showlegend": index == 0,
        }
        for index, part in enumerate(union(wide))
    ]


def _labels(frame: Frame) -> list[dict[str, Any]]:
    return [
        {
            "x": _time(middle(gap, frame)),
            "y": 0.98,
            "xref": "x",
            "yref": "y domain",
            "yanchor": "top",
            "text": f"not downloaded: {gap}",
            "textangle": -90,
            "showarrow": False,
            "font": {"size": 11, "color": FAINT},
        }
        for gap in labelled(frame)
    ]


def _time(time_ns: int) -> str:
    """A time in the axis' format: to the microsecond, without a zone, as everything is UTC."""
    return str(np.datetime64(time_ns, "ns").astype("datetime64[us]"))
