"""`harvester import --delisted`: nothing of a pair that is listed no more can be downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import csv_files
import pytest
import sample_trades
from backfills import serve, tape_of
from command_line import own_environment, run_harvester
from kraken_market import Clock, Market
from kraken_server import Exchange

from harvester.storage.trade_store import TradeStore

NOW_NS = sample_trades.utc_ns(2024, 9, 1)
OLD = sample_trades.xbtusd_like(300, 91, start_ns=sample_trades.utc_ns(2024, 1, 20), gap_s=60.0)
NEW = sample_trades.xbtusd_like(200, 92, start_ns=sample_trades.utc_ns(2024, 8, 1), first_id=1)
LISTED = Market("FOOUSD", "FOO2ZUSD", "FOO/USD", "FOO2", "ZUSD", trades=NEW)
WHOLE = ("--whole-since", "2024-01", "--whole-until", "2024-04")
NOBODY = "http://127.0.0.1:9"


class Answer(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with serve(sample_trades.market(NEW), clock=Clock(NOW_NS)) as server:
        yield server


@pytest.fixture
def command(exchange: Exchange, tmp_path: Path) -> Any:
    """Run `harvester` in a folder with the file of a pair that the exchange does not list."""
    (tmp_path / "FOOUSD.csv").write_bytes(csv_files.three_columns(OLD))

    def run(*arguments: str, url: str = exchange.url) -> Answer:
        own = {
            "HARVESTER_API_URL": url,
            "HARVESTER_DATA": str(tmp_path / "data"),
            "HARVESTER_EXCHANGE_RATE": "0",
            "HARVESTER_EXCHANGE_GIVE_UP_S": "0.2",
            "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.01",
        }
        done = run_harvester(arguments, own_environment() | own, tmp_path)
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


def volumes(folder: Path, pair: str = "FOOUSD") -> list[Decimal]:
    """The volume of each stored trade, in order."""
    return [row[4] for row in tape_of(folder / "data", pair)]


OLD_VOLUMES = [Decimal(trade.volume) for trade in OLD]

# --- the name is given to another market ----------------------------------------------------------

CHANGED = (
    "FOOUSD: the exchange now uses this name for another market, FOO2ZUSD, than the archive does, "
    "delisted:FOOUSD: nothing was added. Keep the old trades where they are, and download the new "
    "market into another folder (--data FOLDER)"
)


@pytest.mark.parametrize("named", [(), ("--pair", "FOOUSD")])
@pytest.mark.parametrize(
    "download", [("refresh",), ("backfill", "FOO/USD"), ("backfill", "*USD")], ids=" ".join
)
def test_nothing_of_another_market_is_added_to_a_delisted_pair(
    download: tuple[str, ...],
    named: tuple[str, ...],
    command: Any,
    exchange: Exchange,
    tmp_path: Path,
) -> None:
    assert command("import", "FOOUSD.csv", "--delisted", *named, *WHOLE).status == 0
    assert command("refresh").status == 0
    exchange.add(LISTED)
    done = command(*download)
    assert (done.status, CHANGED in done.err) == (4, True)
    assert volumes(tmp_path) == OLD_VOLUMES


@pytest.mark.parametrize("named", [(), ("--pair", "foo/usd")])
def test_a_pair_that_the_exchange_lists_is_not_delisted(
    named: tuple[str, ...], command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    exchange.add(LISTED)
    assert command("import", "FOOUSD.csv", "--delisted", *named, *WHOLE).status == 0
    footer = TradeStore(tmp_path / "data").market_footer("FOOUSD")
    assert footer is not None
    assert footer.key == "FOO2ZUSD"
    assert command("refresh").status == 0
    assert volumes(tmp_path)[len(OLD) :] == [Decimal(trade.volume) for trade in NEW]


def test_a_pair_that_the_exchange_was_not_asked_about_is_not_delisted(
    command: Any, exchange: Exchange, tmp_path: Path
) -> None:
    named = ("--pair", "FOOUSD", "--delisted")
    assert command("import", "FOOUSD.csv", *named, *WHOLE, url=NOBODY).status == 0
    exchange.add(LISTED)
    assert command("refresh").status == 0
    assert volumes(tmp_path)[len(OLD) :] == [Decimal(trade.volume) for trade in NEW]


def test_more_files_of_a_delisted_pair_are_added_to_it(command: Any, tmp_path: Path) -> None:
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "FOOUSD.csv").write_bytes(csv_files.three_columns(OLD[:100]))
    assert command("import", "early", "--delisted").status == 0
    assert command("import", "FOOUSD.csv", "--delisted", *WHOLE).status == 0
    assert volumes(tmp_path) == OLD_VOLUMES
