"""Files of candles in Kraken's form, and their comparison with an archive."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path

import candle_oracle
import csv_files
import sample_trades
from candle_cases import hold
from command_line import own_environment, run_harvester
from kraken_market import expected

from harvester.csv_import.csv_files import find
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import TradeStore
from harvester.times import Range
from harvester.verify.against_kraken import choose_files, compare_files
from harvester.verify.reports import CsvReport, IntervalReport

MINUTE = 60 * 10**9


DAY = 1440 * MINUTE


MINUTES = (1, 5, 60, 720, 1440)


FIELDS = ("open", "high", "low", "close", "volume", "count")


PAIR = Pair(altname="XBTUSD", pair_decimals=1)


# Some days in the middle of a quarter; many minutes see no trade.
TRADES = sample_trades.xbtusd_like(4_000, 91, gap_s=300)


ROWS = expected(sample_trades.market(TRADES))


LAST = ROWS[-1][1]


EVERYTHING = Range(0, LAST // DAY * DAY + DAY - 1)


Line = list[str]


Change = Callable[[list[Line]], list[Line]]


def lines(minutes: int, rows: Sequence[candle_oracle.Row] = ROWS) -> list[Line]:
    """The rows of a file of candles, by the oracle; numbers without zeros at their ends."""
    return [[*line] for line in (_lines_of_all(minutes) if rows is ROWS else _lines(minutes, rows))]


@cache
def _lines_of_all(minutes: int) -> list[Line]:
    """The lines of ROWS, which nearly every test needs."""
    return _lines(minutes, ROWS)


def _lines(minutes: int, rows: Sequence[candle_oracle.Row]) -> list[Line]:
    return [
        [str(candle["time"] // 10**9), *(plain(candle[name]) for name in FIELDS)]
        for candle in candle_oracle.candles(rows, minutes * MINUTE)
    ]


def plain(value: Decimal | int) -> str:
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def text(some: Sequence[Line]) -> bytes:
    return "".join(",".join(line) + "\n" for line in some).encode()


def zipped(
    folder: Path,
    change: Change = list,
    minutes: Sequence[int] = MINUTES,
    name: str = "Kraken_OHLCVT.zip",
    rows: Sequence[candle_oracle.Row] = ROWS,
) -> str:
    """A ZIP of XBTUSD's candles, after something was done to the rows of each member."""
    members = {
        f"OHLCVT/XBTUSD_{minute}.csv": text(change(lines(minute, rows))) for minute in minutes
    }
    return str(csv_files.packed(folder / name, members))


def held(folder: Path, *spans: Range, rows: Sequence[candle_oracle.Row] = ROWS) -> TradeStore:
    """An archive of these spans."""
    parts = [
        (span, [row for row in rows if span.after < row[1] <= span.through])
        for span in spans or (EVERYTHING,)
    ]
    return hold(TradeStore(folder / "data"), parts)


def report(archive: TradeStore, *files: str, pair: Pair = PAIR) -> CsvReport:
    chosen = choose_files(find(files), [pair.altname], [pair])
    return compare_files(archive, pair, chosen.files[pair.altname])


def only(archive: TradeStore, *files: str, pair: Pair = PAIR) -> IntervalReport:
    """What came of the one file that there is."""
    [compared] = report(archive, *files, pair=pair).files
    assert compared.error is None
    return compared.interval


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_harvester(arguments, environment(), folder)


def environment() -> dict[str, str]:
    return own_environment() | {
        "HARVESTER_API_URL": "http://127.0.0.1:9",
        "HARVESTER_EXCHANGE_GIVE_UP_S": "0.1",
        "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.01",
    }
