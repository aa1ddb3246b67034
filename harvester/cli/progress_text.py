"""Progress as text: rates, remaining time, lines of a given width."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from harvester.download.events import (
    BackfillResult,
    Begun,
    Ended,
    Event,
    Imported,
    Paced,
    PageRead,
    Started,
    Step,
    Waiting,
)
from harvester.times import Range, show

# --- tracking -------------------------------------------------------------------------------------

PAGE_ROWS = 1000
WINDOW_S = 20.0
"""What is called the pace at present is that of so many seconds."""

SURE_PAGES = 4
"""Before that a pair's own pages tell nothing of how full they are."""

Clock = Callable[[], float]


class Point(NamedTuple):
    """How far a pair was at a moment."""

    at_s: float
    pages: int
    trades: int
    reached_ns: int


class PairTrack:
    """What is known of one pair's work.

    Attributes:
        expected: trades in what is missing, by the exchange's own weekly counts; None for unknown.
        held: trades of the request that were stored when it began.
        reached_ns: the moment reached, None before the first page.
        waiting: why nothing comes at present; empty where something does.
        slowed: how it is held back, in words; empty where it is not.
        step: how far work is that fetches no trades; None while trades are fetched.
    """

    def __init__(self, pair: str, clock: Clock = time.monotonic) -> None:
        """Nothing is known yet."""
        self.pair = pair
        self.expected: int | None = None
        self.held = 0
        self.trades = self.pages = 0
        self.reached_ns: int | None = None
        self.waiting = self.slowed = ""
        self.step: Step | None = None
        self.is_crawled = False
        self._missing: list[Range] = []
        self._clock = clock
        self._points = deque([Point(clock(), 0, 0, 0)])
        self._read_s = self._points[0].at_s
        self._steps = deque([(clock(), 0)])
        # What was done before the head had moved on and more was found to be missing.
        self._before = 0

    def begin(self, event: Started) -> None:
        """Take in what is missing; a run that lasts begins anew with what came meanwhile."""
        self._before, self.is_crawled = self.trades, True
        self.expected, self._missing, self.held = event.expected, event.missing, event.held

    def read(self, event: PageRead) -> None:
        """Take in a page."""
        self.trades, self.pages, self.waiting = event.trades, event.pages, ""
        self.reached_ns, self.step = event.reached_ns, None
        self._read_s = now = self._clock()
        # One point a second is enough, and many pages a second cost nothing.
        if now - self._points[-1].at_s >= 1.0 or not self._points[-1].pages:
            self._points.append(Point(now, self.pages, self.trades, event.reached_ns))
        while len(self._points) > 2 and now - self._points[1].at_s >= WINDOW_S:
            self._points.popleft()

    def take(self, step: Step) -> None:
        """Take in how far work is that fetches no trades."""
        if self.step is None or self.step.unit != step.unit or step.done < self.step.done:
            self._steps = deque([(self._clock(), step.done)])
        self.step, self.waiting = step, ""
        now = self._clock()
        if now - self._steps[-1][0] >= 1.0:
            self._steps.append((now, step.done))
        while len(self._steps) > 2 and now - self._steps[1][0] >= WINDOW_S:
            self._steps.popleft()

    @property
    def steps_s(self) -> float:
        """Steps a second at present."""
        (since, before), step = self._steps[0], self.step
        passed = self._clock() - since
        return (step.done - before) / passed if step is not None and passed > 0 else 0.0

    @property
    def pages_s(self) -> float:
        """Pages a second at present."""
        begun = self._points[0]
        pages, passed = self.pages - begun.pages, self._clock() - begun.at_s
        if pages:
            # A page is not late before it takes longer than those before it: else the pace, and
            # the time left with it, would go up and down between any two pages.
            read_s = self._read_s - begun.at_s
            passed = max(read_s, passed - read_s / pages)
        return pages / passed if passed > 0 else 0.0

    @property
    def trades_left(self) -> int | None:
        """How many are still to come; None where nothing tells.

        By the exchange's counts, and where those are absent or used up, by how dense what was read
        lately is.
        """
        if self.is_crawled and not self._missing:
            return 0
        if self.expected is not None and self.trades - self._before < self.expected:
            return self.expected - (self.trades - self._before)
        then, reached = self._points[0], self.reached_ns
        if not then.pages:
            then = next((point for point in self._points if point.pages), then)
        if reached is None or not then.pages or reached <= then.reached_ns:
            return None if self.expected is None else 0
        density = (self.trades - then.trades) / (reached - then.reached_ns)
        return round(density * self._ns_left(reached))

    def _ns_left(self, reached: int) -> int:
        return sum(max(0, one.through - max(one.after, reached)) for one in self._missing)

    @property
    def calls_left(self) -> float | None:
        """How many calls that takes, pages being as full as they were so far."""
        left = self.trades_left
        if left is None:
            return None
        sure = self.pages >= SURE_PAGES and self.trades
        return left / (self.trades / self.pages if sure else PAGE_ROWS)

    @property
    def left_s(self) -> float | None:
        """Seconds to its end at the present pace; None where nothing tells."""
        if self.step is not None:
            return (self.step.of - self.step.done) / self.steps_s if self.steps_s > 0 else None
        calls, pace = self.calls_left, self.pages_s
        return calls / pace if calls is not None and pace > 0 else None

    @property
    def part(self) -> float | None:
        """How much of the whole request is done, from 0 to 1; None where nothing tells.

        What was stored before this run counts as done: a resumed download goes on where it was.
        """
        if self.step is not None:
            return self.step.done / self.step.of if self.step.of else 1.0
        left, done = self.trades_left, self.held + self.trades - self._before
        return None if left is None or not done + left else done / (done + left)


