"""The explorer's page in a real browser: what it shows, and that it asks nobody else.

Where CHART_SCREENSHOTS names a folder, images of what was looked at are kept there.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import browser
import pytest
from explorer_archive import (
    GAP,
    HOUR,
    START_NS,
    request_only,
    sample_archive,
    years_archive,
)

pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.sync_api import Browser, Dialog, Page, Request, expect, sync_playwright

import harvester
from harvester.exporters.formats import as_text
from harvester.schema import clip
from harvester.server.sample_data import END_NS, sample_trades
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, SECOND, Range, parse_moment, show

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="there is no chromium here")

LEGEND = ("open", "high", "low", "close", "vwap", "volume", "buy_volume", "sell_volume", "count")
HOSTILE = "</script><img src=x onerror=alert(1)>&<b>XBT</b>/U$D"

# A browser that shares two cores with other tests takes longer than Playwright's five seconds.
expect.set_options(timeout=20_000)

Opened = Callable[..., Page]
Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=browser.PROGRAM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harvester.Archive]:
    folder = tmp_path_factory.mktemp("page") / "data"
    with sample_archive(folder, (GAP,), others=("ETHUSD",)) as opened:
        yield opened


@pytest.fixture(scope="module")
def years(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harvester.Archive]:
    with years_archive(tmp_path_factory.mktemp("years") / "data") as opened:
        yield opened


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harvester.Archive]:
    """Two pairs with trades, and DOGUSD without any."""
    folder = tmp_path_factory.mktemp("mixed") / "data"
    with sample_archive(folder, trades=500, others=("ETHUSD",)) as opened:
        request_only(folder, "DOGUSD")
        yield opened


class Tab:
    """A browser's tab in which an archive's page is opened, as often as need be.

    A page that is opened again begins anew, but in the same process of the browser, which has
    compiled its scripts by then.
    """

    def __init__(self, chromium: Browser, shown: harvester.Archive) -> None:
        self._explorer = shown.explore()
        self._context = chromium.new_context(accept_downloads=True)
        self.page = self._context.new_page()
        self.page.set_default_timeout(20_000)
        self.wrong: list[str] = []
        origin = self._explorer.url.partition("?")[0]

        def note(request: Request) -> None:
            if not request.url.startswith((origin, "data:", "blob:", "about:")):
                self.wrong.append(request.url)

        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", self._refuse)
        self.page.on("request", note)

    def _refuse(self, dialog: Dialog) -> None:
        self.wrong.append(dialog.message)
        dialog.dismiss()

    def show(self, state: str, size: tuple[int, int], scheme: Scheme) -> None:
        """Open the page in a state, in a window of a size."""
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        self.page.emulate_media(color_scheme=scheme)
        self.leave()
        self.page.goto(f"{self._explorer.url}#{state}")
        ready(self.page)

    def leave(self) -> None:
        """Leave the page, take the mouse away, and handle no more of its requests."""
        self.page.unroute_all(behavior="ignoreErrors")
        self.page.mouse.move(0, 0)
        self.page.goto("about:blank")

    def close(self) -> None:
        self._context.close()
        self._explorer.close()


class Tabs:
    """The tabs of the tests: one for each archive that they share, and others for one test."""

    def __init__(self, chromium: Browser) -> None:
        self._chromium = chromium
        self._shared: dict[str, Tab] = {}

    def shared(self, shown: harvester.Archive) -> Tab:
        if shown.path not in self._shared:
            self._shared[shown.path] = self.new(shown)
        return self._shared[shown.path]

    def new(self, shown: harvester.Archive) -> Tab:
        return Tab(self._chromium, shown)

    def end(self, tab: Tab, *, has_failed: bool) -> None:
        """End a test in a tab: it is shared on if all is well, as a key may be held down."""
        is_shared = tab in self._shared.values()
        if is_shared and not has_failed:
            tab.leave()
            return
        self._shared = {path: other for path, other in self._shared.items() if other is not tab}
        tab.close()

    def close(self) -> None:
        for tab in self._shared.values():
            tab.close()


@pytest.fixture(scope="module")
def tabs(chromium: Browser) -> Iterator[Tabs]:
    opened = Tabs(chromium)
    yield opened
    opened.close()


@pytest.fixture
def look(request: pytest.FixtureRequest, tabs: Tabs) -> Iterator[Opened]:
    """Open an archive's page; at the end nothing was wrong, and nobody else was asked.

    Tests share a tab for each archive; what `is_apart` is opened in a tab of its own.
    """
    used: list[Tab] = []
    refusals: list[int] = []
    failures = request.session.testsfailed

    def opened(
        shown: harvester.Archive,
        state: str = "pair=XBTUSD",
        size: tuple[int, int] = (1280, 900),
        scheme: Scheme = "light",
        refused: int = 0,
        is_apart: bool = False,
    ) -> Page:
        tab = tabs.new(shown) if is_apart else tabs.shared(shown)
        if tab not in used:
            used.append(tab)
        refusals.append(refused)
        tab.show(state, size, scheme)
        return tab.page

    yield opened
    wrong: list[str] = []
    for tab in used:
        tabs.end(tab, has_failed=request.session.testsfailed > failures)
        wrong += tab.wrong
        tab.wrong.clear()
    # The browser itself logs the answers that a test of wrong input expects.
    refused_requests = [text for text in wrong if re.search(r"status of 40[04] \(", text)]
    assert [text for text in wrong if text not in refused_requests] == []
    assert len(refused_requests) == sum(refusals)


def ready(page: Page) -> None:
    """Wait until the candles of the view are drawn."""
    expect(page.locator("body")).to_have_attribute("data-ready", "true")
    settled(page)


def settled(page: Page) -> None:
    expect(page.get_by_test_id("chart")).to_have_attribute("aria-busy", "false")


def go_to(page: Page, state: str) -> None:
    """Show another state in the same page, and wait for its candles: no page is loaded anew."""
    with page.expect_response(re.compile("/api/candles")):
        page.evaluate("(state) => { location.hash = state; }", state)
    settled(page)


def keep(page: Page, name: str) -> None:
    """Keep what the page looks like, if a folder is named."""
    if "CHART_SCREENSHOTS" in os.environ:
        folder = Path(os.environ["CHART_SCREENSHOTS"])
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"explorer-{name}.png", full_page=True)


def view_of(page: Page) -> Range:
    """The visible range, by the page's address."""
    state = dict(part.split("=") for part in page.evaluate("location.hash.slice(1)").split("&"))
    since, until = (parse_moment(state[name].replace("%3A", ":"), 0) for name in ("since", "until"))
    return Range(since, until)


def legend_of(page: Page) -> dict[str, str]:
    texts: dict[str, str] = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#legend dd')]"
        ".map((value) => [value.dataset.field, value.textContent]))"
    )
    return texts


def over(page: Page, part: float, *, click: bool = False) -> None:
    """Move the mouse over a part of the chart's width."""
    box = page.get_by_test_id("chart").bounding_box()
    assert box is not None
    x, y = box["x"] + 8 + part * (box["width"] - 74), box["y"] + box["height"] / 3
    page.mouse.move(x, y)
    if click:
        page.mouse.click(x, y)


