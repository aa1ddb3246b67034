"""Progress as lines of text of a given width."""

from __future__ import annotations

from typing import NamedTuple

from harvester.cli.tracking import PairTrack, RunTrack
from harvester.download.events import Step
from harvester.times import show


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


def pair_line(one: PairTrack, names: int, width: int, signs: Signs) -> str:
    """One line for a pair, its columns under those of the other pairs.

    Args:
        one: the pair.
        names: the width of the longest name.
        width: of the line.
        signs: what it is drawn with.
    """
    cells = [one.pair.ljust(names)]
    if width >= MIDDLE:
        cells.append(_bar(one.part, 24 if width >= WIDE else 12, signs))
    cells.append("    " if one.part is None else f"{int(100 * one.part):3d}%")
    if one.step is not None:
        cells += [_step(one.step), _state(one)]
        return cut("  ".join(cells).rstrip(), width, signs)
    cells += [_reached(one, 16 if width >= WIDE else 10), f"{one.trades:>11,}"]
    if width >= MIDDLE:
        cells.append(f"{one.pages_s:5.1f}/s")
    cells.append(_state(one))
    return cut("  ".join(cells).rstrip(), width, signs)


def log_line(one: PairTrack) -> str:
    """The same for a log: date reached, trades, pages a second, time left, what is waited for."""
    reached = "" if one.reached_ns is None else show(one.reached_ns // 10**9 * 10**9)
    left = "" if one.left_s is None else f"{duration(one.left_s)} left"
    waiting = one.waiting and f"waiting: {one.waiting}"
    parts = [reached, f"{one.trades:,} trades", f"{one.pages_s:.1f} pages/s", left]
    if one.step is not None:
        parts = [_step(one.step), left]
    return f"{one.pair}: " + ", ".join(p for p in [*parts, one.slowed, waiting] if p)


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


def _reached(one: PairTrack, width: int) -> str:
    text = "" if one.reached_ns is None else show(one.reached_ns).replace("T", " ")[:width]
    return text.ljust(width)


def _step(step: Step) -> str:
    if step.unit == "bytes":
        return f"{step.done / 1e6:,.0f} of {step.of / 1e6:,.0f} MB"
    return f"{step.done:,} of {step.of:,} {step.unit}"


def _state(one: PairTrack) -> str:
    if one.waiting:
        return f"waiting: {one.waiting}"
    left = "" if one.left_s is None else f"{duration(one.left_s)} left"
    return ", ".join(part for part in (left, one.slowed) if part)
