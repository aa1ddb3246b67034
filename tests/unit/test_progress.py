"""What a person sees of long work, line by line, on terminals of several widths and in logs."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from harvester.cli import output
from harvester.cli.progress_and_signals import JsonLines, LogLines
from harvester.errors import ExchangeUnreachable
from harvester.events import (
    BackfillResult,
    Begun,
    Ended,
    Followed,
    Imported,
    PageRead,
    Started,
    Step,
    Waiting,
)
from harvester.progress import RunProgress, time_left
from harvester.progress_bars import Bars
from harvester.times import DAY, SECOND, Range

JANUARY = 1_704_067_200 * SECOND
MONTH = Range(JANUARY, JANUARY + 30 * DAY)


@dataclass
class Clock:
    """A clock that is set by the test."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def read_days(
    run: RunProgress, clock: Clock, pair: str, seconds: int, expected: int | None
) -> None:
    """A pair that reads a full page each second, and a day of trades with each."""
    run.add(Started(pair, [MONTH], expected))
    for page in range(1, seconds + 1):
        clock.now_s += 1
        run.add(PageRead(pair, 1000 * page, page, JANUARY + page * DAY))


def one_pair(expected: int | None = 30_000) -> RunProgress:
    clock = Clock()
    run = RunProgress(clock)
    read_days(run, clock, "XBTUSD", 10, expected)
    return run


