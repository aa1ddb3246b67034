"""A chart in a real browser: it is drawn, it shows its figures, and it makes no request.

Where CHART_SCREENSHOTS names a folder, images of what was looked at are kept there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import browser
import msgspec
import pytest

import harvester
from harvester.charts.chart import Chart
from harvester.schema import clip
from harvester.server.sample_data import END_NS, SAMPLE_PAIR, create_sample_archive, sample_trades
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore as Disk
from harvester.storage.writer import open_writer
from harvester.times import DAY, Range

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="there is no chromium here")

HOUR = DAY // 24
START = END_NS - 10 * DAY
HOSTILE = "</script><img src=x onerror=alert(1)>&<b>XBT</b>%{x}/$U$SD"

SCRIPT = """
await pause(500);
var gd = document.getElementById('chart'), axis = gd._fullLayout.xaxis;
function over(place, row) {
  var drag = gd.querySelector('.nsewdrag[data-subplot="' + row + '"]');
  var box = drag.getBoundingClientRect();
  var at = {bubbles: true, cancelable: true, view: window, clientY: box.top + box.height / 3,
    clientX: axis._offset + axis.c2p(axis.d2c(gd._fullData[0].x[place]))};
  return [drag, at];
}
async function hover(place, row) {
  var [drag, at] = over(place, row);
  drag.dispatchEvent(new MouseEvent('mousemove', at));
  await pause(300);
  return Array.from(gd.querySelectorAll('.hovertext')).map(function (one) {
    return Array.from(one.querySelectorAll('tspan.line')).map(function (line) {
      return line.textContent;
    });
  });
}
function ranges() {
  return [axis.range.map(function (one) { return axis.r2c(one); }),
    gd._fullLayout.yaxis.range.slice(), gd._fullLayout.yaxis2.range.slice()];
}
function drawn(what) {
  return Array.from(gd.querySelectorAll(what)).filter(function (one) {
    var box = one.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && box.right <= innerWidth && box.bottom <= innerHeight;
  }).length;
}
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harvester.Archive]:
    folder = tmp_path_factory.mktemp("made") / "data"
    create_sample_archive(folder, 30_000, 7)
    with harvester.open(folder) as opened_archive:
        yield opened_archive


@pytest.fixture
def look(tmp_path: Path) -> Any:
    return looking_in(tmp_path)


def looking_in(folder: Path) -> Any:
    """A function that opens a chart in a browser, whose files are in a folder."""

    def seen(chart: Chart, script: str, name: str = "") -> browser.Seen:
        page = chart.html()
        if name and "CHART_SCREENSHOTS" in os.environ:
            kept = Path(os.environ["CHART_SCREENSHOTS"])
            kept.mkdir(parents=True, exist_ok=True)
            for size in ((1280, 800), (600, 800)):
                image = kept / f"{name}-{size[0]}.png"
                browser.shoot(page, folder, image, size)
                assert image.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        return browser.look(page, folder, SCRIPT + script)

    return seen


def nothing_wrong(seen: browser.Seen) -> bool:
    """No fault of a script, nothing on the console, nothing asked of anybody."""
    assert (seen.noted, seen.console, seen.asked, seen.loaded) == ([], [], [], [])
    return True


def archive_with_gaps(
    folder: Path, gaps: list[tuple[int, int]], wsname: str = "XBT/USD"
) -> harvester.Archive:
    """The made trades, except for some ranges that were never downloaded."""
    disk, pair = Disk(folder), msgspec.structs.replace(SAMPLE_PAIR, wsname=wsname)
    store_pairs(disk.store, msgspec.json.encode({"XBTUSD": pair}))
    history, after = sample_trades(30_000, 7), START - 1
    with open_writer(disk, "XBTUSD") as pair_writer:
        pair_writer.record_requested(Range(START - 1, END_NS - 1))
        for begins, ends in [*gaps, (END_NS, END_NS)]:
            span = Range(after, begins - 1)
            spelled = msgspec.json.encode(pair).decode()
            pair_writer.commit(span, clip(history, span), Footer(span, spelled, source="made"))
            after = ends - 1
    return harvester.open(folder)