class RunTrack:
    """What is known of all pairs of a run.

    Attributes:
        pairs: how many there are in all; None where that was not told.
        running: those that have begun and not ended, by name.
        waiting: what else keeps all waiting, such as a question for the exchange's clock.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Nothing has begun."""
        self._clock = clock
        self.pairs: int | None = None
        self.running: dict[str, PairTrack] = {}
        self._trades = self._pages = 0
        # Pairs whose download ended, by whether it ended well.
        self._ended: dict[str, bool] = {}
        self.waiting = ""
        # Pairs whose work fetched no trades, by how it ended: some come back to the next work.
        self._stepped: set[str] = set()
        self._broken: set[str] = set()

    def take(self, event: Event) -> None:
        """Take in an event; what comes late of a pair that has ended is left out."""
        if isinstance(event, PageRead | Step) and event.pair in self._ended:
            return
        match event:
            case Begun(pairs):
                self.pairs = pairs
            case Started(pair):
                self._ended.pop(pair, None)
                self._of(pair).begin(event)
            case PageRead(pair):
                self.waiting = ""
                self._of(pair).read(event)
            case Step():
                self._step(event)
            case Imported(pair, status):
                self.running.pop(pair, None)
                (self._broken if status else self._stepped).add(pair)
            case Waiting():
                self._wait(event)
            case Paced(pair, pace) if pair in self.running:
                self.running[pair].slowed = f"slowed to {pace.rate:.2g}/s" if pace.is_slowed else ""
            case BackfillResult() | Ended():
                self._end(event)

    def _wait(self, event: Waiting) -> None:
        if track := self.running.get(event.pair):
            track.waiting = event.reason
        else:
            self.waiting = f"{event.pair}: waiting: {event.reason}"

    def _end(self, event: BackfillResult | Ended) -> None:
        track = self.running.pop(event.pair, None)
        self._stepped.discard(event.pair)
        self._ended[event.pair] = event.exit_status == 0
        if done := event if isinstance(event, BackfillResult) else track:
            self._trades += done.trades
            self._pages += done.pages

    def _of(self, pair: str) -> PairTrack:
        if pair not in self.running:
            self.running[pair] = PairTrack(pair, self._clock)
        return self.running[pair]

    def _step(self, step: Step) -> None:
        one = self._of(step.pair)
        one.take(step)
        self._stepped.discard(step.pair)
        # What a crawl does beside fetching ends no pair: its outcome does.
        if step.done >= step.of and not one.is_crawled:
            del self.running[step.pair]
            self._stepped.add(step.pair)

    @property
    def done(self) -> int:
        """How many pairs ended well."""
        return sum(self._ended.values()) + len(self._stepped - self._broken)

    @property
    def failed(self) -> int:
        """How many pairs ended badly."""
        return len(self._ended) - sum(self._ended.values()) + len(self._broken)

    @property
    def trades(self) -> int:
        """Of all pairs so far."""
        return self._trades + sum(one.trades for one in self.running.values())

    @property
    def pages_s(self) -> float:
        """Pages a second at present, of all pairs."""
        return sum(one.pages_s for one in self.running.values())

    @property
    def left_s(self) -> float | None:
        """Seconds to the end of all.

        No sooner than the slowest pair that runs, nor than all calls at the present pace take;
        pairs that have not begun are taken to be like those that have. None where nothing tells.
        """
        tracks = list(self.running.values())
        steps = [track.step for track in tracks if track.step is not None and not track.is_crawled]
        if steps:
            return self._steps_left_s(steps)
        known = [calls for track in tracks if (calls := track.calls_left) is not None]
        ended = self.done + self.failed
        if not tracks or len(known) < len(tracks) or self.pages_s <= 0:
            return None
        calls = sum(known)
        made = self._pages + sum(track.pages for track in tracks)
        to_come = max(0, (self.pairs or 0) - ended - len(tracks))
        calls += to_come * (made + calls) / (ended + len(tracks))
        return max([calls / self.pages_s, *(track.left_s or 0.0 for track in tracks)])

    def _steps_left_s(self, steps: list[Step]) -> float | None:
        """The same of work that fetches no trades: known once each pair has begun."""
        ended = self.done + self.failed
        pace = sum(one.steps_s for one in self.running.values())
        is_all = len(steps) == len(self.running) and ended + len(steps) >= (self.pairs or 0)
        if not is_all or len({step.unit for step in steps}) > 1 or pace <= 0:
            return None
        return sum(step.of - step.done for step in steps) / pace

    def busiest(self, most: int) -> list[PairTrack]:
        """The pairs that read most at present, those longest at it first where they are equal."""
        tracks = list(self.running.values())
        if len(tracks) <= most:
            return tracks
        chosen = sorted(tracks, key=lambda one: -round(one.pages_s + one.steps_s, 1))[:most]
        return [track for track in tracks if track in chosen]


