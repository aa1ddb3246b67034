"""What is asked: candles of one pair, of one length, over one span."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from harvester.errors import BadSetting
from harvester.query.clock import zone_of
from harvester.times import Interval, Range

Fill = Literal["none", "previous", "null", "kraken"]
FILLS: tuple[str, ...] = get_args(Fill)

PRICE_DECIMALS = 10
"""The decimals of a price in the archive: `columns.PRICE`."""


@dataclass(frozen=True, slots=True)
class Question:
    """Candles of one pair, of one length, over one span.

    Attributes:
        pair: the altname.
        interval: the candle's length.
        span: only trades published in it count; `(after, through]` in nanoseconds.
        fill: what to put where covered time saw no trade; see docs/candles.md.
        all_columns: the columns after `count` as well.
        offset_ns: moves the grid, by time on the clock that it follows.
        pair_decimals: the decimals that Kraken prints prices with; for `fill="kraken"` alone.
        tz: the time zone whose clock the grid follows, by its name in the tz database; None
            for UTC. It moves no column: `time` is UTC whatever is given.
        complete_only: leave out candles that are running, cut by the span, or touch a gap.

    Raises:
        BadSetting: another fill than the four, a time zone that there is not, or decimals that
            no price can have.
    """

    pair: str
    interval: Interval
    span: Range
    fill: Fill = "none"
    all_columns: bool = False
    offset_ns: int = 0
    pair_decimals: int = PRICE_DECIMALS
    tz: str | None = None
    complete_only: bool = False

    def __post_init__(self) -> None:
        """Hold what was asked to what can be answered."""
        if self.fill not in FILLS:
            raise BadSetting(f"fill is {self.fill!r}: give one of {', '.join(FILLS)}")
        if not 0 <= self.pair_decimals <= PRICE_DECIMALS:
            raise BadSetting(
                f"pair_decimals is {self.pair_decimals}: give 0 to {PRICE_DECIMALS}, the decimals "
                "that the archive keeps"
            )
        if self.tz is not None:
            zone_of(self.tz)

    @property
    def title(self) -> str:
        """The question in a few words, for messages."""
        return f"{self.interval.text} candles of {self.pair}"