HOURS = """
var seen = {drawn: [drawn('.boxlayer path.box'), drawn('.barlayer .point path')]};
seen.xy = await hover(40, 'xy');
var lines = Array.from(gd.querySelectorAll('.spikeline.crisp')), [, mouse] = over(40, 'xy');
seen.crosshair = [lines.map(function (line) {
  return ['x1', 'x2', 'y1', 'y2'].map(function (end) { return +line.getAttribute(end); });
}), mouse.clientX, mouse.clientY];
seen.xy2 = await hover(40, 'xy2');
var first = ranges(), [drag, at] = over(120, 'xy');
for (var i = 0; i < 6; i++) {
  drag.dispatchEvent(new WheelEvent('wheel', Object.assign({deltaY: -500}, at)));
  await pause(200);
}
await pause(1000);
var near = ranges();
await Plotly.relayout(gd, {'xaxis.range': gd.layout.xaxis.range.map(function (bound, i) {
  return axis.c2r(first[0][i]); })});
await pause(500);
seen.zoomed = [first, near, ranges()];
return seen;
"""


@pytest.fixture(scope="module")
def hours(archive: harvester.Archive, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is seen of a chart of hours, before and after the mouse and its wheel moved."""
    look = looking_in(tmp_path_factory.mktemp("hours"))
    seen = look(archive.chart("XBT/USD", "1h"), HOURS, "hours")
    assert nothing_wrong(seen)
    returned: dict[str, Any] = seen.returned
    return returned


def test_all_candles_are_drawn_without_any_request(hours: dict[str, Any]) -> None:
    assert hours["drawn"] == [240, 480]


def test_a_candle_shows_its_figures_if_the_mouse_is_over_it_or_its_volume(
    archive: harvester.Archive, hours: dict[str, Any]
) -> None:
    since = START + 40 * HOUR
    rows = archive.trades("XBT/USD", since=since, until=since + HOUR).to_arrow_table()
    prices, volumes, sides = (rows.column(name).to_pylist() for name in ("price", "volume", "side"))
    bought = sum(v for v, side in zip(volumes, sides, strict=True) if side == "buy")
    sold = sum(v for v, side in zip(volumes, sides, strict=True) if side == "sell")
    value = sum(p * v for p, v in zip(prices, volumes, strict=True))

    def short(number: Decimal) -> str:
        return f"{number:f}".rstrip("0").rstrip(".")

    figures = [
        "2026-01-22 16:00 UTC, 1h",
        f"open   {prices[0]:,.1f} USD",
        f"high   {max(prices):,.1f} USD",
        f"low    {min(prices):,.1f} USD",
        f"close  {prices[-1]:,.1f} USD",
        f"vwap   {value / sum(volumes):,.3f} USD",
        f"volume {short(sum(volumes))} XBT",
        f"  buy  {short(bought)} XBT",
        f"  sell {short(sold)} XBT",
        f"count  {len(prices):,} trades",
    ]
    assert hours["xy"] == [figures]
    assert hours["xy2"] == [figures]


def test_a_crosshair_stands_at_the_mouse(hours: dict[str, Any]) -> None:
    lines, x, y = hours["crosshair"]
    upright = [line for line in lines if line[0] == line[1]]
    level = [line for line in lines if line[2] == line[3]]
    assert [line[0] for line in upright] == [pytest.approx(x, abs=1)] * len(upright)
    assert [line[2] for line in level] == [pytest.approx(y, abs=1)] * len(level)
    assert upright
    assert level


def test_the_wheel_zooms_time_and_prices_follow_until_a_double_click(
    archive: harvester.Archive, hours: dict[str, Any]
) -> None:
    first, near, back = hours["zoomed"]
    from_ns, to_ns = (int(bound_ms * 1_000_000) for bound_ms in near[0])
    assert START < from_ns < START + 120 * HOUR < to_ns < END_NS
    rows = archive.ohlc("XBT/USD", "1h").df()
    opens = rows["time"].astype("int64")
    shown = rows[(opens + HOUR // 2 >= from_ns) & (opens + HOUR // 2 <= to_ns)]
    assert 3 < len(shown) < 200
    low, high = shown["low"].min(), shown["high"].max()
    assert near[1] == pytest.approx([low - (high - low) / 20, high + (high - low) / 20])
    assert near[2] == pytest.approx([0, shown["volume"].max() * 1.05])
    assert back[0] == first[0]
    low, high = rows["low"].min(), rows["high"].max()
    assert back[1] == pytest.approx([low - (high - low) / 20, high + (high - low) / 20])


def test_names_of_others_are_only_ever_text_and_gaps_are_shaded_and_named(
    tmp_path: Path, look: Any
) -> None:
    gaps = [
        (START + 2 * DAY, START + 4 * DAY),
        (START + 7 * DAY, START + 7 * DAY + 16 * HOUR + HOUR // 2),
    ]
    chart = archive_with_gaps(tmp_path / "data", gaps, HOSTILE).chart("XBTUSD", "1h")
    script = """
    var hovered = await hover(40, 'xy');
    return [[document.title, gd.querySelector('.gtitle').textContent, hovered[0][1],
      gd.querySelector('.ytitle').textContent, document.querySelectorAll('img').length],
      drawn('.shapelayer path'),
      Array.from(gd.querySelectorAll('.annotation-text')).map(function (one) {
        return one.textContent; })];
    """
    seen = look(chart, script, "hostile")
    assert nothing_wrong(seen)
    (title, heading, opened, unit, images), shades, labels = seen.returned
    assert title == heading == f"{HOSTILE}, 1h candles, 2026-01-21 to 2026-01-31 (UTC)"
    base, _, quote = HOSTILE.partition("/")
    assert (opened.partition(" USD")[0][:5], images) == ("open ", 0)
    assert opened.endswith(f" {quote}")
    assert unit == f"{quote} per {base}"
    assert shades >= 2
    assert labels == [
        "not downloaded: 2026-01-23 to 2026-01-25",
        "not downloaded: 2026-01-28 to 2026-01-28 16:30",
    ]


def test_hundreds_of_gaps_and_thousands_of_candles_are_drawn(tmp_path: Path, look: Any) -> None:
    gaps = [(START + i * HOUR, START + i * HOUR + HOUR // 60) for i in range(1, 201)]
    chart = archive_with_gaps(tmp_path / "data", gaps).chart("XBT/USD", "1m")
    assert chart.notes[0].startswith("1m would be up to ")
    script = """
    return [gd.querySelectorAll('.boxlayer path.box').length,
      gd.querySelectorAll('.shapelayer path').length, await hover(2000, 'xy')];
    """
    seen = look(chart, script, "many")
    assert nothing_wrong(seen)
    candles, shades, labels = seen.returned
    assert (candles > 2_000, 10 < shades < 600, len(labels)) == (True, True, 1)


def test_a_notebook_shows_it_in_a_frame_of_its_own(
    archive: harvester.Archive, tmp_path: Path
) -> None:
    shown = archive.chart("XBT/USD", "4h")._repr_html_()
    page = f"<!doctype html><html><body>{shown}</body></html>"
    script = """
    var frame = document.querySelector('iframe'), heard = [];
    var inside = frame.srcdoc + '<script>onmessage = function () { parent.postMessage(' +
      'document.querySelectorAll(".boxlayer path.box").length, "*"); }<' + '/script>';
    window.addEventListener('message', function (one) { heard.push(one.data); });
    await new Promise(function (go) { frame.onload = go; frame.srcdoc = inside; });
    frame.contentWindow.postMessage('how many?', '*');
    await new Promise(function (go) { window.addEventListener('message', go); });
    return [heard, frame.getBoundingClientRect().height];
    """
    seen = browser.look(page, tmp_path, script)
    assert nothing_wrong(seen)
    assert seen.returned == [[60], 560]


def test_what_the_browser_does_wrong_would_be_seen(tmp_path: Path) -> None:
    """The proof of nothing is one only because something is noticed."""
    page = """<!doctype html><html><body>
    <img src="http://harvester.test/x.png"><script>console.error('odd');</script></body></html>"""
    seen = browser.look(page, tmp_path, "await pause(1000); return 1;")
    assert seen.returned == 1
    assert "GET http://harvester.test/x.png HTTP/1.1" in seen.asked
    assert any("odd" in line for line in seen.console)


def test_an_image_has_the_documented_size(archive: harvester.Archive, tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="the extra `png` is not installed")
    archive.chart("XBT/USD", "4h").save(tmp_path / "chart.png")
    image = (tmp_path / "chart.png").read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(image[16:20]), int.from_bytes(image[20:24])) == (1920, 1080)