# --- lines ----------------------------------------------------------------------------------------


class Signs(NamedTuple):
    """What bars are drawn with, and what stands where a line was cut."""

    done: str
    rest: str
    cut: str


UNICODE = Signs("━", "╌", "…")
ASCII = Signs("=", "-", "...")

WIDE, MIDDLE = 110, 72
"""From so many characters on there is room for the time of day, and for a bar."""


def duration(seconds: float) -> str:
    """A length of time as people say it: `3 d 4 h`, `8 h 05 min`, `12 min`, `45 s`."""
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole % 86_400 // 3600, whole % 3600 // 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes else f"{whole} s"


def cut(text: str, width: int, signs: Signs) -> str:
    """The text, shortened to a width."""
    if len(text) <= width:
        return text
    room = width - len(signs.cut)
    return text[:room].rstrip() + signs.cut if room > 0 else text[: max(0, width)]


def overall(run: RunTrack, width: int, signs: Signs) -> str:
    """One line for all pairs; what matters less is left out where it does not fit."""
    ended = run.done + run.failed
    of = f" of {run.pairs:,}" if run.pairs is not None else ""
    failed = f", {run.failed:,} failed" if run.failed else ""
    parts = [f"{ended:,}{of} pairs ended{failed}"]
    if run.trades:
        parts.append(f"{run.trades:,} trades")
    if run.pages_s:
        parts.append(f"{run.pages_s:.1f} pages/s")
    if run.left_s is not None:
        parts.append(f"{duration(run.left_s)} left")
    waiting = [one for one in run.running.values() if one.waiting]
    if waiting:
        parts.insert(1, f"{len(waiting):,} waiting: {waiting[0].waiting}")
    while len(parts) > 2 and len("  ".join(parts)) > width:
        parts.pop(-2)
    return cut("  ".join(parts), width, signs)


