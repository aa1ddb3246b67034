"""Check the arguments of public functions, and turn times of any Python type into nanoseconds."""

from __future__ import annotations

import inspect
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import cache, wraps
from operator import index
from typing import NamedTuple, ParamSpec, SupportsIndex, TypeVar, cast

import numpy as np

from harvester.errors import BadInterval, BadSetting, BadTime, UsageError
from harvester.times import (
    END_OF_TIME,
    UNITS_NS,
    Interval,
    Range,
    parse_interval,
    parse_moment,
    range_between,
)

# --- Argument types -------------------------------------------------------------------------------

# `check_types` reads a function's annotations, so that the signature is the only place that says
# what a parameter accepts. A value of another type is a UsageError that names the parameter, not an
# AttributeError from somewhere inside.

P = ParamSpec("P")
R = TypeVar("R")


class ArgumentType(NamedTuple):
    """The values that a parameter with one annotation accepts.

    Attributes:
        accepts: whether a value is of the type.
        expected: the type in words, for messages.
        error: the exception for a value of another type.
    """

    accepts: Callable[[object], bool]
    expected: str
    error: type[UsageError] = UsageError


_SURROGATE = re.compile("[\ud800-\udfff]")
_FLAGS = (bool, np.bool_)
_FLOATS = (float, np.floating)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not _SURROGATE.search(value)


def _is_integer(value: object) -> bool:
    """Whether a value is an int or another library's integer; arrays also have an `__index__`."""
    return isinstance(value, SupportsIndex) and not isinstance(value, (np.ndarray, type, *_FLAGS))


def _is_whole(value: object) -> bool:
    """Whether a value is an integer of at most 64 bits: no column can hold a wider one."""
    return _is_integer(value) and -(2**63) <= index(cast("SupportsIndex", value)) < 2**63


def _is_moment(value: object) -> bool:
    return isinstance(value, str | date | np.datetime64) or _is_whole(value)


def _is_path(value: object) -> bool:
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    return isinstance(path, str) and is_path_text(path)


