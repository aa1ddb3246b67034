"""Places whose clocks change, and the times around it at which intervals are compared."""

from __future__ import annotations

import candle_oracle

from harvester.query.plan import CandleQuery
from harvester.times import parse_moment

SECOND = 1_000_000_000


MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND


# A moment at which a clock is turned, or one like any other where it never is.
PLACES = {
    "UTC": (None, "2024-03-01T00:00"),
    "Kolkata, half an hour off": ("Asia/Kolkata", "2024-03-31T18:30"),
    "Berlin forward": ("Europe/Berlin", "2024-03-31T01:00"),
    "Berlin back": ("Europe/Berlin", "2024-10-27T01:00"),
    "New York forward": ("America/New_York", "2024-03-10T07:00"),
    "New York back": ("America/New_York", "2024-11-03T06:00"),
    "Lord Howe half an hour forward": ("Australia/Lord_Howe", "2024-10-05T15:30"),
    "Lord Howe half an hour back": ("Australia/Lord_Howe", "2024-04-06T15:00"),
    "Apia without a day": ("Pacific/Apia", "2011-12-30T10:00"),
    "Sao Paulo without a midnight": ("America/Sao_Paulo", "2018-11-04T03:00"),
    "Sao Paulo back before midnight": ("America/Sao_Paulo", "2018-02-18T02:00"),
    "Havana with two midnights": ("America/Havana", "2024-11-03T05:00"),
    "St John's a minute past midnight": ("America/St_Johns", "2010-11-07T02:31"),
    "Casey three hours back": ("Antarctica/Casey", "2018-03-10T17:00"),
    "Casey forward a minute past midnight": ("Antarctica/Casey", "2020-10-03T16:01"),
}


# How far around the moment to look, and in which steps.
SHORT = {
    "500ms": (20 * MINUTE, SECOND // 2),
    "1s": (40 * MINUTE, SECOND),
    "90s": (5 * HOUR, 30 * SECOND),
    "7m": (30 * HOUR, MINUTE),
    "45": (30 * HOUR, MINUTE),
    "1h": (30 * HOUR, MINUTE),
    "2h": (30 * HOUR, MINUTE),
    "4h": (30 * HOUR, MINUTE),
    "1d": (2 * DAY, MINUTE),
}


LONG = {
    "3d": (8 * DAY, HOUR // 2),
    "10080": (20 * DAY, HOUR // 2),
    "1w": (20 * DAY, HOUR // 2),
    "2w": (30 * DAY, HOUR // 2),
    "1mo": (80 * DAY, HOUR // 2),
    "1q": (150 * DAY, HOUR // 2),
    "1y": (300 * DAY, HOUR // 2),
}


def moment(text: str) -> int:
    return parse_moment(text, 0)


def clock(question: CandleQuery) -> candle_oracle.Clock:
    interval = question.interval
    return candle_oracle.Clock(
        question.tz or "UTC", interval.count, interval.unit, question.offset_ns
    )