def drawn(run: RunProgress, width: int, height: int = 24) -> list[str]:
    """The lines of a terminal of this width."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(Bars(run, console))
    return [line.rstrip() for line in file.getvalue().splitlines()]


WIDTHS = {
    120: "XBTUSD ━━━━          33% 20 s left, 1.0 pages/s, 10,000 trades, 2024-01-11T00:00:00Z",
    80: "XBTUSD ━━━━          33% 20 s left, 1.0 pages/s, 10,000 trades, 2024-01-11T0…",
    60: "XBTUSD ━━━━          33% 20 s left, 1.0 pages/s, 10,000 …",
    30: "XBTUSD  33% 20 s left, 1.0…",
}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_pair_has_one_line_that_fits(width: int) -> None:
    assert drawn(one_pair(), width) == [WIDTHS[width]]


def test_where_there_is_only_ascii_bars_are_drawn_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("COLUMNS", "80")
    bars = Bars(one_pair())
    with bars.console.capture() as capture:
        bars.console.print(bars)
    assert capture.get().rstrip() == (
        "XBTUSD ----          33% 20 s left, 1.0 pages/s, 10,000 trades, 2024-01-11T00"
    )


def test_without_counts_the_time_left_is_estimated_from_the_density_so_far() -> None:
    """A page a day and a second; twenty days are left."""
    assert drawn(one_pair(None), 80) == [WIDTHS[80]]


def test_counts_that_are_used_up_too_early_are_replaced_by_the_density() -> None:
    assert drawn(one_pair(5_000), 80) == [WIDTHS[80]]


def test_half_empty_pages_take_twice_as_many_calls() -> None:
    clock = Clock()
    run = RunProgress(clock)
    run.add(Started("XBTUSD", [MONTH], 30_000))
    for page in range(1, 11):
        clock.now_s += 1
        run.add(PageRead("XBTUSD", 500 * page, page, JANUARY + page * DAY))
    assert run.left_s == pytest.approx(50)


def test_the_reason_of_a_wait_is_shown_until_a_page_comes() -> None:
    run = one_pair()
    run.add(Waiting("XBTUSD", "EAPI:Rate limit exceeded"))
    [waiting] = drawn(run, 80, 24)
    run.add(PageRead("XBTUSD", 11_000, 11, JANUARY + 11 * DAY))
    [going] = drawn(run, 80, 24)
    assert waiting == (
        "XBTUSD ━━━━          33% waiting: EAPI:Rate limit exceeded, 20 s left, 1.0 p…"
    )
    assert "waiting" not in going


def test_a_wait_before_any_pair_has_begun_is_shown() -> None:
    run = RunProgress(Clock())
    run.add(Waiting("Time", "HTTP 503"))
    assert drawn(run, 80, 24) == ["Time: waiting: HTTP 503"]


def test_of_hundreds_of_pairs_the_busiest_are_shown_and_one_line_for_all() -> None:
    clock = Clock()
    run = RunProgress(clock)
    run.add(Begun(700))
    for number in range(690):
        run.add(Started(f"P{number:03d}USD", [MONTH], 10_000))
    clock.now_s = 10
    for number in (3, 400):
        run.add(PageRead(f"P{number:03d}USD", 5_000, 5, JANUARY + DAY))
    run.add(BackfillResult("P000USD", 7_000, 7, MONTH, [], None))
    run.add(BackfillResult("P001USD", 0, 0, None, [], ExchangeUnreachable("P001USD: no")))
    lines = drawn(run, 80, 6)
    # Both have 5,000 trades left; 686 others 10,000 each, and 10 that have not begun are like them.
    assert lines == [
        "P003USD ━━━━━━        50% 10 s left, 0.5 pages/s, 5,000 trades, 2024-01-02T0…",
        "P400USD ━━━━━━        50% 10 s left, 0.5 pages/s, 5,000 trades, 2024-01-02T0…",
        "and 686 more",
        "2 of 700 pairs ended, 1 failed  1 h 56 min left  17,000 trades  1.0 pages/s",
    ]


def test_work_on_files_counts_files() -> None:
    run = RunProgress(Clock())
    run.add(Begun(2))
    run.add(Step("ETHUSD", 3, 3))
    run.add(Step("XBTUSD", 30, 120))
    assert drawn(run, 80, 24) == [
        "XBTUSD ━━━           25% 30 of 120 files",
        "1 of 2 pairs ended",
    ]


def test_the_time_left_stays_as_it_is_between_two_pages() -> None:
    clock = Clock()
    run = RunProgress(clock)
    read_days(run, clock, "XBTUSD", 4, 30_000)
    found = []
    for _ in range(5):
        found.append(run.left_s)
        clock.now_s += 0.25
    # The fifth page is late by as much as the others took, and then the pace falls.
    clock.now_s += 4
    assert [*found, run.left_s] == pytest.approx([26] * 5 + [52 + 26 / 16])


def test_work_on_files_has_a_pace_and_a_time_left_of_its_own() -> None:
    clock = Clock()
    run = RunProgress(clock)
    run.add(Begun(2))
    for pair, size in (("ETHUSD", 100_000_000), ("XBTUSD", 300_000_000)):
        run.add(Step(pair, 0, size, "bytes"))
    clock.now_s = 10
    run.add(Step("XBTUSD", 100_000_000, 300_000_000, "bytes"))
    assert drawn(run, 80, 24) == [
        "ETHUSD                0% 0 of 100 MB",
        "XBTUSD ━━━━          33% 20 s left, 100 of 300 MB",
        "0 of 2 pairs ended  30 s left",
    ]


def test_the_maintenance_of_files_after_a_download_is_shown_and_does_not_end_the_pair() -> None:
    run = one_pair()
    run.add(Step("XBTUSD", 3, 12))
    assert drawn(run, 80, 24) == ["XBTUSD ━━━           25% 3 of 12 files"]
    run.add(Step("XBTUSD", 12, 12))
    assert (list(run.running), run.done) == (["XBTUSD"], 0)
    run.add(BackfillResult("XBTUSD", 10_000, 10, MONTH, [], None))
    assert (list(run.running), run.done) == ([], 1)


def test_files_that_could_not_be_taken_in_count_as_failed() -> None:
    run = RunProgress(Clock())
    run.add(Begun(2))
    for pair, status in (("ETHUSD", 2), ("XBTUSD", 0)):
        run.add(Step(pair, 0, 300, "bytes"))
        run.add(Imported(pair, status, [], {}))
    assert (run.done, run.failed, list(run.running)) == (1, 1, [])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (7_500, "2 h 05 min"), (100_000, "1 d 3 h")],
)
def test_durations_are_shown_in_words(seconds: float, text: str) -> None:
    assert time_left(seconds) == f"{text} left"


def test_a_resumed_download_shows_how_much_of_the_whole_request_is_done() -> None:
    """Twenty days of 1,000 trades are stored; five of the ten that are left are read."""
    clock = Clock()
    run = RunProgress(clock)
    left = Range(JANUARY + 20 * DAY, JANUARY + 30 * DAY)
    run.add(Started("XBTUSD", [left], 10_000, stored=20_000))
    shown = [drawn(run, 80, 24)]
    for page in range(1, 6):
        clock.now_s += 1
        run.add(PageRead("XBTUSD", 1000 * page, page, JANUARY + (20 + page) * DAY))
    shown.append(drawn(run, 80, 24))
    # As the head moves on, what this run brought is stored as well.
    run.add(Started("XBTUSD", [Range(left.through, left.through + DAY)], 500, stored=29_500))
    shown.append(drawn(run, 80, 24))
    assert [line[:24] for [line] in shown] == [
        "XBTUSD ━━━━━━━━      66%",
        "XBTUSD ━━━━━━━━━━    83%",
        "XBTUSD ━━━━━━━━━━━╸  98%",
    ]
    assert " 5 s left, 1.0 pages/s" in shown[1][0]


def test_a_pair_that_lacks_nothing_is_shown_as_whole() -> None:
    run = RunProgress(Clock())
    run.add(Started("XBTUSD", [], None, stored=5_000))
    assert run.running["XBTUSD"].fraction == 1.0


@pytest.mark.parametrize("reached", [MONTH, None])
def test_a_pair_for_which_there_is_nothing_to_do_is_up_to_date(reached: Range | None) -> None:
    through = ", complete through 2024-01-31T00:00:00Z" if reached else ""
    assert str(BackfillResult("XBTUSD", 0, 0, reached, [], None)) == f"XBTUSD: up to date{through}"
    assert str(Started("XBTUSD", [], None)) == "XBTUSD: up to date"


def test_what_comes_late_of_a_pair_that_has_ended_is_not_shown() -> None:
    run = one_pair()
    run.add(BackfillResult("XBTUSD", 10_000, 10, MONTH, [], None))
    run.add(PageRead("XBTUSD", 11_000, 11, JANUARY + 11 * DAY))
    run.add(Step("XBTUSD", 3, 12))
    assert (run.running, run.done, run.trades) == ({}, 1, 10_000)


def test_a_pair_whose_earlier_gaps_are_filled_after_its_end_runs_until_they_are() -> None:
    """As in a refresh: its result comes first, and then what was missing before is downloaded."""
    run = one_pair()
    run.add(BackfillResult("XBTUSD", 10_000, 10, MONTH, [], None))
    run.add(Started("XBTUSD", [MONTH], 2_000))
    run.add(PageRead("XBTUSD", 1_000, 1, JANUARY + DAY))
    meanwhile = (list(run.running), run.done, run.trades)
    run.add(Ended("XBTUSD", 0))
    assert meanwhile == (["XBTUSD"], 0, 11_000)
    assert (run.running, run.done, run.failed, run.trades) == ({}, 1, 0, 11_000)


# On a terminal.


def terminal(width: int) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=10, force_terminal=True, color_system=None
    )


def printed(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_terminal_shows_the_lines_and_keeps_what_pairs_came_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    console = terminal(80)
    bars = Bars(one_pair(), console)
    console.print(bars)
    bars.show(BackfillResult("XBTUSD", 30_000, 30, MONTH, [], None))
    console.print(bars)
    assert printed(console) == (
        f"{WIDTHS[80]}\nXBTUSD: 30,000 trades in 30 pages, complete through 2024-01-31T00:00:00Z\n"
    )


@pytest.mark.parametrize("width", [20, 33, 61, 200])
def test_no_line_is_ever_wider_than_the_terminal(width: int) -> None:
    run = RunProgress(Clock())
    run.add(Begun(12))
    run.add(Started("XBTUSD", [MONTH], 30_000))
    run.add(Started("APTUSD", [MONTH], None))
    run.add(Waiting("APTUSD", "EService:Unavailable, which is said at some length " * 5))
    console = terminal(width)
    console.print(Bars(run, console))
    assert max(len(line) for line in printed(console).split("\n")) < width


# In a log.


def test_a_few_pairs_have_a_line_each_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = LogLines(output.hint, clock)
    lines.show(Begun(1))
    lines.show(Started("XBTUSD", [MONTH], None))
    for page in range(1, 62):
        clock.now_s += 1
        lines.show(PageRead("XBTUSD", 1000 * page, page, JANUARY + page * DAY // 4))
    assert capsys.readouterr().err.splitlines() == [
        "XBTUSD: downloading from 2024-01-01 to 2024-01-31",
        "XBTUSD: 2024-01-08T12:00:00Z, 30,000 trades, 1.0 pages/s, 1 min left",
        "XBTUSD: 2024-01-16T00:00:00Z, 60,000 trades, 1.0 pages/s, 1 min left",
    ]


def followed(trades: int) -> Followed:
    summary = f"XBTUSD 41450.1  {trades} trades added"
    return Followed("XBTUSD", "live", trades, JANUARY, JANUARY + SECOND, "41450.1", 7, summary)


def test_pairs_that_are_followed_have_one_line_on_a_terminal() -> None:
    run = RunProgress(Clock())
    run.add(followed(10))
    run.add(followed(12))
    assert drawn(run, 60) == ["XBTUSD 41450.1  12 trades added"]


def test_pairs_that_are_followed_have_a_line_in_a_log_each_half_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    lines = LogLines(output.hint, clock)
    for poll in range(1, 13):
        clock.now_s += 5
        lines.show(followed(poll))
    assert capsys.readouterr().err.splitlines() == [
        "XBTUSD 41450.1  6 trades added",
        "XBTUSD 41450.1  12 trades added",
    ]


def test_each_poll_is_an_event_of_its_own_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = JsonLines(clock, lambda: JANUARY)
    for poll in (1, 2):
        clock.now_s += 40
        lines.show(followed(poll))
    fields: dict[str, Any] = {"event": "followed", "time": "2024-01-01T00:00:00Z", "pair": "XBTUSD"}
    fields |= {"state": "live", "through_ns": JANUARY, "last_ns": JANUARY + SECOND}
    assert [json.loads(line) for line in capsys.readouterr().err.splitlines()] == [
        fields | {"trades": poll, "last_price": "41450.1", "unsettled": 7} for poll in (1, 2)
    ]


def test_many_pairs_have_one_line_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = LogLines(output.hint, clock)
    lines.show(Begun(700))
    for number in range(20):
        lines.show(Started(f"P{number}", [MONTH], None))
        lines.show(Waiting(f"P{number}", "EService:Busy"))
    clock.now_s = 30
    lines.show(PageRead("P0", 1000, 1, JANUARY + DAY))
    assert capsys.readouterr().err.splitlines() == [
        "0 of 700 pairs ended  19 waiting: EService:Busy  1,000 trades  0.0 pages/s"
    ]


def test_a_wait_is_logged_once_until_a_page_comes(capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a pair whose download has not started, and of the exchange's clock."""
    lines = LogLines(output.hint, Clock())
    for pair in ("XBTUSD", "Time") * 3:
        lines.show(Waiting(pair, "HTTP 503"))
    lines.show(PageRead("XBTUSD", 1000, 1, JANUARY + DAY))
    for _ in range(2):
        lines.show(Waiting("XBTUSD", "HTTP 503"))
    once = ["XBTUSD: waiting: HTTP 503", "Time: waiting: HTTP 503"]
    assert capsys.readouterr().err.splitlines() == [*once, once[0]]


