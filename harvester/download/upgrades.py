"""What replacing a pair's ranges from files by the exchange's own trades came to."""

from __future__ import annotations

from collections.abc import Sized
from decimal import Decimal
from typing import Any, NamedTuple

from harvester.times import Range


class Day(NamedTuple):
    """A UTC day of which a file and the exchange tell otherwise; `day` is ISO 8601."""

    day: str
    file_rows: int
    file_volume: Decimal
    exchange_rows: int
    exchange_volume: Decimal

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.day}: the file has {self.file_rows:,} trades of volume {self.file_volume:f}, "
            f"the exchange {self.exchange_rows:,} of {self.exchange_volume:f}"
        )

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "day": self.day,
            "file": {"rows": self.file_rows, "volume": f"{self.file_volume:f}"},
            "exchange": {"rows": self.exchange_rows, "volume": f"{self.exchange_volume:f}"},
        }


class Rounding(NamedTuple):
    """How files of whole seconds round their times.

    Attributes:
        way: `down`, `nearest` or `up`; `none` of these; `not told` where several explain as much.
        agree: rows of the file that the best way explains.
        of: rows that were compared.
    """

    way: str
    agree: int
    of: int

    def words(self, trades: str) -> str:
        """The same behind `whole seconds, `; `trades` are those that were compared."""
        counts = f"{self.agree:,} of {self.of:,} {trades}"
        return {
            "down": f"rounded down: {counts} agree",
            "nearest": f"rounded to the nearest: {counts} agree",
            "up": f"rounded up: {counts} agree",
            "none": f"rounded neither down, nor to the nearest, nor up: at best {counts} agree",
        }.get(self.way, f"and {self.of:,} {trades} do not tell how they were rounded")


class Left(NamedTuple):
    """A range that stays as the file told it, and why."""

    range: Range
    reason: str


class Upgrade(NamedTuple):
    """What an upgrade of one pair came to.

    Attributes:
        replaced: the ranges, in the order in which they were.
        left: those that stay as they were.
        days: those that do not agree, in order.
        kept: where files that do not agree were copied to, within the archive.
        rounding: measured over all that was compared; None where nothing was, or where times are
            finer than seconds.
    """

    replaced: tuple[Range, ...] = ()
    left: tuple[Left, ...] = ()
    days: tuple[Day, ...] = ()
    kept: tuple[str, ...] = ()
    rounding: Rounding | None = None

    @property
    def is_sound(self) -> bool:
        """Whether all agreed, and nothing had to stay as it was."""
        return not (self.days or self.left)

    def __str__(self) -> str:
        """What it came to, as a part of a line; empty where there was nothing to do."""
        parts = []
        if self.replaced:
            parts.append(f"{_counted(self.replaced, 'range')} from files replaced")
        if self.left:
            parts.append(f"{_counted(self.left, 'range')} from files left as they were")
        if self.days:
            parts.append(f"{_counted(self.days, 'day')} not as in the file")
        if self.rounding is not None:
            parts.append(f"the file's times are whole seconds, {self.rounding.words('trades')}")
        return ", ".join(parts)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "replaced": list(self.replaced),
            "left": [{"range": one.range, "reason": one.reason} for one in self.left],
            "days": [one.plain() for one in self.days],
            "kept": list(self.kept),
            "rounding": None if self.rounding is None else self.rounding._asdict(),
        }


def _counted(things: Sized, name: str) -> str:
    return f"{len(things)} {name}" + ("s" if len(things) != 1 else "")
