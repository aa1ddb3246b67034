"""Archives with roll-ups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from candle_cases import (
    PAIR,
    SECOND,
    START,
    cut,
    hold,
    trade,
)

from harvester.query.rollups import RollupResult, parse_levels, roll_up
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer

LEVELS = ("1m", "1h")


def rolled(archive: TradeStore, levels: Sequence[str] = LEVELS) -> RollupResult:
    with open_writer(archive, PAIR) as pair_writer:
        return roll_up(pair_writer, parse_levels(levels))


def busy_archive(path: Path) -> TradeStore:
    """A trade every ten seconds for five hours, in two segments that part inside of a minute."""
    begin = START // (3600 * SECOND) * 3600
    trades = [trade(begin - START // SECOND + i * 10, str(1 + i % 7)) for i in range(1800)]
    middle = trades[900][1] + 25 * SECOND
    return hold(TradeStore(path), cut(trades, [0, middle, trades[-1][1] + SECOND]))
