"""Moments as a program gives them: text as typed, dates and stamps of Python, pandas and NumPy."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from typing import SupportsIndex

import numpy as np

from harvester.errors import BadTime
from harvester.times import END_OF_TIME, Range, parse_moment, span

Moment = str | date | np.datetime64 | SupportsIndex
"""A moment: text as the commands take it; a `date` (its midnight, UTC); a `datetime`, which a
`pandas.Timestamp` is as well, UTC where it has no zone; a `numpy.datetime64`; or a whole number as
the commands take it: UNIX nanoseconds (19 digits) or seconds (10 digits), 0 for the beginning."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def moment_ns(given: Moment, now_ns: int) -> int:
    """A moment in nanoseconds since the UNIX epoch, to its last digit.

    Raises:
        BadTime: it is none, or lies before 1970 or beyond 2262.
    """
    if isinstance(given, str):
        return parse_moment(given, now_ns)
    if isinstance(given, datetime):
        return _held(given, _of_datetime(given))
    if isinstance(given, date):
        midnight = datetime(given.year, given.month, given.day, tzinfo=UTC)
        return _held(given, _of_datetime(midnight))
    if isinstance(given, np.datetime64):
        return _held(given, _of_numpy(given))
    if isinstance(given, SupportsIndex) and not isinstance(given, bool):
        return parse_moment(str(given.__index__()), now_ns)
    raise BadTime(
        f"{given!r} is no time: give text such as '2024-01-31' or '7d', a datetime, a date, or "
        "UNIX nanoseconds"
    )


def span_between(since: Moment, until: Moment | None) -> Range:
    """The range from `since` on, itself included, up to before `until`; None: no end.

    Raises:
        BadTime: one of them is no moment, or they are not in order.
    """
    now_ns = time.time_ns()
    return span(moment_ns(since, now_ns), None if until is None else moment_ns(until, now_ns))


def _of_datetime(moment: datetime) -> int:
    # pandas' NaT is a datetime that equals nothing.
    if moment != moment:  # noqa: PLR0124
        raise BadTime("NaT is no time: a moment is missing")
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    # pandas keeps what is finer than a microsecond beside it.
    finer = int(getattr(moment, "nanosecond", 0))
    whole = datetime(
        aware.year,
        aware.month,
        aware.day,
        aware.hour,
        aware.minute,
        aware.second,
        aware.microsecond,
        tzinfo=aware.tzinfo,
        fold=aware.fold,
    )
    return (whole - _EPOCH) // _MICROSECOND * 1000 + finer


def _of_numpy(moment: np.datetime64) -> int:
    if np.isnat(moment):
        raise BadTime("NaT is no time: a moment is missing")
    # Through whole seconds, as NumPy turns what does not fit nanoseconds into another time.
    seconds = moment.astype("datetime64[s]")
    rest = (moment - seconds).astype("timedelta64[ns]")
    return int(seconds.astype(np.int64)) * 10**9 + int(rest.astype(np.int64))


def _held(given: object, stamp_ns: int) -> int:
    if not 0 <= stamp_ns <= END_OF_TIME:
        raise BadTime(f"{str(given)!r} is out of bounds: from 1970-01-01 to 2262-04-11")
    return stamp_ns