def is_path_text(text: str) -> bool:
    """Whether the system can have a file of this name: no NUL, and only encodable characters."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _is_list(value: object) -> bool:
    is_text = isinstance(value, str | bytes | bytearray | memoryview)
    return isinstance(value, Sequence) and not is_text


def _are_texts(value: object) -> bool:
    return _is_list(value) and all(map(_is_text, cast("Sequence[object]", value)))


ARGUMENT_TYPES: dict[str, ArgumentType] = {
    "str": ArgumentType(_is_text, "text"),
    "bool": ArgumentType(lambda value: isinstance(value, _FLAGS), "True or False"),
    "int": ArgumentType(_is_whole, "a whole number"),
    "float": ArgumentType(lambda value: _is_whole(value) or isinstance(value, _FLOATS), "a number"),
    "IntervalLength": ArgumentType(
        lambda value: _is_text(value) or _is_whole(value) or isinstance(value, timedelta),
        "text such as '4h', a whole number of minutes, or a timedelta",
        BadInterval,
    ),
    "Sequence[IntervalLength]": ArgumentType(
        _is_list, "a list of intervals, such as ['1m', '1h']", BadInterval
    ),
    "Fill": ArgumentType(_is_text, "text", BadSetting),
    "Layout": ArgumentType(_is_text, "text", BadSetting),
    "Moment": ArgumentType(
        _is_moment,
        "a time (text such as '2024-01-31' or '7d', a datetime, a date, or a UNIX time of 10, 13 "
        "or 19 digits)",
        BadTime,
    ),
    "Number": ArgumentType(
        lambda value: _is_integer(value) or isinstance(value, (*_FLOATS, Decimal, str)),
        "a number (int, float, Decimal or text)",
        BadSetting,
    ),
    "str | os.PathLike[str]": ArgumentType(
        _is_path, "a path (text without NUL characters, or a pathlib.Path)"
    ),
    "Sequence[str | os.PathLike[str]]": ArgumentType(
        lambda value: _is_list(value) and all(map(_is_path, cast("Sequence[object]", value))),
        "a list of paths",
    ),
    "Mapping[str, Any]": ArgumentType(
        lambda value: isinstance(value, Mapping),
        'a mapping of names to values, such as {"exchange.rate": 0.5}',
        BadSetting,
    ),
    "Sequence[object] | Mapping[str, object]": ArgumentType(
        lambda value: _is_list(value) or isinstance(value, Mapping),
        "a list of values, or a mapping of names to values",
    ),
    "Sequence[str]": ArgumentType(_are_texts, "a list of texts"),
    "Callable[[Event], object]": ArgumentType(callable, "a function"),
    "ProgressOption": ArgumentType(
        lambda value: callable(value) or isinstance(value, _FLAGS),
        "a function, True or False",
    ),
    "CancelToken": ArgumentType(
        # By name: its module imports this one's importers.
        lambda value: any(base.__name__ == "CancelToken" for base in type(value).__mro__),
        "a harvester.CancelToken",
    ),
    "str | Sequence[str]": ArgumentType(
        lambda value: _is_text(value) or _are_texts(value), "text, or a list of texts"
    ),
    # By what is used of it: of Spark and of Spark Connect it is another class.
    "SparkSession": ArgumentType(
        lambda value: hasattr(value, "sql") and hasattr(value, "read"), "a SparkSession"
    ),
    "Callable[[ExportedFile], object]": ArgumentType(callable, "a function"),
}
"""The accepted values by annotation, as it is written, without `| None`."""


def wrong_type(
    name: str, expected: str, value: object, error: type[UsageError] = UsageError
) -> UsageError:
    """The error for a value of a type that a parameter does not accept.

    Args:
        name: the parameter.
        expected: the accepted type in words.
        value: the wrong value.
        error: the exception's class.
    """
    found = type(value).__name__
    if isinstance(value, str) and not _is_text(value):
        found += " with a lone surrogate"
    elif _is_integer(value) and not _is_whole(value):
        found += " of more than 64 bits"
    return error(f"{name} must be {expected}, not {found}")


def check_types(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function: raise UsageError for arguments of other types than annotated.

    Too many or too few arguments and unknown names remain Python's own TypeError. The annotations
    are read at the first call: a command calls one function of many.
    """
    signature_of = cache(inspect.signature)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        signature = signature_of(function)
        try:
            bound = signature.bind(*args, **kwargs).arguments
        except TypeError:
            # The call itself raises it, with Python's usual message.
            return function(*args, **kwargs)
        for name, given in bound.items():
            if name == "self":
                continue
            parameter = signature.parameters[name]
            is_many = parameter.kind is parameter.VAR_POSITIONAL
            annotation = str(parameter.annotation)
            may_be_none = annotation.endswith(" | None")
            accepted = ARGUMENT_TYPES[annotation.removesuffix(" | None")]
            for value in given if is_many else [given]:
                if not ((value is None and may_be_none) or accepted.accepts(value)):
                    named = f"each of {name}" if is_many else name
                    raise wrong_type(named, accepted.expected, value, accepted.error)
        return function(*args, **kwargs)

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def checked_async(*args: P.args, **kwargs: P.kwargs) -> object:
            return await cast("Awaitable[object]", checked(*args, **kwargs))

        return cast("Callable[P, R]", checked_async)
    return checked


# --- Times ----------------------------------------------------------------------------------------

