"""Candles by plain Python, decimals and calendars: answers that the product did not make.

Rows are those of `kraken_market.expected()`, in the exchange's order: (trade_id or None,
published_ns, tie, price, volume, side or None, order type, misc). A candle is a dict of `COLUMNS`;
its sums are exact decimals and its vwap an exact fraction. Times are nanoseconds since the UNIX
epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Row = tuple[int | None, int, int, Decimal, Decimal, str | None, str | None, str | None]
Candle = dict[str, Any]

SECOND_NS = 1_000_000_000
# The default context keeps 28 digits and rounds in silence; this one refuses to round at all.
EXACT = Context(prec=400, traps=[Inexact])
COLUMNS = (
    "time",
    "open",
    "high",
    "low",
    "close",
    "vwap",
    "volume",
    "count",
    "value",
    "buy_volume",
    "sell_volume",
    "buy_value",
    "sell_value",
    "buy_count",
    "sell_count",
    "first_trade_id",
    "last_trade_id",
    "first_time",
    "last_time",
)


def candles(rows: Iterable[Row], interval_ns: int, offset_ns: int = 0) -> list[Candle]:
    """Make the candles of a fixed length, on a grid that counts from the epoch plus the offset."""
    return _grouped(rows, lambda stamp: floor_fixed(stamp, interval_ns, offset_ns))


def calendar_candles(
    rows: Iterable[Row], unit: str, *, tz: str = "UTC", number: int = 1
) -> list[Candle]:
    """Make candles of `number` days ("d"), weeks ("w"), months ("mo"), quarters ("q"), years ("y").

    Weeks open on Monday; several months, quarters or years count from January 1970, several days
    from the first of it, several weeks from the fifth, which was a Monday.
    """
    return _grouped(rows, lambda stamp: floor_calendar(stamp, unit, tz, number))


def candles_between(rows: Iterable[Row], times: Sequence[int]) -> list[Candle]:
    """Make candles of given openings; the first must not lie after the first row."""
    return _grouped(rows, lambda stamp: times[bisect_right(times, stamp) - 1])


def _grouped(rows: Iterable[Row], opens: Callable[[int], int]) -> list[Candle]:
    groups = groupby(rows, key=lambda row: opens(row[1]))
    made = [candle(time_ns, list(group)) for time_ns, group in groups]
    times = [made_candle["time"] for made_candle in made]
    if times != sorted(set(times)):
        message = "the rows are not in the exchange's order"
        raise ValueError(message)
    return made


def candle(time_ns: int, rows: Sequence[Row]) -> Candle:
    """Make one candle of rows that are in order; there must be one at least."""
    buys = [row for row in rows if row[5] == "buy"]
    sells = [row for row in rows if row[5] == "sell"]
    ids = [row[0] for row in rows if row[0] is not None]
    prices = [row[3] for row in rows]
    volume, value = total_volume(rows), total_value(rows)
    return {
        "time": time_ns,
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "vwap": Fraction(value) / Fraction(volume) if volume else None,
        "volume": volume,
        "count": len(rows),
        "value": value,
        "buy_volume": total_volume(buys),
        "sell_volume": total_volume(sells),
        "buy_value": total_value(buys),
        "sell_value": total_value(sells),
        "buy_count": len(buys),
        "sell_count": len(sells),
        "first_trade_id": ids[0] if ids else None,
        "last_trade_id": ids[-1] if ids else None,
        "first_time": rows[0][1],
        "last_time": rows[-1][1],
    }


def total_volume(rows: Iterable[Row]) -> Decimal:
    """Add the volumes up, exactly."""
    total = Decimal(0)
    for row in rows:
        total = EXACT.add(total, row[4])
    return total


def total_value(rows: Iterable[Row]) -> Decimal:
    """Add price times volume up, exactly."""
    total = Decimal(0)
    for row in rows:
        total = EXACT.add(total, EXACT.multiply(row[3], row[4]))
    return total


def truncated(value: Fraction | Decimal, decimals: int) -> Decimal:
    """Cut a value of zero or more off after some decimals: Kraken's form of the vwap."""
    scaled = Fraction(value) * 10**decimals
    return Decimal(scaled.numerator // scaled.denominator).scaleb(-decimals, EXACT)


# --- grids ---------------------------------------------------------------------------------------


def floor_fixed(stamp_ns: int, interval_ns: int, offset_ns: int = 0) -> int:
    """Give the opening of the fixed interval that holds the stamp."""
    return (stamp_ns - offset_ns) // interval_ns * interval_ns + offset_ns


def floor_calendar(stamp_ns: int, unit: str, tz: str = "UTC", number: int = 1) -> int:
    """Give the opening of the calendar interval that holds the stamp, local midnight of `tz`."""
    day = datetime.fromtimestamp(stamp_ns // SECOND_NS, UTC).astimezone(ZoneInfo(tz)).date()
    return midnight_ns(first_day(day, unit, number), tz)


def next_calendar(time_ns: int, unit: str, tz: str = "UTC", number: int = 1) -> int:
    """Give the opening of the calendar interval after the one that opens at `time_ns`."""
    day = datetime.fromtimestamp(time_ns // SECOND_NS, UTC).astimezone(ZoneInfo(tz)).date()
    opened = first_day(day, unit, number)
    days = {"d": 1, "w": 7, "mo": 31, "q": 92, "y": 366}[unit] * number
    # Well inside the next interval, as no two lengths of one unit differ by half of it.
    return midnight_ns(first_day(opened + timedelta(days=days + days // 50), unit, number), tz)


def first_day(day: date, unit: str, number: int = 1) -> date:
    """Give the day on which the calendar interval of this day begins."""
    if unit in {"d", "w"}:
        origin = date(1970, 1, 5) if unit == "w" else date(1970, 1, 1)
        length = number * (7 if unit == "w" else 1)
        return day - timedelta(days=(day - origin).days % length)
    length = number * {"mo": 1, "q": 3, "y": 12}[unit]
    months = (day.year - 1970) * 12 + day.month - 1
    year, month = divmod(months - months % length, 12)
    return date(1970 + year, month + 1, 1)


def midnight_ns(day: date, tz: str = "UTC") -> int:
    """Give the first moment of a local day, which need not be called 00:00 where clocks change."""
    local = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(tz))
    return (local - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) * SECOND_NS


def walked(first_ns: int, last_ns: int, step_ns: int, clock: Clock) -> list[int]:
    """Give all openings from one moment through another by looking at a clock, step by step.

    All openings and all turns of the clock must fall upon a step. A clock that is set back by an
    interval's length or more goes through the intervals of that time again; one set back by less
    shows what it has shown, and opens nothing until it shows something new.
    """
    times = []
    length_ns = clock.length_ns()
    shown = clock.shows(first_ns)
    place = clock.place(shown)
    for at in range(first_ns + step_ns, last_ns + 1, step_ns):
        before, shown = shown, clock.shows(at)
        now = clock.place(shown)
        if before + step_ns - shown >= length_ns:
            place = now - (now > clock.place(shown - 1))
        if now > place:
            times.append(at)
        place = max(place, now)
    return times


class Clock(NamedTuple):
    """A clock on a wall, and the intervals that are counted on it."""

    tz: str
    number: int
    unit: str
    offset_ns: int = 0

    def shows(self, stamp_ns: int) -> int:
        """Give what it shows, as nanoseconds since 1970-01-01 00:00 on itself."""
        local = datetime.fromtimestamp(stamp_ns // SECOND_NS, ZoneInfo(self.tz))
        return stamp_ns + int((local.utcoffset() or timedelta()).total_seconds()) * SECOND_NS

    def place(self, shown_ns: int) -> int:
        """Give which interval it is in, by what it shows alone; not all need to occur."""
        moved = shown_ns - self.offset_ns
        if self.unit in {"mo", "q", "y"}:
            day = date(1970, 1, 1) + timedelta(days=moved // (86_400 * SECOND_NS))
            months = (day.year - 1970) * 12 + day.month - 1
            return months // (self.number * {"mo": 1, "q": 3, "y": 12}[self.unit])
        monday = 4 * 86_400 * SECOND_NS if self.unit == "w" else 0
        return (moved - monday) // self.length_ns()

    def length_ns(self) -> int:
        """Give how long an interval is on it; about, of months."""
        milliseconds = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
        days = {"w": 7, "mo": 30, "q": 90, "y": 365}
        length = milliseconds.get(self.unit) or days[self.unit] * milliseconds["d"]
        return length * self.number * 1_000_000


def fixed_times(first_ns: int, last_ns: int, interval_ns: int) -> list[int]:
    """Give all openings from one to another, both of them included."""
    return list(range(first_ns, last_ns + 1, interval_ns))


# --- empty intervals -----------------------------------------------------------------------------

NOTHING: Candle = {
    **dict.fromkeys(COLUMNS),
    **dict.fromkeys(
        ("volume", "value", "buy_volume", "sell_volume", "buy_value", "sell_value"), Decimal(0)
    ),
    **dict.fromkeys(("count", "buy_count", "sell_count"), 0),
}


def filled(made: Sequence[Candle], times: Iterable[int], policy: str) -> list[Candle]:
    """Put something where no trade was, for the openings `times`, by one of four policies.

    none: leave such intervals out. null: prices and vwap None, sums zero. previous: the close
    before carried on, vwap None. kraken: likewise, vwap zero. Before the first candle there is
    nothing to carry, so there the last two leave intervals out.
    """
    known = {made_candle["time"]: made_candle for made_candle in made}
    shown: list[Candle] = []
    close: Decimal | None = None
    for time_ns in times:
        if time_ns in known:
            shown.append(known[time_ns])
            close = known[time_ns]["close"]
        elif policy == "null" or (policy in {"previous", "kraken"} and close is not None):
            shown.append(_filling(time_ns, close, policy))
        elif policy not in {"none", "previous", "kraken"}:
            message = f"unknown policy {policy!r}"
            raise ValueError(message)
    return shown


def _filling(time_ns: int, close: Decimal | None, policy: str) -> Candle:
    if policy == "null":
        return {**NOTHING, "time": time_ns}
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    vwap = Decimal(0) if policy == "kraken" else None
    return {**NOTHING, **prices, "time": time_ns, "vwap": vwap}


def filled_fixed(made: Sequence[Candle], interval_ns: int, policy: str) -> list[Candle]:
    """Fill between the first and the last candle of a fixed length."""
    if not made:
        return []
    return filled(made, fixed_times(made[0]["time"], made[-1]["time"], interval_ns), policy)