def wheel(page: Page, delta: int) -> None:
    """Turn the wheel by a notch, and wait for the candles that come into view."""
    with page.expect_response(re.compile("/api/candles")):
        page.mouse.wheel(0, delta)
    settled(page)


# --- chart ----------------------------------------------------------------------------------------


def test_the_page_shows_pairs_coverage_and_candles(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive)
    expect(page.get_by_test_id("pair-list").get_by_role("button")).to_have_count(2)
    expect(page.get_by_test_id("pair-list")).to_contain_text("XBT/USD")
    expect(page.get_by_test_id("coverage").locator(".g")).to_have_count(1)
    expect(page.get_by_test_id("chart")).to_have_attribute("data-interval", "15m")
    expect(page.get_by_test_id("interval").get_by_role("button", name="auto")).to_have_attribute(
        "aria-pressed", "true"
    )
    assert page.locator("#plot .boxlayer path.box").count() > 700
    expect(page.locator("#plot")).to_contain_text("gap (not downloaded)")
    keep(page, "whole")


def test_the_legend_has_the_archives_digits(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=XBTUSD&interval=15m")
    for interval in ("15m", "4h", "7h"):
        if interval != "15m":
            go_to(page, f"pair=XBTUSD&interval={interval}")
        batches = archive.ohlc("XBTUSD", interval, all_columns=True).to_arrow_table().to_batches()
        rows = [row for batch in batches for row in as_text(batch).to_pylist()]
        by_time = {row["time"].rstrip("Z").replace("T", " "): row for row in rows}
        seen = set()
        for part in (0.03, 0.1, 0.5, 0.77, 0.97):
            over(page, part)
            shown = legend_of(page)
            time = shown["time"].partition(" UTC")[0]
            row = by_time[f"{time}:00"]
            assert {name: shown[name] for name in LEGEND} == {
                name: str(row[name]) for name in LEGEND
            }
            seen.add(time)
        assert len(seen) == 5


def test_the_wheel_goes_from_twelve_years_to_a_minute_in_eight_steps(
    years: harvester.Archive, look: Opened
) -> None:
    page = look(years)
    answers: list[Any] = []

    def keep_answer(response: Any) -> None:
        answers.append(response)

    page.on("response", keep_answer)
    over(page, 0.6)
    intervals = [page.get_by_test_id("chart").get_attribute("data-interval")]
    for _ in range(8):
        wheel(page, -100)
        intervals.append(page.get_by_test_id("chart").get_attribute("data-interval"))
        keep(page, f"step-{len(intervals) - 1}")
    shown = view_of(page)
    page.remove_listener("response", keep_answer)
    assert shown.through - shown.after <= 60 * SECOND
    assert intervals == ["1w", "1d", "4h", "15m", "5m", "15s", "1s", "1s", "1s"]
    candles = [answer for answer in answers if "/api/candles" in answer.url]
    assert len(candles) == 8
    for answer in candles:
        body = answer.body()
        assert len(body) <= 200_000
        assert len(answer.json()["time"].split(" ")) <= 1_500


def test_the_place_under_the_mouse_stays_while_zooming(
    years: harvester.Archive, look: Opened
) -> None:
    state = "pair=XBTUSD&since=2020-01-01T00:00:00Z&until=2024-01-01T00:00:00Z"
    # So wide that a pixel of the chart is less than two days.
    page = look(years, state, size=(1900, 900))
    before = Range(parse_moment("2020-01-01", 0), parse_moment("2024-01-01", 0))
    over(page, 0.25)
    wheel(page, -100)
    after = view_of(page)
    place = before.after + (before.through - before.after) / 4
    assert after.after + (after.through - after.after) / 4 == pytest.approx(place, abs=2 * DAY)
    assert (before.through - before.after) / (after.through - after.after) == pytest.approx(8, 0.01)


def test_the_wheel_can_zoom_gently(archive: harvester.Archive, look: Opened) -> None:
    cases: list[tuple[bool, list[int], float]] = [
        (True, [-100], 1.25),
        # A trackpad begins with short turns, and later ones are no notches of a wheel either.
        (False, [-10, -90], 2),
        (True, [-10, -40], 8**0.5),
    ]
    state = "pair=ETHUSD&since=2026-01-25T00:00:00Z&until=2026-01-26T00:00:00Z"
    page = look(archive, state)
    turn = (
        # All events are made first, so that their times show no pause, however slow the page is.
        "([turns, ctrlKey]) => turns"
        ".map((deltaY) => new WheelEvent('wheel', {deltaY, ctrlKey, clientX: 500}))"
        ".forEach((event) => document.getElementById('chart').dispatchEvent(event))"
    )
    for place, (has_ctrl, turns, factor) in enumerate(cases):
        if place:
            go_to(page, state)
        with page.expect_response(re.compile("/api/candles")):
            page.evaluate(turn, [turns, has_ctrl])
        settled(page)
        shown = view_of(page)
        assert DAY / (shown.through - shown.after) == pytest.approx(factor, 0.001)


def test_a_button_makes_the_wheel_gentle_until_it_is_clicked_again(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=ETHUSD&since=2026-01-25T00:00:00Z&until=2026-01-26T00:00:00Z")
    button = page.locator("#wheel")
    expect(button).to_have_text("wheel \u00d78")
    widths = [float(DAY)]
    for text in ("wheel \u00d71.25", "wheel \u00d78"):
        button.click()
        expect(button).to_have_text(text)
        over(page, 0.5)
        wheel(page, -100)
        widths.append(view_of(page).through - view_of(page).after)
    assert widths[0] / widths[1] == pytest.approx(1.25, 0.001)
    assert widths[1] / widths[2] == pytest.approx(8, 0.001)


def test_shift_and_dragging_zooms_to_what_is_selected(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=ETHUSD&since=2026-01-25T00:00:00Z&until=2026-01-26T00:00:00Z")
    page.keyboard.down("Shift")
    over(page, 0.25)
    page.mouse.down()
    over(page, 0.4)
    over(page, 0.5)
    page.mouse.up()
    page.keyboard.up("Shift")
    expect(page).to_have_url(re.compile("since=2026-01-25T0[56]"))
    settled(page)
    shown = view_of(page)
    assert shown.after == pytest.approx(START_NS + 4.25 * DAY, abs=HOUR // 4)
    assert shown.through == pytest.approx(START_NS + 4.5 * DAY, abs=HOUR // 4)


def test_a_double_click_zooms_in_there(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=ETHUSD&since=2026-01-25T00:00:00Z&until=2026-01-26T00:00:00Z")
    over(page, 0.5)
    box = page.get_by_test_id("chart").bounding_box()
    assert box is not None
    with page.expect_response(re.compile("/api/candles")):
        page.mouse.dblclick(box["x"] + 8 + (box["width"] - 74) / 2, box["y"] + 100)
    settled(page)
    shown = view_of(page)
    assert shown.after == pytest.approx(START_NS + 4.375 * DAY, abs=HOUR // 4)
    assert shown.through - shown.after == pytest.approx(DAY / 4, 0.001)


def test_dragging_moves_the_view_and_loads_what_comes_into_it(
    archive: harvester.Archive, look: Opened
) -> None:
    state = "pair=ETHUSD&since=2026-01-25T00:00:00Z&until=2026-01-26T00:00:00Z"
    page = look(archive, state)
    over(page, 0.2)
    page.mouse.down()
    with page.expect_response(re.compile("/api/candles")) as response:
        over(page, 0.7)
        page.mouse.up()
    settled(page)
    shown = view_of(page)
    assert shown.after == pytest.approx(START_NS + 3.5 * DAY, abs=HOUR)
    assert shown.through - shown.after == pytest.approx(DAY, abs=2 * SECOND)
    assert parse_moment(response.value.json()["since"], 0) <= shown.after


def choose(page: Page, pair: str) -> None:
    """Choose another pair of the list, and wait for its candles."""
    with page.expect_response(re.compile(f"/api/candles.*{pair}")):
        page.get_by_test_id("pair-list").locator(f"[data-pair={pair}]").click()
    settled(page)


def test_another_pair_can_be_dragged_and_has_its_own_times(
    archive: harvester.Archive, look: Opened
) -> None:
    state = "pair=ETHUSD&since=2026-01-25T00:00:00Z&until=2026-01-26T00:00:00Z"
    page = look(archive, state)
    choose(page, "XBTUSD")
    over(page, 0.2)
    page.mouse.down()
    over(page, 0.7)
    page.mouse.up()
    expect(page).to_have_url(re.compile("since=2026-01-24T1[12]"))
    settled(page)
    over(page, 0.5)
    expect(page.locator("#legend dd").first).to_contain_text(re.compile("^2026-01-2(4 23|5 00)"))


@pytest.mark.parametrize(
    ("tab", "filled"), [("trades", "#trades-table tr"), ("compare", "#compare-plot .trace")]
)
def test_a_pair_without_trades_shows_nothing_of_the_former(
    mixed: harvester.Archive, look: Opened, tab: str, filled: str
) -> None:
    page = look(mixed, f"pair=XBTUSD&tab={tab}", refused=1)
    expect(page.locator(filled).first).to_be_attached()
    choose(page, "DOGUSD")
    expect(page.get_by_role("alert")).to_contain_text("no trades of 'DOGUSD'")
    expect(page.locator(filled)).to_have_count(0)
    copy = page.get_by_test_id("copy")
    copy.get_by_role("button", name="SQL").click()
    expect(page.locator(".copied")).to_have_text("there is nothing to copy yet")


def test_a_pair_without_trades_can_be_moved_and_left(
    mixed: harvester.Archive, look: Opened
) -> None:
    page = look(mixed, "pair=XBTUSD", refused=2)
    choose(page, "DOGUSD")
    page.get_by_test_id("coverage").click()
    page.get_by_role("tab", name="Gaps").click()
    with page.expect_response(re.compile("/api/candles")):
        page.locator("#panel-gaps").get_by_role("button", name="show").first.click()
    settled(page)
    assert view_of(page).after < START_NS < START_NS + DAY < view_of(page).through
    choose(page, "XBTUSD")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_an_overtaken_request_is_cancelled_and_old_candles_stay_meanwhile(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=ETHUSD")
    held: list[Any] = []
    cancelled: list[str] = []

    def note(request: Request) -> None:
        cancelled.append(str(request.failure))

    page.on("requestfailed", note)

    def hold(route: Any) -> None:
        held.append(route)

    page.route(re.compile("/api/candles"), hold, times=1)
    over(page, 0.5)
    page.mouse.wheel(0, -100)
    expect(page.get_by_test_id("chart")).to_have_attribute("aria-busy", "true")
    assert page.locator("#plot .boxlayer path.box").count() > 700
    wheel(page, -100)
    page.remove_listener("requestfailed", note)
    assert cancelled == ["net::ERR_ABORTED"]
    assert len(held) == 1
    expect(page.get_by_test_id("chart")).to_have_attribute("data-interval", "15s")


def test_the_crosshair_has_its_time_and_price_at_the_axes(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=ETHUSD&since=2026-01-25T00:00:00Z&until=2026-01-26T00:00:00Z")
    chart, mark = (page.get_by_test_id(name).bounding_box() for name in ("chart", "high-mark"))
    assert chart is not None
    assert mark is not None
    # At the height of the mark of the highest price.
    page.mouse.move(
        chart["x"] + 8 + (chart["width"] - 74) / 4, round(mark["y"] + mark["height"] / 2)
    )
    high = float(mark_of(page, "high"))
    low = float(mark_of(page, "low"))
    shown = float(page.locator("#cross-value").text_content() or "")
    assert shown == pytest.approx(high, abs=(high - low) / 50)
    time = parse_moment(page.locator("#cross-time").text_content() or "", 0)
    assert time == pytest.approx(START_NS + 4.25 * DAY, abs=HOUR // 12)
    # The label has the time when the candle opens, as the legend has.
    page.get_by_test_id("interval").get_by_role("button", name="4h").click()
    expect(page.get_by_test_id("chart")).to_have_attribute("data-interval", "4h")
    settled(page)
    over(page, 0.3)
    expect(page.locator("#cross-time")).to_have_text("2026-01-25 04:00")
    assert legend_of(page)["time"].startswith("2026-01-25 04:00")


def test_no_text_of_an_axis_is_half_covered_by_the_crosshairs(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=ETHUSD")
    labels = page.locator("#plot .xtick text, #plot .ytick text, #plot .y2tick text")
    covered = """
    (ticks) => ticks.filter((tick) => tick.style.visibility !== "hidden").filter((tick) =>
      [...document.querySelectorAll("#cross span")].some((label) => {
        const [one, other] = [tick, label].map((part) => part.getBoundingClientRect());
        return one.left < other.right && one.right > other.left &&
          one.top < other.bottom && one.bottom > other.top;
      })).length
    """
    hidden = "(ticks) => ticks.filter((tick) => tick.style.visibility === 'hidden').length"
    label_box = page.locator("#plot .ytick text").nth(1).bounding_box()
    assert label_box is not None
    chart = page.get_by_test_id("chart").bounding_box()
    assert chart is not None
    for below in (-8, 0, 8):
        page.mouse.move(chart["x"] + 200, label_box["y"] + label_box["height"] / 2 + below)
        assert labels.evaluate_all(covered) == 0
        assert labels.evaluate_all(hidden) > 0
    page.mouse.move(0, 0)
    assert labels.evaluate_all(hidden) == 0


def test_the_vwap_is_drawn_where_candles_are_wide_enough(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=ETHUSD&interval=15m")
    for interval, is_drawn in (("15m", False), ("4h", True)):
        if is_drawn:
            go_to(page, f"pair=ETHUSD&interval={interval}")
        expect(page.locator("#plot .scatterlayer .js-line")).to_have_count(int(is_drawn))
        expect(page.locator("#vwap-key")).to_be_visible(visible=is_drawn)


def test_time_before_the_first_trade_is_called_so(years: harvester.Archive, look: Opened) -> None:
    page = look(years, "pair=XBTUSD&since=2012-01-01T00:00:00Z&until=2016-01-01T00:00:00Z")
    expect(page.locator("#plot")).to_contain_text("before the first trade")
    over(page, 0.1)
    assert legend_of(page)["time"].endswith("UTC, before the first trade")
    over(page, 0.1, click=True)
    expect(page.locator("#candle-title")).to_contain_text("before the first trade")


def mark_of(page: Page, kind: str) -> str:
    """The highest or lowest price that is written in the chart."""
    found = re.search(rf"{kind} ([\d.]+)", page.get_by_test_id(f"{kind}-mark").inner_text())
    assert found is not None
    return found[1]


def trades_of(archive: harvester.Archive, pair: str) -> list[dict[str, Any]]:
    """All trades as texts."""
    batches = archive.trades(pair).to_arrow_table().to_batches()
    return [row for batch in batches for row in as_text(batch).to_pylist()]


def card_of(page: Page) -> dict[str, str]:
    """The figures of the candle that was picked."""
    expect(page.get_by_test_id("candle")).to_be_visible()
    texts: dict[str, str] = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#candle-figures div')]"
        ".map((row) => [row.querySelector('dt').textContent, row.querySelector('dd').textContent]))"
    )
    return texts | {"title": page.locator("#candle-title").text_content() or ""}


def test_the_views_highest_and_lowest_price_lead_to_their_trades(
    archive: harvester.Archive, look: Opened
) -> None:
    trades = trades_of(archive, "ETHUSD")
    prices = [Decimal(trade["price"]) for trade in trades]
    page = look(archive, "pair=ETHUSD")
    for kind, price in (("high", max(prices)), ("low", min(prices))):
        if kind == "low":
            go_to(page, "pair=ETHUSD")
        assert Decimal(mark_of(page, kind)) == price
        page.get_by_test_id(f"{kind}-mark").click()
        time = trades[prices.index(price)]["time"]
        text = f"{time.replace('T', ' ').replace('Z', '')} UTC at {price}"
        expect(page.get_by_test_id("found")).to_contain_text(text)
        expect(page.locator("#candle-title")).to_have_text(f"{text[:16]} UTC, 1m")
        assert Decimal(card_of(page)[kind]) == price
        assert Decimal(mark_of(page, kind)) == price


def test_a_trade_is_found_by_its_price(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=ETHUSD&tab=gaps")
    trades = trades_of(archive, "ETHUSD")
    prices = sorted(Decimal(trade["price"]) for trade in trades)
    limit = prices[len(prices) // 2]
    above = [trade for trade in trades if Decimal(trade["price"]) > limit]
    below = [trade for trade in trades if Decimal(trade["price"]) < limit]
    wanted = {
        "first above": above[0],
        "first below": below[0],
        "last above": above[-1],
        "last below": below[-1],
    }
    for which, trade in wanted.items():
        page.get_by_label("Which trade").select_option(which)
        page.get_by_label("Price", exact=True).fill(f"{limit:,}")
        page.get_by_role("button", name="Find").click()
        time = trade["time"].replace("T", " ").replace("Z", "")
        text = f"{which} {limit}: {time} UTC at {trade['price']}, volume {trade['volume']}, taker "
        expect(page.get_by_test_id("found")).to_contain_text(f"{text}{trade['side']}")
        expect(page.locator("#candle-title")).to_have_text(f"{time[:16]} UTC, 1m")
        here = page.get_by_test_id("trades").locator("tr.here")
        expect(here.locator("td").first).to_have_text(time)
    keep(page, "found")


def test_a_trade_that_is_found_comes_with_a_caution_if_others_are_not_stored(
    years: harvester.Archive, archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, refused=0)
    found = page.get_by_test_id("found")
    page.get_by_label("Price", exact=True).fill("1")
    page.get_by_role("button", name="Find").click()
    expect(found).to_contain_text("; the first stored trade; earlier prices are not known")
    first = trades_of(archive, "XBTUSD")[0]["price"]
    page.get_by_label("Price", exact=True).fill(first)
    page.get_by_role("button", name="Find").click()
    caution = "1 range before it is not stored: there an earlier trade may be missing"
    expect(found).to_contain_text(caution)
    page.get_by_label("Price", exact=True).fill("1")
    page.get_by_label("Which trade").select_option("first below")
    page.get_by_role("button", name="Find").click()
    expect(found).to_have_text("first below 1: no stored trade")
    expect(page.get_by_test_id("candle")).to_be_visible()
    for wrong in ("1e9", "1,5", "60kk", "-1", "1' OR 1"):
        page.get_by_label("Price", exact=True).fill(wrong)
        page.get_by_role("button", name="Find").click()
        expect(found).to_contain_text(f"{wrong} is no price")
        expect(found).to_have_class("lacking")
        expect(page.get_by_test_id("candle")).to_be_hidden()
    page.get_by_label("Which trade").select_option("first above")
    page.get_by_label("Price", exact=True).fill("123,456,789.05k")
    page.get_by_role("button", name="Find").click()
    expect(found).to_have_text("first above 123456789050: no stored trade")
    expect(found).not_to_have_class("lacking")
    page.get_by_label("Price", exact=True).fill("123,456,789,012.5")
    page.get_by_role("button", name="Find").click()
    expect(found).to_have_text("first above 123456789012.5: no stored trade")

    page = look(years)
    page.get_by_label("Price", exact=True).fill("1")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_test_id("found")).to_contain_text("first above 1: ")
    expect(page.get_by_test_id("found")).to_contain_text("; the first trade of all")
    first = trades_of(years, "XBTUSD")[0]["price"]
    page.get_by_label("Price", exact=True).fill(first)
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_test_id("found")).to_contain_text(f"first above {first}: 2")
    expect(page.get_by_test_id("found")).not_to_contain_text("; ")


def test_a_click_shows_all_figures_of_a_candle_until_it_is_closed(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=XBTUSD&interval=1h")
    over(page, 0.6, click=True)
    card = card_of(page)
    batches = archive.ohlc("XBTUSD", "1h", all_columns=True).to_arrow_table().to_batches()
    rows = [row for batch in batches for row in as_text(batch).to_pylist()]
    time = card["title"].partition(" UTC")[0]
    [row] = [row for row in rows if row["time"] == f"{time.replace(' ', 'T')}:00Z"]
    same = ("open", "high", "low", "close", "vwap", "volume")
    assert {name: card[name] for name in same} == {name: str(row[name]) for name in same}
    assert card["taker buy"] == row["buy_volume"]
    assert card["taker sell"] == row["sell_volume"]
    shares = [Decimal(row[side]) / Decimal(row["volume"]) for side in ("buy_volume", "sell_volume")]
    assert page.locator("#candle-figures .share").all_text_contents() == [
        f"{100 * share:.1f} %" for share in shares
    ]
    assert card["trades"] == f"{row['count']:,}"
    unknown = Decimal(row["volume"]) - Decimal(row["buy_volume"]) - Decimal(row["sell_volume"])
    assert Decimal(card["side unknown"]) == unknown
    over(page, 0.1)
    assert card_of(page) == card
    page.get_by_label("Close the candle").click()
    expect(page.get_by_test_id("candle")).to_be_hidden()
    over(page, 0.3, click=True)
    expect(page.locator("#candle-title")).to_contain_text("gap (not downloaded)")
    page.get_by_test_id("chart").press("Escape")
    expect(page.get_by_test_id("candle")).to_be_hidden()


def test_differences_of_volumes_are_exact(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive)
    cases = [
        (["1", "0.3", "0.6"], "0.1"),
        (["12345678901234.12345678", "0.00000001"], "12345678901234.12345677"),
        (["5", "5", "0"], "0"),
        (["100.5", "0.5"], "100"),
    ]
    for texts, expected in cases:
        script = "async (texts) => (await import('/page/format.js')).difference(...texts)"
        assert page.evaluate(script, texts) == expected


def test_a_line_says_what_is_missing_in_the_view(archive: harvester.Archive, look: Opened) -> None:
    around = "not requested before 2026-01-21; stored until 2026-01-31, not requested from then on"
    texts = {
        "pair=XBTUSD": f"1 gap, 2 d; {around}",
        "pair=ETHUSD": f"{around}; no gaps",
        "pair=XBTUSD&since=2026-01-25T00:00:00Z&until=2026-01-26T00:00:00Z": "complete, no gaps",
        "pair=XBTUSD&since=2026-01-23T23:30:00Z&until=2026-01-26T00:00:00Z": "1 gap, 1 d 30 min",
        "pair=XBTUSD&since=2025-01-01T00:00:00Z&until=2025-02-01T00:00:00Z": "not requested",
        "pair=XBTUSD&since=2097-01-01T00:00:00Z&until=2097-02-01T00:00:00Z": "the future",
    }
    page = look(archive)
    for place, (state, text) in enumerate(texts.items()):
        if place:
            go_to(page, state)
        expect(page.get_by_test_id("missing")).to_have_text(f"this view: {text}")
    page.get_by_test_id("missing").click()
    row = page.locator("#panel-gaps tr", has=page.get_by_role("cell", name="2026", exact=True))
    expect(row).to_contain_text(f"1 gap, 2 d; {around}")
    row.get_by_role("button", name="show").click()
    expect(page).to_have_url(re.compile("until=2027-"))


def test_search_results_are_visible_on_a_small_screen(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=ETHUSD", size=(1366, 650))
    page.get_by_label("Price", exact=True).fill("1")
    page.get_by_role("button", name="Find").click()
    for asked in (
        page.get_by_test_id("found"),
        page.get_by_test_id("candle"),
        page.get_by_test_id("trades").locator("tr.here"),
    ):
        expect(asked).to_be_in_viewport()
    page.get_by_role("tab", name="SQL").click()
    page.get_by_role("button", name="largest trades").click()
    page.get_by_test_id("run-sql").click()
    expect(page.get_by_test_id("sql").locator("tbody tr").first).to_be_in_viewport()
    keep(page, "small-screen")
    page.get_by_test_id("sql").evaluate("(panel) => panel.scrollTo(0, panel.scrollHeight)")
    card = page.get_by_test_id("candle").bounding_box()
    assert card is not None
    assert card["y"] + card["height"] <= 650
    narrow = look(archive, "pair=ETHUSD&interval=1h", size=(390, 700))
    narrow.get_by_test_id("chart").scroll_into_view_if_needed()
    over(narrow, 0.5, click=True)
    expect(narrow.get_by_test_id("candle")).to_be_in_viewport()


def test_nothing_moves_when_a_trade_is_found(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=ETHUSD", size=(1366, 768))
    boxes = [
        page.get_by_test_id("chart"),
        page.get_by_test_id("trades"),
        page.get_by_role("tablist"),
    ]
    places = [box.bounding_box() for box in boxes]
    page.get_by_label("Price", exact=True).fill("1")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_test_id("candle")).to_be_visible()
    expect(page.get_by_test_id("found")).to_contain_text("first above")
    settled(page)
    for box, before in zip(boxes, places, strict=True):
        after = box.bounding_box()
        assert before is not None
        assert after is not None
        assert (after["x"], after["y"]) == (before["x"], before["y"])


def test_intervals_by_button_and_by_typing(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, refused=1)
    chart, interval = page.get_by_test_id("chart"), page.get_by_test_id("interval")
    interval.get_by_role("button", name="4h").click()
    expect(chart).to_have_attribute("data-interval", "4h")
    interval.get_by_role("textbox").fill("7h")
    interval.get_by_role("textbox").press("Enter")
    expect(chart).to_have_attribute("data-interval", "7h")
    interval.get_by_role("textbox").fill("7x")
    interval.get_by_role("textbox").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("'7x' is no interval")
    interval.get_by_role("button", name="1s", exact=True).click()
    expect(interval).to_contain_text("1s is too short here: 15m is drawn")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_back_and_a_copied_address_show_the_same_view(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive)
    whole = legend_of(page)
    # Changes within 0.8 s, as by a wheel, are one step back; so is the first state of the page.
    opened_ms = page.evaluate("performance.now()")
    page.wait_for_function("opened => performance.now() > opened + 800", arg=opened_ms)
    page.get_by_test_id("interval").get_by_role("button", name="1h", exact=True).click()
    expect(page.get_by_test_id("chart")).to_have_attribute("data-interval", "1h")
    copied = page.evaluate("location.hash.slice(1)")
    page.go_back()
    expect(page.get_by_test_id("chart")).to_have_attribute("data-interval", "15m")
    assert legend_of(page) == whole
    page.go_forward()
    expect(page.get_by_test_id("chart")).to_have_attribute("data-interval", "1h")

    other = look(archive, copied, is_apart=True)
    expect(other.get_by_test_id("chart")).to_have_attribute("data-interval", "1h")
    assert legend_of(other) == legend_of(page)


def test_the_keyboard_moves_zooms_and_picks(archive: harvester.Archive, look: Opened) -> None:
    state = "pair=ETHUSD&since=2026-01-25T00:00:00Z&until=2026-01-27T00:00:00Z&interval=1h"
    page = look(archive, state)
    page.get_by_test_id("chart").focus()
    page.keyboard.press("ArrowRight")
    assert view_of(page).after == START_NS + 4 * DAY + 12 * HOUR
    page.keyboard.press("+")
    assert view_of(page).through - view_of(page).after == DAY
    settled(page)
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    at = legend_of(page)["time"].partition(" UTC")[0]
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("trades").locator("tr.here")).to_contain_text(at[:14])
    page.keyboard.press("Home")
    expect(page).to_have_url(re.compile("^((?!since=).)*$"))


def test_a_click_in_the_coverage_goes_there(years: harvester.Archive, look: Opened) -> None:
    page = look(years)
    box = page.get_by_test_id("coverage").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 5)
    expect(page).to_have_url(re.compile("since="))
    shown = view_of(page)
    middle = END_NS - 6 * 365 * DAY
    assert (shown.after + shown.through) / 2 == pytest.approx(middle, abs=10 * DAY)


def grow(folder: Path, pair: str, after: Range) -> None:
    """Add the made-up trades of a range to a pair."""
    with open_writer(TradeStore(folder), pair) as pair_writer:
        pair_writer.commit(
            after, clip(sample_trades(30_000, 7), after), Footer(after, "{}", source="made")
        )


def test_a_view_that_follows_the_end_is_no_step_of_back(tmp_path: Path, look: Opened) -> None:
    after = Range(END_NS - DAY, END_NS - 1)
    with sample_archive(tmp_path, (after,)) as growing:
        page = look(
            growing,
            "pair=XBTUSD&since=2026-01-29T12:00:00Z&until=2026-01-30T01:00:00Z",
            is_apart=True,
        )
        steps = page.evaluate("history.length")
        grow(tmp_path, "XBTUSD", after)
        expect(page).to_have_url(re.compile("until=2026-01-31"))
        settled(page)
        assert page.evaluate("history.length") == steps


def test_candles_that_come_while_a_button_is_pressed_do_not_end_the_drag(
    tmp_path: Path, look: Opened
) -> None:
    after = Range(END_NS - DAY, END_NS - 1)
    with sample_archive(tmp_path, (after,)) as growing:
        state = "pair=XBTUSD&since=2026-01-25T00:00:00Z&until=2026-01-26T00:00:00Z"
        page = look(growing, state, is_apart=True)
        over(page, 0.2)
        page.mouse.down()
        with page.expect_response(re.compile("/api/candles")) as response:
            grow(tmp_path, "XBTUSD", after)
        response.value.finished()
        over(page, 0.7)
        page.mouse.up()
        expect(page).to_have_url(re.compile("since=2026-01-24T1[12]"))
        settled(page)


def test_the_newest_candle_moves_and_the_page_of_trades_stays_where_the_archive_grows(
    tmp_path: Path, look: Opened
) -> None:
    after = Range(END_NS - DAY, END_NS - 1)
    with sample_archive(tmp_path, (after,)) as growing:
        page = look(growing, "pair=XBTUSD&interval=1h", is_apart=True)
        ids = page.get_by_test_id("trades").locator("tbody tr td:nth-child(6)")
        page.get_by_role("button", name="oldest").click()
        expect(ids.first).to_have_text("1")
        before = legend_of(page)["time"]
        grow(tmp_path, "XBTUSD", after)
        expect(page.locator("#legend dd").first).not_to_have_text(before)
        settled(page)
        assert legend_of(page)["time"] == "2026-01-30 23:00 UTC, 1h"
        expect(ids.first).to_have_text("1")


def test_the_first_trades_of_an_archive_appear_by_themselves(
    tmp_path: Path, chromium: Browser
) -> None:
    with harvester.open(tmp_path) as empty, empty.explore() as explorer:
        page = chromium.new_page()
        page.goto(explorer.url)
        expect(page.get_by_test_id("pair-list")).to_contain_text("harvester backfill XBT/USD")
        sample_archive(tmp_path, trades=500)
        expect(page.locator("#pair-name")).to_have_text("XBT/USD")
        ready(page)
        page.close()


def test_a_pair_of_an_empty_archive_is_requested_once(tmp_path: Path, chromium: Browser) -> None:
    with harvester.open(tmp_path) as empty, empty.explore() as explorer:
        page = chromium.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{explorer.url}#pair=XBTUSD&tab=sql")
        for _ in range(2):
            with page.expect_response(re.compile("/api/pairs")):
                pass
        expect(page.get_by_role("alert")).to_contain_text("holds no trades of 'XBTUSD'")
        assert len([url for url in asked if "/api/candles" in url]) == 1
        page.close()


def test_the_first_trades_of_a_pair_appear_by_themselves(tmp_path: Path, look: Opened) -> None:
    with sample_archive(tmp_path, trades=500) as growing:
        request_only(tmp_path, "DOGUSD")
        page = look(growing, "pair=XBTUSD", refused=1, is_apart=True)
        # The candles are asked for again only if something has changed.
        with page.expect_response(re.compile("/api/version.*DOGUSD")):
            choose(page, "DOGUSD")
        with page.expect_response(re.compile("/api/version.*DOGUSD")):
            pass
        grow(tmp_path, "DOGUSD", Range(START_NS - 1, START_NS + DAY))
        expect(page.locator("#legend dd").first).to_contain_text("2026-01-21")
        expect(page.get_by_role("alert")).to_be_hidden()


def test_the_skip_link_keeps_the_state(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=ETHUSD&interval=4h")
    address = page.url
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("chart")).to_be_focused()
    assert page.url == address


def test_the_crosshair_in_a_gap_shows_no_figures(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=XBTUSD&interval=1h")
    over(page, 0.3)
    assert list(legend_of(page)) == ["time"]
    assert re.fullmatch(r"2026-01-2[34] .* UTC, gap \(not downloaded\)", legend_of(page)["time"])
    over(page, 0.6)
    assert set(LEGEND) < set(legend_of(page))


def test_times_that_can_be_typed(archive: harvester.Archive, look: Opened) -> None:
    cases = [
        ("2026-01-28 12:30", "2026-01-28T12:30:00Z", HOUR),
        ("2026-01-28 12", "2026-01-28T12:00:00Z", HOUR),
        ("2026-01-28 12:30 UTC", "2026-01-28T12:30:00Z", HOUR),
        ("2026-01-28T12:30:15Z", "2026-01-28T12:30:15Z", 120 * SECOND),
        ("2026-01-28", "2026-01-28T00:00:00Z", DAY),
        ("2024-02", "2024-02-01T00:00:00Z", 29 * DAY),
    ]
    page = look(archive)
    for typed, since, width in cases:
        page.get_by_label("Go to a date or time").fill(typed)
        with page.expect_response(re.compile("/api/candles")):
            page.get_by_role("button", name="go", exact=True).click()
        settled(page)
        assert show(view_of(page).after) == since
        assert view_of(page).through - view_of(page).after == width


def test_a_year_is_shown_without_a_day_of_the_next(years: harvester.Archive, look: Opened) -> None:
    page = look(years)
    page.get_by_label("Go to a date or time").fill("2015")
    with page.expect_response(re.compile("/api/candles")):
        page.get_by_role("button", name="go", exact=True).click()
    settled(page)
    assert view_of(page) == Range(parse_moment("2015-01-01", 0), parse_moment("2016-01-01", 0))
    times = page.get_by_test_id("trades").locator("tbody td:first-child")
    expect(times.last).to_contain_text("2015-12-31")
    expect(page.locator("#legend div").first).to_have_text(re.compile("^last candle:2015-12-31"))


def test_what_is_no_time_is_refused(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive)
    address = page.url
    days = ("12", "2026-1-2", "2026-02-31", "28.1.2026", "yesteryear")
    for typed in (*days, "2026-01 12:00", "2026-01-28 25:00"):
        page.get_by_label("Go to a date or time").fill(typed)
        page.get_by_role("button", name="go", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text(f"{typed} is no date")
    assert page.url == address


def test_an_interval_in_another_spelling_is_not_too_short(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=XBTUSD&since=2026-01-28T00:00:00Z&until=2026-01-29T00:00:00Z")
    typed = page.get_by_test_id("interval").get_by_role("textbox")
    typed.fill("5")
    typed.press("Enter")
    expect(page.get_by_test_id("chart")).to_have_attribute("data-interval", "5m")
    settled(page)
    expect(page.locator("#interval-note")).to_have_text("")


# --- tabs -----------------------------------------------------------------------------------------


def test_trades_are_those_around_the_click_and_pages_follow(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=XBTUSD&interval=1h")
    over(page, 0.6, click=True)
    at = legend_of(page)["time"].partition(" UTC")[0]
    panel = page.get_by_test_id("trades")
    expect(panel.locator("tr.here")).to_contain_text(at[:13])
    table = archive.trades("XBTUSD").to_arrow_table()
    ids = [str(number) for number in table.column("trade_id").to_pylist()]

    def shown() -> list[str]:
        return panel.locator("tbody tr td:nth-child(6)").all_text_contents()

    first = shown()
    place = ids.index(first[0])
    assert first == ids[place : place + 100]
    for name, start in (("later ▶", place + 100), ("◀ earlier", place), ("newest", len(ids) - 100)):
        with page.expect_response(re.compile("/api/trades")):
            panel.get_by_role("button", name=name).click()
        expect(panel.locator("tbody tr td:nth-child(6)").first).to_have_text(ids[start])
        assert shown() == ids[start : start + 100]
    keep(page, "trades")


def test_trades_follow_the_crosshair_until_a_click_keeps_them(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=XBTUSD&interval=1h")
    here = page.get_by_test_id("trades").locator("tr.here")
    for part in (0.1, 0.9):
        over(page, part)
        at = legend_of(page)["time"].partition(" UTC")[0]
        expect(here).to_contain_text(at[:13])
    page.mouse.move(0, 0)
    expect(page.locator("#legend div").first).to_contain_text("last candle:")
    expect(page.locator("#trades-note")).to_have_text(f"100 trades around {at}")
    over(page, 0.6, click=True)
    kept = legend_of(page)["time"].partition(" UTC")[0]
    expect(here).to_contain_text(kept[:13])
    over(page, 0.1)
    page.get_by_test_id("trades").hover()
    assert legend_of(page)["time"].partition(" UTC")[0] == kept
    expect(here).to_contain_text(kept[:13])


def test_a_time_of_a_trade_is_shown_in_the_chart(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=XBTUSD")
    page.get_by_role("button", name="oldest").click()
    first = trades_of(archive, "XBTUSD")[0]["time"].replace("T", " ").replace("Z", "")
    page.get_by_test_id("trades").get_by_role("button", name=first, exact=True).first.click()
    expect(page.locator("#candle-title")).to_have_text(f"{first[:16]} UTC, 1m")


def test_other_trades_can_be_requested_before_the_first_answer(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=XBTUSD&tab=sql")
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route(re.compile("/api/trades"), hold, times=1)
    with page.expect_request(re.compile("/api/trades")):
        page.get_by_role("tab", name="Trades").click()
    page.get_by_role("button", name="oldest").click()
    first = trades_of(archive, "XBTUSD")[0]["time"].replace("T", " ").replace("Z", "")
    expect(page.get_by_test_id("trades").locator("tbody td").first).to_have_text(first)
    assert len(held) == 1


def test_sql_runs_draws_and_downloads(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=XBTUSD&tab=sql")
    panel = page.get_by_test_id("sql")
    panel.locator("textarea").fill("FROM ohlc('ETHUSD', '4h')")
    page.get_by_test_id("run-sql").click()
    expect(panel.locator("tbody tr")).to_have_count(60)
    [batch] = archive.ohlc("ETHUSD", "4h").to_arrow_table().to_batches()
    assert panel.locator("tbody tr td:nth-child(6)").all_text_contents() == [
        str(vwap) for vwap in batch.column("vwap").to_pylist()
    ]
    panel.get_by_role("button", name="chart this").click()
    expect(panel.locator("#sql-plot path.box")).to_have_count(60)
    keep(page, "sql")
    with page.expect_download() as download:
        panel.get_by_role("button", name="CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("time,open,high,low,close,vwap")
    assert len(lines) == 61


def test_sql_shows_what_is_wrong_and_can_be_cancelled(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=XBTUSD&tab=sql")
    panel = page.get_by_test_id("sql")
    panel.locator("textarea").fill("SELECT count(*) FROM range(1000000000) a, range(1000000) b")
    panel.locator("textarea").press("Control+Enter")
    panel.get_by_role("button", name="cancel").click()
    expect(panel.get_by_role("status")).to_have_text("cancelled")
    panel.locator("textarea").fill("SELECT 1 AS a, 'x<b>y</b>' AS b")
    page.get_by_test_id("run-sql").click()
    expect(panel.locator("tbody td").nth(1)).to_have_text("x<b>y</b>")


def test_sql_that_is_being_typed_stays_and_the_download_is_what_is_shown(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=XBTUSD&tab=sql")
    panel, text = page.get_by_test_id("sql"), page.locator("#sql-text")

    def type_more(route: Any) -> None:
        text.fill("SELECT 2 AS typed")
        route.continue_()

    page.route(re.compile("/api/sql"), type_more, times=1)
    text.fill("SELECT 1 AS shown")
    page.get_by_test_id("run-sql").click()
    expect(panel.locator("tbody tr")).to_have_count(1)
    # What is shown is not of the query in the box.
    expect(panel).to_have_class("old")
    text.fill("SELECT 1 AS shown")
    expect(panel).not_to_have_class("old")
    page.locator("#sql-examples button").first.click()
    expect(panel).to_have_class("old")
    height = "(box) => box.clientHeight >= box.scrollHeight ? box.clientHeight : 0"
    before = text.evaluate(height)
    text.fill("SELECT 2 AS typed" + "\n" * 8)
    assert text.evaluate(height) > before > 0
    text.fill("SELECT 2 AS typed")
    for tab in ("Trades", "SQL"):
        page.get_by_role("tab", name=tab).click()
    choose(page, "ETHUSD")
    expect(text).to_have_value("SELECT 2 AS typed")
    with page.expect_download() as download:
        panel.get_by_role("button", name="CSV").click()
    assert download.value.path().read_text() == "shown\n1\n"


def test_a_download_says_where_it_stops(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=XBTUSD&tab=sql")
    panel = page.get_by_test_id("sql")
    panel.locator("textarea").fill("SELECT range, repeat('x', 9000) AS x FROM range(20000)")
    page.get_by_test_id("run-sql").click()
    expect(panel.get_by_role("status")).to_contain_text("long values are cut")
    with page.expect_download() as download:
        panel.get_by_role("button", name="CSV").click()
    assert re.fullmatch(r"query-first-\d+-rows\.csv", download.value.suggested_filename)
    expect(panel.get_by_role("status")).to_contain_text("there are more; values are cut to 4,000")


def test_texts_of_a_drawn_result_are_no_html(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=XBTUSD&tab=sql")
    panel = page.get_by_test_id("sql")
    panel.locator("textarea").fill("SELECT 'a<b>c</b>&lt;' AS x, 1 AS y UNION ALL SELECT 'd', 2")
    page.get_by_test_id("run-sql").click()
    panel.get_by_role("button", name="chart this").click()
    expect(panel.locator("#sql-plot .xtick").first).to_have_text("a<b>c</b>&lt;")


def test_a_time_of_a_result_is_shown_in_the_chart(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=XBTUSD&tab=sql")
    panel = page.get_by_test_id("sql")
    query = "SELECT time FROM trades WHERE pair = 'XBTUSD' AND price > 60000 ORDER BY time LIMIT 1"
    panel.locator("textarea").fill(query)
    page.get_by_test_id("run-sql").click()
    button = panel.locator("tbody button")
    time = button.text_content()
    assert time is not None
    button.click()
    expect(page.locator("#legend dd").first).to_have_text(f"{time[:16].replace('T', ' ')} UTC, 1m")


def test_each_example_of_sql_is_inserted_by_a_click_and_runs(
    archive: harvester.Archive, look: Opened
) -> None:
    page = look(archive, "pair=ETHUSD&at=2026-01-28T12:30:20Z&tab=sql")
    text, note = page.locator("#sql-text"), page.get_by_test_id("sql").get_by_role("status")
    names = page.locator("#sql-examples button").all_text_contents()
    assert {"highest and lowest price", "a minute by taker side"} <= set(names)
    for name in names:
        page.locator("#sql-examples").get_by_role("button", name=name).click()
        expect(text).to_be_focused()
        expect(text).to_have_value(re.compile("ETHUSD"))
        with page.expect_response(re.compile("/api/sql")) as response:
            page.get_by_test_id("run-sql").click()
        rows = response.value.json()["rows"]
        expect(note).to_contain_text(f"{len(rows)} row")
        if name == "a minute by taker side":
            minute = [
                trade
                for trade in trades_of(archive, "ETHUSD")
                if trade["time"].startswith("2026-01-28T12:30")
            ]
            expected = {
                side: sum(Decimal(trade["volume"]) for trade in minute if trade["side"] == side)
                for side in {trade["side"] for trade in minute}
            }
            assert {side: Decimal(volume) for side, volume, *_ in rows} == expected
        if name == "highest and lowest price":
            prices = [Decimal(trade["price"]) for trade in trades_of(archive, "ETHUSD")]
            assert [Decimal(row[1]) for row in rows] == [max(prices), min(prices)]


def test_gaps_are_listed_and_shown(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=XBTUSD&tab=gaps")
    panel = page.locator("#panel-gaps")
    expect(panel).to_contain_text(show(START_NS + 2 * DAY))
    expect(panel).to_contain_text("harvester verify XBTUSD")
    panel.get_by_role("button", name="show").first.click()
    expect(page).to_have_url(re.compile("since="))
    shown = view_of(page)
    assert shown.after < START_NS + 2 * DAY < START_NS + 4 * DAY < shown.through
    expect(panel.locator("#years tr.here td").first).to_have_text("2026")
    keep(page, "gaps")


def test_the_year_of_the_view_is_in_sight(years: harvester.Archive, look: Opened) -> None:
    state = "pair=XBTUSD&since=2014-03-01T00:00:00Z&until=2014-04-01T00:00:00Z"
    page = look(years, state, size=(1366, 600))
    page.get_by_role("tab", name="Gaps").click()
    here = page.locator("#years tr.here")
    expect(here.locator("td").first).to_have_text("2014")
    expect(here).to_be_in_viewport(ratio=0.9)
    page.locator("#years tr", has_text="2025").get_by_role("button", name="show").click()
    expect(here.locator("td").first).to_have_text("2025")
    expect(here).to_be_in_viewport(ratio=0.9)
    assert show(view_of(page).after) == "2025-01-01T00:00:00Z"


def test_two_pairs_are_overlaid(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=XBTUSD&tab=compare")
    expect(page.locator("#compare-plot .scatterlayer .trace")).to_have_count(2)
    expect(page.locator("#compare-note")).to_contain_text("ETH/USD")
    names = "document.querySelector('#compare-plot').data.map((line) => line.name)"
    assert page.evaluate(names) == ["XBT/USD", "ETH/USD"]
    keep(page, "compare")


def test_what_is_on_the_screen_is_copied(archive: harvester.Archive, look: Opened) -> None:
    page = look(archive, "pair=XBTUSD&interval=4h")
    copy = page.get_by_test_id("copy")
    copy.get_by_role("button", name="command").click()
    expect(page.locator(".copied")).to_contain_text("harvester ohlc XBTUSD -i 4h --since")
    copy.get_by_role("button", name="Python").click()
    expect(page.locator(".copied")).to_contain_text(f"harvester.open('{archive.path}').ohlc(")

    copy.get_by_label("What to copy").select_option("trades")
    expect(page.locator(".copied")).to_be_hidden()
    copy.get_by_role("button", name="SQL").click()
    expect(page.locator(".copied")).to_contain_text("FROM tape('XBTUSD') WHERE time >=")

    page.get_by_role("tab", name="SQL").click()
    copy.get_by_label("What to copy").select_option("query")
    copy.get_by_role("button", name="command").click()
    expect(page.locator(".copied")).to_have_text("there is nothing to copy yet")
    page.get_by_test_id("sql").locator("textarea").fill("SELECT 'it''s'")
    page.get_by_test_id("run-sql").click()
    expect(page.get_by_test_id("sql").locator("tbody td")).to_have_text("it's")
    copy.get_by_role("button", name="command").click()
    words = shlex.split(page.locator(".copied").text_content() or "")
    assert words == ["harvester", "sql", "SELECT 'it''s'", "--data", archive.path]


# --- sizes, schemes, safety -----------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_it_fits_narrow_screens_in_both_schemes(
    archive: harvester.Archive, look: Opened, width: int, scheme: Literal["light", "dark"]
) -> None:
    page = look(archive, size=(width, 844), scheme=scheme)
    chart, tabs = page.get_by_test_id("chart"), page.get_by_role("tablist")
    for tab in ("SQL", "Gaps and runs", "Compare", "Trades"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    box, details = chart.bounding_box(), tabs.bounding_box()
    assert box is not None
    assert details is not None
    # Where there is space, what a click asks for stands beside the chart, and else below it.
    if width == 390:
        assert box["width"] > width * 0.7
        assert details["y"] > box["y"] + box["height"]
    else:
        assert box["width"] > width * 0.4
        assert details["x"] > box["x"] + box["width"]
    schemes: list[Literal["light", "dark"]] = ["light", "dark"]
    for other in schemes:
        page.emulate_media(color_scheme=other)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (other == "light")
        keep(page, f"{other}-{width}")


def test_names_of_others_are_only_ever_text(tmp_path: Path, look: Opened) -> None:
    with sample_archive(tmp_path, trades=500, wsname=HOSTILE) as hostile:
        page = look(hostile, is_apart=True)
        expect(page.locator("#pair-name")).to_have_text(HOSTILE)
        expect(page.get_by_test_id("pair-list")).to_contain_text(HOSTILE)
        assert page.locator("img").count() == 0
