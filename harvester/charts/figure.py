"""A figure of candles: prices and vwap above, volume by the taker's side below, holes shaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from harvester.charts.candles import Candles, broken
from harvester.charts.holes import Frame, middle, name, named, shades
from harvester.charts.wording import plain

UP, DOWN, UNKNOWN, VWAP = "#1b6ca8", "#d9661f", "#8a8f98", "#3d3d3d"
"""Blue and orange are told apart by all eyes; each side has the colour that it drives prices to."""

INK, FAINT, GRID, SHADE = "#2b2f36", "#6b7280", "#eceef1", "rgba(107, 114, 128, 0.16)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"

GAP = 0.25
"""Of an interval's width, what is left free between candles."""

_SIDES = (
    ("buy_volume", "takers buy", UP),
    ("sell_volume", "takers sell", DOWN),
    ("unknown_volume", "side unknown", UNKNOWN),
)


class Words(NamedTuple):
    """What a chart says, each text foreign but for `title`'s form: it is escaped here.

    Attributes:
        title: the heading.
        notes: what is to be known of it, below the heading.
        base: what volumes count; empty where it is not known.
        quote: what prices are paid in; likewise.
        interval: the length of a candle.
    """

    title: str
    notes: Sequence[str]
    base: str
    quote: str
    interval: str


def figure_of(candles: Candles, frame: Frame, words: Words) -> go.Figure:
    """The whole figure; it is the caller's to change."""
    figure = go.Figure(
        [_prices(candles), _vwap(candles, frame), *_volumes(candles), _telling(candles, words)]
    )
    figure.update_layout(_layout(words))
    figure.update_xaxes(_time_axis(frame))
    figure.update_layout(shapes=_shades(frame), annotations=_names(frame))
    return figure


def _prices(candles: Candles) -> go.Candlestick:
    opens = candles.opens_ns
    columns = {one: candles.columns[one] for one in ("open", "high", "low", "close")}
    if len(opens) == 1 or int(np.diff(opens).min()) > candles.width_ns * 3 // 2:
        # The body is as wide as two neighbours are apart; where there are none, an empty one helps.
        opens = np.append(opens, opens[-1] + candles.width_ns)
        columns = {key: np.append(column, np.nan) for key, column in columns.items()}
    return go.Candlestick(
        x=candles.place(opens),
        **columns,
        name="candles",
        showlegend=False,
        hoverinfo="skip",
        increasing={"line": {"color": UP, "width": 1}, "fillcolor": UP},
        decreasing={"line": {"color": DOWN, "width": 1}, "fillcolor": DOWN},
        whiskerwidth=0,
    )


def _hover(words: Words) -> str:
    base, quote = (f" {plain(unit)}" if unit else "" for unit in (words.base, words.quote))
    lines = [
        *((label, quote) for label in ("open", "high", "low", "close", "vwap")),
        ("volume", base),
        ("  buy", base),
        ("  sell", base),
        ("count", " trades"),
    ]
    told = [
        f"{label:<7}%{{customdata[{place}]}}{unit}"
        for place, (label, unit) in enumerate(lines, start=1)
    ]
    heading = f"<b>%{{customdata[0]}} UTC</b>, {plain(words.interval)}"
    return "<br>".join([heading, *told]) + "%{customdata[10]}<extra></extra>"


def _vwap(candles: Candles, frame: Frame) -> go.Scatter:
    breaks = broken(candles, frame.holes)
    times = candles.place(candles.opens_ns)
    return go.Scatter(
        x=np.insert(times, breaks, times[breaks]),
        y=np.insert(candles.columns["vwap"], breaks, np.nan),
        name="vwap",
        mode="lines",
        line={"color": VWAP, "width": 1},
        opacity=0.7,
        hoverinfo="skip",
    )


def _volumes(candles: Candles) -> list[go.Bar]:
    seen = [one for one in _SIDES if one[0] != "unknown_volume" or candles.columns[one[0]].any()]
    return [
        go.Bar(
            x=candles.place(candles.opens_ns),
            y=candles.columns[column],
            width=candles.width_ns / 1e6 * (1 - GAP),
            yaxis="y2",
            name=label,
            marker={"color": colour, "line": {"width": 0}},
            hoverinfo="skip",
        )
        for column, label, colour in seen
    ]


def _telling(candles: Candles, words: Words) -> go.Scatter:
    """What is said of each candle, by a line that is not seen.

    A candle answers only where the mouse is in its very width, which may be less than a pixel; a
    line's points answer from 20 pixels away.
    """
    return go.Scatter(
        x=candles.place(candles.opens_ns),
        y=candles.columns["close"],
        mode="lines",
        line={"width": 0},
        name="hover",
        showlegend=False,
        customdata=candles.told,
        hovertemplate=_hover(words),
    )


def _layout(words: Words) -> dict[str, Any]:
    axis = {"gridcolor": GRID, "zeroline": False, "side": "right", "ticklabelposition": "outside"}
    spike = {
        "showspikes": True,
        "spikemode": "across",
        "spikesnap": "cursor",
        "spikethickness": 1,
        "spikedash": "dot",
        "spikecolor": FAINT,
    }
    unit = f"{plain(words.quote)} per {plain(words.base)}" if words.base and words.quote else ""
    notes = "<br>".join(plain(one) for one in words.notes[:2])
    return {
        "template": "none",
        "title": {
            "text": plain(words.title),
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
        "margin": {"l": 24, "r": 80, "t": 72 + 19 * len(words.notes[:2]), "b": 44},
        "legend": {
            "orientation": "h",
            "traceorder": "normal",
            "x": 0,
            "xanchor": "left",
            "y": 1.005,
            "yanchor": "bottom",
        },
        "barmode": "stack",
        "boxgap": GAP,
        "dragmode": "pan",
        "hovermode": "x",
        # The mouse over a volume is told of the candle above it.
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
            "title": _unit(f"volume, {plain(words.base)}" if words.base else "volume"),
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
    aside = (through - after) // 100
    return {
        "type": "date",
        "range": [_time(after - aside + 1), _time(through + aside + 1)],
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
    return [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": _time(one.after + 1),
            "x1": _time(one.through + 1),
            "y0": 0,
            "y1": 1,
            "fillcolor": SHADE,
            "line": {"width": 0},
            "layer": "below",
            "name": "not downloaded",
            "legendgroup": "holes",
            "showlegend": place == 0,
        }
        for place, one in enumerate(shades(frame))
    ]


def _names(frame: Frame) -> list[dict[str, Any]]:
    return [
        {
            "x": _time(middle(hole, frame)),
            "y": 0.98,
            "xref": "x",
            "yref": "y domain",
            "yanchor": "top",
            "text": name(hole),
            "textangle": -90,
            "showarrow": False,
            "font": {"size": 11, "color": FAINT},
        }
        for hole in named(frame)
    ]


def _time(stamp_ns: int) -> str:
    """A moment as an axis takes it: to the microsecond, without a zone, as all of it is UTC."""
    return str(np.datetime64(stamp_ns, "ns").astype("datetime64[us]"))