def pair_line(pair_track: PairTrack, names: int, width: int, signs: Signs) -> str:
    """One line for a pair, its columns under those of the other pairs.

    Args:
        pair_track: the pair.
        names: the width of the longest name.
        width: of the line.
        signs: what it is drawn with.
    """
    cells = [pair_track.pair.ljust(names)]
    if width >= MIDDLE:
        cells.append(_bar(pair_track.part, 24 if width >= WIDE else 12, signs))
    cells.append("    " if pair_track.part is None else f"{int(100 * pair_track.part):3d}%")
    if pair_track.step is not None:
        cells += [_step(pair_track.step), _state(pair_track)]
        return cut("  ".join(cells).rstrip(), width, signs)
    cells += [_reached(pair_track, 16 if width >= WIDE else 10), f"{pair_track.trades:>11,}"]
    if width >= MIDDLE:
        cells.append(f"{pair_track.pages_s:5.1f}/s")
    cells.append(_state(pair_track))
    return cut("  ".join(cells).rstrip(), width, signs)


def log_line(pair_track: PairTrack) -> str:
    """The same for a log: date reached, trades, pages a second, time left, what is waited for."""
    reached = "" if pair_track.reached_ns is None else show(pair_track.reached_ns // 10**9 * 10**9)
    left = "" if pair_track.left_s is None else f"{duration(pair_track.left_s)} left"
    waiting = pair_track.waiting and f"waiting: {pair_track.waiting}"
    parts = [reached, f"{pair_track.trades:,} trades", f"{pair_track.pages_s:.1f} pages/s", left]
    if pair_track.step is not None:
        parts = [_step(pair_track.step), left]
    return f"{pair_track.pair}: " + ", ".join(p for p in [*parts, pair_track.slowed, waiting] if p)


def picture(run: RunTrack, width: int, height: int, signs: Signs) -> list[str]:
    """All lines for a terminal: one for all where there are several pairs, and the busiest."""
    several = (run.pairs or 0) > 1 or len(run.running) > 1
    room = max(1, height - 4)
    shown = run.busiest(room)
    names = max((len(one.pair) for one in shown), default=0)
    lines = [pair_line(one, names, width, signs) for one in shown]
    more = len(run.running) - len(shown)
    if more:
        lines.append(cut(f"and {more:,} more", width, signs))
    if run.waiting:
        lines.append(cut(run.waiting, width, signs))
    if several:
        lines.append(overall(run, width, signs))
    return lines


def _bar(part: float | None, width: int, signs: Signs) -> str:
    done = round(width * (part or 0.0))
    return signs.done * done + signs.rest * (width - done)


def _reached(pair_track: PairTrack, width: int) -> str:
    text = (
        ""
        if pair_track.reached_ns is None
        else show(pair_track.reached_ns).replace("T", " ")[:width]
    )
    return text.ljust(width)


def _step(step: Step) -> str:
    if step.unit == "bytes":
        return f"{step.done / 1e6:,.0f} of {step.of / 1e6:,.0f} MB"
    return f"{step.done:,} of {step.of:,} {step.unit}"


def _state(pair_track: PairTrack) -> str:
    if pair_track.waiting:
        return f"waiting: {pair_track.waiting}"
    left = "" if pair_track.left_s is None else f"{duration(pair_track.left_s)} left"
    return ", ".join(part for part in (left, pair_track.slowed) if part)