def test_steps_are_json_lines_once_a_second_and_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = JsonLines(Clock(), lambda: JANUARY)
    for done in (1, 2, 3):
        lines.show(Step("XBTUSD", done, 3, "months"))
    step: dict[str, Any] = {"event": "step", "time": "2024-01-01T00:00:00Z", "pair": "XBTUSD"}
    assert [json.loads(splitline) for splitline in capsys.readouterr().err.splitlines()] == [
        step | {"done": done, "of": 3, "unit": "months"} for done in (1, 3)
    ]


def test_json_lines_have_stable_names(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = JsonLines(clock, lambda: JANUARY + int(clock.now_s) * SECOND)
    lines.show(Begun(1))
    lines.show(Started("XBTUSD", [MONTH], 30_000))
    for page in (1, 2, 3):
        clock.now_s += 10.5 if page == 3 else 0.5
        lines.show(PageRead("XBTUSD", 1000 * page, page, JANUARY + page * DAY))
    clock.now_s = 30
    lines.show(BackfillResult("XBTUSD", 3_000, 3, MONTH, [], ExchangeUnreachable("XBTUSD: no")))
    log_events: list[dict[str, Any]] = [
        json.loads(splitline) for splitline in capsys.readouterr().err.splitlines()
    ]
    assert [event["event"] for event in log_events] == [
        "begun",
        "started",
        "pageread",
        "pageread",
        "result",
        "overall",
    ]
    assert log_events[3] == {
        "event": "pageread",
        "time": "2024-01-01T00:00:11Z",
        "pair": "XBTUSD",
        "trades": 3000,
        "pages": 3,
        "reached_ns": JANUARY + 3 * DAY,
        "pages_s": 0.261,
        "left_s": 104,
    }
    assert log_events[4:] == [
        {
            "event": "result",
            "time": "2024-01-01T00:00:30Z",
            "pair": "XBTUSD",
            "trades": 3000,
            "pages": 3,
            "reached": [MONTH.after, MONTH.through],
            "gaps": [],
            "error": "XBTUSD: no",
            "pace": None,
            "replacement": None,
            "exit_status": 3,
        },
        {
            "event": "overall",
            "time": "2024-01-01T00:00:30Z",
            "pairs": 1,
            "running": 0,
            "done": 0,
            "failed": 1,
            "trades": 3000,
            "pages_s": 0.0,
            "left_s": None,
        },
    ]