Moment = str | date | np.datetime64 | SupportsIndex
"""A time: text as in command-line options; a `date` (its midnight); a `datetime` or
`pandas.Timestamp` (UTC without a zone); a `numpy.datetime64` (UTC); or a whole number: a UNIX time
in seconds (10 digits), milliseconds (13 digits) or nanoseconds (19 digits), or 0 for the
beginning."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def moment_ns(moment: Moment, now_ns: int, zone: tzinfo = UTC) -> int:
    """Convert a time of any accepted type into UNIX nanoseconds, exact to the last digit.

    Args:
        moment: the time.
        now_ns: the present time in UNIX nanoseconds, for ages such as 7d.
        zone: the time zone of a date, and of text that names none. The times in results are UTC
            without a zone, so a `datetime` without one is UTC in any case.

    Raises:
        BadTime: it is not a time, or is before 1970 or after 2262.
    """
    if isinstance(moment, str):
        return parse_moment(moment, now_ns, zone)
    if isinstance(moment, datetime):
        stamp_ns = _datetime_ns(moment)
    elif isinstance(moment, date):
        return parse_moment(moment.isoformat(), now_ns, zone)
    elif isinstance(moment, np.datetime64):
        stamp_ns = _numpy_ns(moment)
    elif isinstance(moment, SupportsIndex) and not isinstance(moment, bool):
        return parse_moment(str(moment.__index__()), now_ns)
    else:
        raise BadTime(
            f"{moment!r} is not a time: give text such as '2024-01-31' or '7d', a datetime, "
            "a date, or a UNIX time of 10, 13 or 19 digits"
        )
    if not 0 <= stamp_ns <= END_OF_TIME:
        raise BadTime(f"{str(moment)!r} is out of bounds: from 1970-01-01 to 2262-04-11")
    return stamp_ns


def parse_range(since: Moment, until: Moment | None, zone: tzinfo = UTC) -> Range:
    """The range from `since` (inclusive) to `until` (exclusive; None for no end).

    Args:
        since: start time.
        until: end time.
        zone: the time zone of dates, and of texts that name none.

    Raises:
        BadTime: one of them is not a time, or `since` is not before `until`.
    """
    now_ns = time.time_ns()
    return range_between(
        moment_ns(since, now_ns, zone), None if until is None else moment_ns(until, now_ns, zone)
    )


def _datetime_ns(moment: datetime) -> int:
    # pandas' NaT is a datetime that equals nothing.
    if moment != moment:  # noqa: PLR0124
        raise BadTime("NaT is not a time")
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    # pandas keeps the part below a microsecond in an attribute of its own.
    below_microsecond = int(getattr(moment, "nanosecond", 0))
    whole = datetime.combine(aware.date(), aware.timetz())
    return (whole - _EPOCH) // _MICROSECOND * 1000 + below_microsecond


def _numpy_ns(moment: np.datetime64) -> int:
    if np.isnat(moment):
        raise BadTime("NaT is not a time")
    # Via whole seconds, as NumPy silently wraps times that do not fit in nanoseconds.
    seconds = moment.astype("datetime64[s]")
    rest = (moment - seconds).astype("timedelta64[ns]")
    return int(seconds.astype(np.int64)) * 10**9 + int(rest.astype(np.int64))


# --- Intervals ------------------------------------------------------------------------------------

IntervalLength = str | int | timedelta
"""The length of candles: text such as `4h`, a whole number of minutes, or a `timedelta` or
`pandas.Timedelta`, whose days are 24 hours."""


def candle_interval(length: IntervalLength) -> Interval:
    """Convert a length of candles of any accepted type into an interval.

    Seven days as a timedelta are `7d`, not `1w`: they do not begin on Monday.

    Raises:
        BadInterval: it is not an interval, is not above zero, is longer than a century, or has a
            part below a millisecond.
    """
    if not isinstance(length, timedelta):
        return parse_interval(str(length))
    # pandas' NaT is no timedelta. Its Timedelta keeps the part below a microsecond separately.
    width_ns = length // _MICROSECOND * 1000 + int(getattr(length, "nanoseconds", 0))
    if width_ns <= 0 or width_ns % UNITS_NS["ms"]:
        raise BadInterval(f"interval {str(length)!r}: give whole milliseconds, above 0")
    unit = next(unit for unit in ("d", "h", "m", "s", "ms") if width_ns % UNITS_NS[unit] == 0)
    return parse_interval(f"{width_ns // UNITS_NS[unit]}{unit}")
