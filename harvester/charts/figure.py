"""The Plotly figure of a chart: candles, vwap, volume by taker side, shaded gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from harvester.charts.candle_arrays import Candles, broken, plain
from harvester.query.plan import CandleQuery
from harvester.storage.trade_store import TradeStore
from harvester.times import (
    BEGINNING_NS,
    END_OF_TIME,
    Range,
    missing,
    overlap,
    union,
)

# --- gaps ----------------------------------------------------------------------------------------

LEAST = 1 / 600
"""So wide is a gap at least, of the chart's width, that it can be seen."""

NAMED = 5
"""So many gaps are named on the chart, the widest; hundreds of names can't be read."""

APART = 1 / 25
"""Names stand at least so far from each other, of the chart's width."""


class Frame(NamedTuple):
    """What a chart shows.

    Attributes:
        shown: from when to when the time axis reaches.
        told: the span that the title names.
        gaps: what in it is not fetched, in order.
    """

    shown: Range
    told: Range
    gaps: list[Range]


def frame_of(archive: TradeStore, question: CandleQuery, candles: Range, now_ns: int) -> Frame:
    """From when to when a chart reaches, and what of it is not fetched.

    It reaches from `since` to `until` where they are given; else from the first candle to the last,
    and over what was ever wanted and is not held.

    Args:
        archive: where the tape is.
        question: what is asked.
        candles: from when the first one opens to when the last one ends.
        now_ns: what is yet to come is no gap.
    """
    covered = archive.coverage(question.pair)
    since, until = question.range
    told = Range(
        since if since > 0 else candles.after,
        until if until <= now_ns else min(candles.through, covered[-1].through),
    )
    asked = [overlap(gap, question.range) for gap in archive.gaps(question.pair)]
    gaps = union([*missing([told], covered), *filter(None, asked)])
    # A history that was wanted from the beginning of all time on has no edge to show.
    after = min([told.after, *(gap.after for gap in gaps if gap.after >= BEGINNING_NS)])
    through = max([told.through, *(gap.through for gap in gaps if gap.through < END_OF_TIME)])
    return Frame(
        Range(min(after, candles.after), max(through, candles.through)),
        Range(after, through),
        [gap for gap in gaps if gap.through > BEGINNING_NS],
    )


def shades(frame: Frame) -> list[Range]:
    """What to shade, in order: each gap, wide enough to be seen; those so close are one."""
    least = int((frame.shown.through - frame.shown.after) * LEAST)
    found = []
    for gap in frame.gaps:
        one = overlap(gap, frame.shown)
        if one is not None:
            missing_ns = max(least - (one.through - one.after), 0)
            found.append(Range(one.after - missing_ns // 2, one.through + missing_ns // 2))
    return union(found)


def named(frame: Frame) -> list[Range]:
    """The gaps to name, in order: the widest ones, as far apart as names need."""
    width = frame.shown.through - frame.shown.after
    apart = width * APART
    # A name beside a line among hundreds tells nothing of which one is meant.
    least = 0 if len(frame.gaps) <= NAMED else width * LEAST
    seen = [one for one in frame.gaps if one.through - one.after >= least]
    found: list[Range] = []
    for gap in sorted(seen, key=lambda one: one.after - one.through):
        clear = all(abs(middle(gap, frame) - middle(one, frame)) >= apart for one in found)
        if clear and overlap(gap, frame.shown) and len(found) < NAMED:
            found.append(gap)
    return sorted(found)


def middle(gap: Range, frame: Frame) -> int:
    """The moment in the middle of what is seen of a gap."""
    seen = overlap(gap, frame.shown) or gap
    return (seen.after + seen.through) // 2


def name(gap: Range) -> str:
    """What is said of a gap."""
    return f"not downloaded: {gap}"


def note(gaps: Sequence[Range]) -> str:
    """What is said of all gaps together."""
    if len(gaps) == 1:
        return name(gaps[0])
    widest = max(gaps, key=lambda one: one.through - one.after)
    return f"{len(gaps):,} ranges are not downloaded, the widest from {widest}"


# --- figure ---------------------------------------------------------------------------------------

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
    breaks = broken(candles, frame.gaps)
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
    notes = "<br>".join(plain(note) for note in words.notes[:2])
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
            "legendgroup": "gaps",
            "showlegend": place == 0,
        }
        for place, one in enumerate(shades(frame))
    ]


def _names(frame: Frame) -> list[dict[str, Any]]:
    return [
        {
            "x": _time(middle(gap, frame)),
            "y": 0.98,
            "xref": "x",
            "yref": "y domain",
            "yanchor": "top",
            "text": name(gap),
            "textangle": -90,
            "showarrow": False,
            "font": {"size": 11, "color": FAINT},
        }
        for gap in named(frame)
    ]


def _time(stamp_ns: int) -> str:
    """A moment as an axis takes it: to the microsecond, without a zone, as all of it is UTC."""
    return str(np.datetime64(stamp_ns, "ns").astype("datetime64[us]"))
