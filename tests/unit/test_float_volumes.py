"""Volumes that Kraken's older candle files print as float sums, compared with exact ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import groupby
from pathlib import Path

import candle_oracle
import pytest
from candle_cases import hold
from csv_comparison import MINUTE, ROWS, held, lines, only, report, run, text

from harvester.storage.trade_store import TradeStore
from harvester.times import Range
from harvester.verify.reports import IntervalReport

OPENS_S = 1_617_148_800
OPENS = OPENS_S * 10**9
HOUR = 60 * MINUTE


def trade(time_ns: int, price: str, volume: str, tie: int = 0) -> candle_oracle.Row:
    return (None, time_ns, tie, Decimal(price), Decimal(volume), "buy", "market", "")


# 0.30000001 of them, which is no float.
TWO = [trade(OPENS + 5, "1841.75", "0.1"), trade(OPENS + 100 * 10**9, "1918.89", "0.20000001")]


def archive_of(folder: Path, trades: Sequence[candle_oracle.Row]) -> TradeStore:
    return hold(TradeStore(folder / "data"), [(Range(OPENS - HOUR - 1, OPENS + HOUR - 1), trades)])


def compared(folder: Path, volume: str, minutes: int = 60) -> IntervalReport:
    """The two trades' candle compared with a file's one row, in which this volume stands."""
    path = folder / f"XBTUSD_{minutes}.csv"
    path.write_text(f"{OPENS_S},1841.75,1918.89,1841.75,1918.89,{volume},2\n")
    return only(archive_of(folder, TWO), str(path))


@pytest.mark.parametrize("minutes", [5, 60])
@pytest.mark.parametrize(
    "volume",
    [
        "0.3000000100000001",
        "0.30000001000000003",
        "0.3000000099999999",
        "0.3000000100000001000",
        "3.000000100000001e-1",
    ],
)
def test_a_float_sum_is_equal_and_counted_apart(volume: str, minutes: int, tmp_path: Path) -> None:
    found = compared(tmp_path, volume, minutes)
    assert (found.compared, found.differing, found.within_float_rounding) == (1, 0, 1)
    assert (found.differences, found.archive_trades, found.exchange_trades) == ((), 2, 2)


@pytest.mark.parametrize("volume", ["0.30000001", "0.3000000100", "0.30000001000000000000"])
def test_an_exact_volume_is_not_counted_as_rounded(volume: str, tmp_path: Path) -> None:
    found = compared(tmp_path, volume)
    assert (found.compared, found.differing, found.within_float_rounding) == (1, 0, 0)


@pytest.mark.parametrize(
    "volume",
    [
        "0.20000001",
        "0.3",
        "0.30000002",
        "0.300000011",
        "0.3000000101",
        "0.30000001000001",
        # Twice as far off as two trades can bring it, on either side.
        "0.3000000100000002",
        "0.3000000099999998",
        # Just beyond what two trades can bring it off.
        "0.30000001000000011",
    ],
)
def test_another_volume_differs(volume: str, tmp_path: Path) -> None:
    found = compared(tmp_path, volume)
    assert (found.compared, found.differing, found.within_float_rounding) == (1, 1, 0)
    [difference] = found.differences
    assert (difference.field, difference.archive) == ("volume", "0.30000001")
    assert difference.exchange == volume


def test_another_value_differs_beside_a_rounded_volume(tmp_path: Path) -> None:
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text(f"{OPENS_S},1841.75,1919.5,1841.75,1918.89,0.3000000100000001,2\n")
    found = only(archive_of(tmp_path, TWO), str(path))
    assert [difference.field for difference in found.differences] == ["high"]
    assert (found.differing, found.within_float_rounding) == (1, 0)


# --- a whole history -----------------------------------------------------------------------------


def one_by_one(volumes: Sequence[float]) -> float:
    # Since Python 3.12 `sum` makes up for the rounding.
    total = 0.0
    for volume in volumes:
        total += volume
    return total


def shuffled(volumes: Sequence[float]) -> float:
    return one_by_one(random.Random(5).sample(volumes, len(volumes)))


def in_halves(volumes: Sequence[float]) -> float:
    half = len(volumes) // 2
    return in_halves(volumes[:half]) + in_halves(volumes[half:]) if half else volumes[0]


SUMS: dict[str, Callable[[Sequence[float]], float]] = {
    "one by one": one_by_one,
    "in another order": shuffled,
    "in halves": in_halves,
}
PRINTED: dict[str, Callable[[float], str]] = {
    "shortest": repr,
    "17 digits": "{:.17g}".format,
    "15 digits": "{:.15g}".format,
    "all digits": lambda value: f"{Decimal(value):f}"[:30],
}


def summed_as_floats(
    minutes: int, adds: Callable[[Sequence[float]], float], prints: Callable[[float], str]
) -> list[list[str]]:
    """The rows of ROWS' candles, with volumes that were summed as floats."""
    volumes = [
        [float(row[4]) for row in trades]
        for _, trades in groupby(ROWS, key=lambda row: row[1] // (minutes * MINUTE))
    ]
    return [
        [*line[:5], prints(adds(some)), line[6]]
        for line, some in zip(lines(minutes), volumes, strict=True)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TradeStore:
    return held(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("order", "printed", "minutes"),
    [
        (order, printed, (1, 60, 1440)[(at + place) % 3])
        for at, order in enumerate(SUMS)
        for place, printed in enumerate(PRINTED)
    ],
)
def test_all_candles_of_a_file_of_float_sums_are_equal(
    order: str, printed: str, minutes: int, whole: TradeStore, tmp_path: Path
) -> None:
    rows = summed_as_floats(minutes, SUMS[order], PRINTED[printed])
    path = tmp_path / f"XBTUSD_{minutes}.csv"
    path.write_bytes(text(rows))
    found = only(whole, str(path))
    inexact = sum(
        Decimal(row[5]) != Decimal(exact[5])
        for row, exact in zip(rows, lines(minutes), strict=True)
    )
    assert (found.compared, found.differing) == (len(rows), 0)
    assert found.within_float_rounding == inexact
    assert inexact > 0 or printed == "15 digits"


def test_of_many_rounded_volumes_the_one_that_is_wrong_is_found(
    whole: TradeStore, tmp_path: Path
) -> None:
    rows = summed_as_floats(60, one_by_one, repr)
    place = len(rows) // 2
    rows[place][5] = str(Decimal(rows[place][5]) + Decimal("0.00000001"))
    path = tmp_path / "XBTUSD_60.csv"
    path.write_bytes(text(rows))
    found = only(whole, str(path))
    assert [(difference.time_ns, difference.field) for difference in found.differences] == [
        (int(rows[place][0]) * 10**9, "volume")
    ]


# --- where floats can't represent every unit of a volume ------------------------------------------

LARGE = [trade(OPENS + place, "1.5", "1000000000.00000001") for place in range(1, 101)]


@pytest.mark.parametrize(
    "volume", ["100000000000", "100000000000.00000101", "100000000000.000001006"]
)
def test_a_unit_of_volume_is_never_taken_for_rounding(volume: str, tmp_path: Path) -> None:
    """Here the error of a float sum can be many units; yet the file may be exact."""
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text(f"{OPENS_S},1.5,1.5,1.5,1.5,{volume},100\n")
    found = only(archive_of(tmp_path, LARGE), str(path))
    assert (found.differing, found.within_float_rounding) == (1, 0)


# --- trades at the very edge ---------------------------------------------------------------------


def test_a_trade_may_be_moved_and_its_volume_be_rounded(tmp_path: Path) -> None:
    before = OPENS - 100 * 10**9
    trades = [
        trade(before, "5", "0.1"),
        trade(OPENS, "6", "0.20000001"),
        trade(OPENS + 9, "7", "0.1"),
    ]
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text(
        f"{OPENS_S - 3600},5,6,5,6,0.30000001000000003,2\n{OPENS_S},7,7,7,7,0.10000000000000001,1\n"
    )
    found = only(archive_of(tmp_path, trades), str(path))
    assert (found.differing, found.at_boundary, found.within_float_rounding) == (0, 2, 2)
    assert (found.archive_trades, found.exchange_trades) == (3, 3)


# --- as a command --------------------------------------------------------------------------------


def test_the_number_of_them_is_reported(tmp_path: Path) -> None:
    archive_of(tmp_path, TWO)
    path = tmp_path / "XBTUSD_60.csv"
    path.write_text(f"{OPENS_S},1841.75,1918.89,1841.75,1918.89,0.3000000100000001,2\n")
    assert report(TradeStore(tmp_path / "data"), str(path)).exit_status == 0
    options = ("verify", "XBTUSD", "--against-csv", "XBTUSD_60.csv")
    printed = run(tmp_path, *options).stdout.splitlines()
    assert printed[-2:] == [
        "XBTUSD against the files: equal: 1 candles compared, 0 skipped",
        "  60m, XBTUSD_60.csv: 1 compared, 0 differ; 1 equal within float rounding",
    ]
    [found] = json.loads(run(tmp_path, *options, "--json").stdout)
    [file] = found["csv"]["files"]
    assert (file["within_float_rounding"], file["differing"]) == (1, 0)
