"""The interval that a chart is drawn at: the one asked for, or one that a screen can show."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from harvester.query.candle_query import Question
from harvester.query.candles import Session
from harvester.query.plan import Plan, most_candles
from harvester.storage.trade_store import Archive
from harvester.times import DAY, LONGEST, Interval, parse_interval

MOST_CANDLES = 3_000
"""More than a screen has columns of pixels for; a browser still moves so many without a jerk."""

LADDER = tuple(
    parse_interval(text)
    for text in "1s 5s 15s 30s 1m 5m 15m 30m 1h 4h 1d 1w 1mo 1q 1y".split()  # noqa: SIM905
)


class Drawn(NamedTuple):
    """A question that a screen can show, and how many candles the one asked for could come to."""

    question: Question
    asked: int


def length_ns(interval: Interval) -> int:
    """The length of an interval; where the calendar decides, about that."""
    return interval.count * 36_525 * DAY // LONGEST[interval.unit]


def drawable(archive: Archive, question: Question) -> Drawn:
    """The question, of the next coarser interval that comes to at most `MOST_CANDLES`.

    The candles are not made for it: how many there can be is known from names and footers.

    Raises:
        NothingHeld: the archive holds nothing of the pair.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """

    def expected(one: Plan) -> int:
        return most_candles(archive, one)

    session = Session(archive)
    asked = session.whoever_writes(question, expected)
    found = question
    if asked > MOST_CANDLES:
        for rung in LADDER:
            if length_ns(rung) > length_ns(question.interval):
                found = replace(question, interval=rung)
                if session.whoever_writes(found, expected) <= MOST_CANDLES:
                    break
    return Drawn(found, asked)
