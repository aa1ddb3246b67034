"""Writes made markets as the exchange's downloadable files have them; nothing of the product."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path

from kraken_market import SECOND_NS, Trade, TradeRows, time_literal

ROUNDINGS = ("down", "nearest", "up")


def second(trade: Trade, rounding: str = "down") -> int:
    """Give the whole second that a file prints for a trade."""
    add = {"down": 0, "nearest": SECOND_NS // 2, "up": SECOND_NS - 1}[rounding]
    return (trade.true_ns + add) // SECOND_NS


def three_columns(trades: Iterable[Trade], rounding: str = "down") -> bytes:
    """Write time, price, volume without a header."""
    lines = [f"{second(trade, rounding)},{trade.price},{trade.volume}\n" for trade in trades]
    return "".join(lines).encode()


def seven_columns(trades: Iterable[Trade], *, header: bool = True) -> bytes:
    """Write seven columns under a header that names six."""
    lines = ["price,volume,timestamp,b/s,m/l,misc\n"] if header else []
    for trade in trades:
        time = time_literal(trade.true_ns, None)
        fields = [
            trade.price,
            trade.volume,
            time,
            trade.side,
            trade.order_type,
            trade.misc,
            trade.trade_id,
        ]
        lines.append(",".join(map(str, fields)) + "\n")
    return "".join(lines).encode()


def rows_of_file(trades: Iterable[Trade], rounding: str = "down") -> TradeRows:
    """Give the rows of a file of three columns, in the form of `expected`."""
    rows: TradeRows = []
    for trade in trades:
        at = second(trade, rounding) * SECOND_NS
        tie = rows[-1][2] + 1 if rows and rows[-1][1] == at else 0
        rows.append((None, at, tie, Decimal(trade.price), Decimal(trade.volume), None, None, None))
    return rows


def packed(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a ZIP."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path
