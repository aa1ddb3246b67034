"""Another market under an old name: its key differs, and nothing is mixed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sample_trades
from backfills import Backfill, rows_on_disk
from kraken_market import Clock, Market, expected
from kraken_server import Exchange
from nightly_runs import DAY_NS, FIRST_NS, OPTIONS, Nights, until

import harvester
from harvester import config
from harvester.download.backfill import backfill
from harvester.download.exchange import BackfillRequest, RunOptions
from harvester.errors import ExchangeRefused, MarketChanged
from harvester.events import BackfillResult, CancelToken
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.pair_selection import (
    PairName,
    PairSelection,
    RefreshCandidates,
    known_pairs,
    select_pairs,
    select_refresh_targets,
)
from harvester.schema import NO_ROWS
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import END_OF_TIME, Range
from harvester.verify.integrity import verify


def luna(key: str, seed: int, days: int = 3, **fields: Any) -> Market:
    """A market of some hundred trades a day that goes by the name LUNAUSD, with ids from 1."""
    made = sample_trades.xbtusd_like(400 * days, seed, start_ns=FIRST_NS, gap_s=900, first_id=1)
    kept = [trade for trade in made if trade.true_ns < FIRST_NS + days * DAY_NS]
    names = {"altname": "LUNAUSD", "wsname": "LUNA/USD", "base": "LUNA"} | fields
    return Market(key=key, trades=kept, **names)


OLD, NEW = luna("OLDLUNA", 1), luna("NEWLUNA", 2)
OTHER = luna("XXBTZUSD", 3, altname="XBTUSD", wsname="XBT/USD", base="XXBT")
WARNING = (
    "LUNAUSD: the exchange now uses this name for another market, NEWLUNA, than the archive does, "
    "OLDLUNA"
)
MESSAGE = (
    f"{WARNING}: nothing was added. Keep the old trades where they are, and download the new "
    "market into another folder (--data FOLDER)"
)


def test_made_up_trades_are_never_continued_by_those_of_the_exchange(tmp_path: Path) -> None:
    settings = {"archive.path": str(tmp_path / "copy")}
    with harvester.sample_exchange(100) as made_up:
        archive = harvester.open(settings=settings | made_up.settings)
        archive.backfill("XBT/USD")
    with Exchange([OTHER], clock=Clock(FIRST_NS + DAY_NS)) as exchange:
        online = harvester.open(settings=settings | {"exchange.url": exchange.url})
        with pytest.raises(MarketChanged, match="XXBTZUSD, than the archive does, MADE-UP-XBTUSD"):
            online.refresh()
    assert online.status()[0].trades == 100


@pytest.fixture
def nights(tmp_path: Path) -> Any:
    """An archive that holds LUNAUSD and another pair after one night."""
    clock = Clock(FIRST_NS + DAY_NS)
    with Exchange([OLD, OTHER], clock=clock) as exchange:
        begun = Nights(tmp_path, exchange, clock)
        begun.refresh("LUNAUSD", "XBTUSD")
        assert begun.history("LUNAUSD") == until(OLD, begun.settled_ns)
        yield begun


def relist(nights: Nights, *, old_as: str | None = None) -> None:
    """Let the name mean another market from now on; the old one may be listed under another."""
    nights.exchange.delist("LUNAUSD")
    nights.exchange.add(NEW)
    if old_as is not None:
        nights.exchange.add(replace(OLD, altname=old_as, wsname=f"{old_as[:-3]}/USD"))
    nights.pass_day()


def row_of(report: Any, pair: str) -> Any:
    [row] = [row for row in report["pairs"] if row["pair"] == pair]
    return row


def backfilled(nights: Nights, choice: PairSelection) -> list[BackfillResult]:
    """What a backfill of this choice comes to."""

    async def chosen() -> list[Pair]:
        settings = config.load({"exchange.url": nights.exchange.url}, environment={})
        async with Client(settings.exchange) as client:
            return await select_pairs(client, TradeStore(nights.folder), choice)

    async def run() -> list[BackfillResult]:
        options = OPTIONS | {"exchange.url": nights.exchange.url, "exchange.give_up_s": 0.05}
        settings = config.load(options, environment={})
        requests = [BackfillRequest(pair, Range(0, END_OF_TIME)) for pair in await chosen()]
        async with Client(settings.exchange) as client:
            watch = RunOptions(lambda _event: None, CancelToken())
            return await backfill(client, TradeStore(nights.folder), requests, settings, watch)

    return asyncio.run(run())


def test_a_refresh_stores_nothing_of_another_market_and_is_an_error(nights: Nights) -> None:
    relist(nights)
    held = nights.history("LUNAUSD")
    report = nights.refresh()
    luna_row = row_of(report, "LUNAUSD")
    assert (luna_row["exit_status"], luna_row["error"]) == (4, MESSAGE)
    assert row_of(report, "XBTUSD")["state"] == "complete"
    assert nights.history("LUNAUSD") == held
    assert known_pairs(TradeStore(nights.folder))["LUNAUSD"].key == "OLDLUNA"


def test_a_refresh_of_a_relisted_market_continues_by_its_key(
    nights: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    relist(nights, old_as="LUNCUSD")
    for _ in range(2):
        luna_row = row_of(nights.refresh(), "LUNAUSD")
        assert (luna_row["state"], luna_row["renamed_to"]) == ("complete", "LUNCUSD")
        assert nights.history("LUNAUSD") == until(OLD, nights.settled_ns)
        nights.pass_day()
    assert WARNING in caplog.text
    assert nights.rows().keys() == {"LUNAUSD", "XBTUSD"}


@pytest.mark.parametrize(
    "choice", [PairSelection(all_pairs=True), PairSelection([PairName("*/USD")])], ids=str
)
def test_a_backfill_of_all_that_is_listed_adds_nothing_of_another_market(
    choice: PairSelection, nights: Nights
) -> None:
    relist(nights)
    held = nights.history("LUNAUSD")
    errors = {result.pair: result.error for result in backfilled(nights, choice)}
    assert {pair: str(error) for pair, error in errors.items() if error} == {"LUNAUSD": MESSAGE}
    assert isinstance(errors["LUNAUSD"], MarketChanged)
    assert nights.history("LUNAUSD") == held


def test_another_market_is_refused_before_any_of_its_trades_is_requested(nights: Nights) -> None:
    relist(nights)
    before = nights.exchange.pages("LUNAUSD")
    nights.refresh("LUNAUSD")
    [outcome] = backfilled(nights, PairSelection([PairName("LUNA*")]))
    assert isinstance(outcome.error, MarketChanged)
    assert nights.exchange.pages("LUNAUSD") == before


def test_a_backfill_of_all_pairs_continues_with_the_old_market(nights: Nights) -> None:
    relist(nights, old_as="LUNCUSD")
    outcomes = backfilled(nights, PairSelection(all_pairs=True))
    assert {outcome.pair: outcome.error for outcome in outcomes} == {
        "LUNAUSD": None,
        "XBTUSD": None,
    }
    assert nights.history("LUNAUSD") == until(OLD, nights.settled_ns)


def test_a_backfill_by_the_name_of_another_market_is_an_error(nights: Nights) -> None:
    relist(nights)
    held = nights.history("LUNAUSD")
    [outcome] = backfilled(nights, PairSelection([PairName("LUNA/USD")]))
    assert (type(outcome.error), str(outcome.error)) == (MarketChanged, MESSAGE)
    assert nights.history("LUNAUSD") == held


def test_a_market_without_stored_trades_has_not_changed(nights: Nights) -> None:
    shutil.rmtree(nights.folder / "trades/pair=LUNAUSD")
    relist(nights)
    [outcome] = backfilled(nights, PairSelection([PairName("LUNA/USD")]))
    assert type(outcome.error) is ExchangeRefused
    assert "Unknown asset pair" in str(outcome.error)


def test_a_key_that_the_exchange_takes_for_the_new_market_brings_nothing_of_it(
    tmp_path: Path,
) -> None:
    """The old key was the name itself, as it is with newer pairs."""
    old = luna("LUNAUSD", 1)
    clock = Clock(FIRST_NS + DAY_NS)
    with Exchange([old], clock=clock) as exchange:
        nights = Nights(tmp_path, exchange, clock)
        nights.refresh("LUNAUSD")
        held = nights.history("LUNAUSD")
        relist(nights)
        cut_off = Backfill(exchange.url, tmp_path, {"exchange.give_up_s": 0.05})
        error = cut_off.only("LUNAUSD").error
        assert isinstance(error, MarketChanged)
        assert row_of(nights.refresh(), "LUNAUSD")["exit_status"] == 4
        [outcome] = backfilled(nights, PairSelection([PairName("LUNAUSD")]))
        assert isinstance(outcome.error, MarketChanged)
        assert nights.history("LUNAUSD") == held


def test_a_pair_that_no_list_has_is_stored_with_the_key_of_its_first_answer(tmp_path: Path) -> None:
    """Requested before it was renamed, and nothing of it was stored by then."""
    old = luna("LUNAUSD", 1)
    clock = Clock(FIRST_NS + DAY_NS)
    with Exchange([replace(old, altname="LUNCUSD", wsname="LUNC/USD")], clock=clock) as exchange:
        nights = Nights(tmp_path, exchange, clock)
        with open_writer(TradeStore(tmp_path), "LUNAUSD") as pair_writer:
            pair_writer.record_requested(Range(0, FIRST_NS))
        assert row_of(nights.refresh(), "LUNAUSD")["state"] == "complete"
        held = nights.history("LUNAUSD")
        assert held == until(old, nights.settled_ns)
        exchange.add(NEW)
        nights.pass_day()
        nights.refresh()
        assert nights.history("LUNAUSD")[: len(held)] == held
        assert nights.history("LUNAUSD") == until(old, nights.settled_ns)


def test_the_key_is_read_from_the_files_if_pairs_json_is_missing(nights: Nights) -> None:
    relist(nights)
    held = nights.history("LUNAUSD")
    (nights.folder / "pairs.json").unlink()
    assert known_pairs(TradeStore(nights.folder))["LUNAUSD"] == Pair(
        altname="LUNAUSD",
        key="OLDLUNA",
        wsname="LUNA/USD",
        base="LUNA",
        quote="ZUSD",
        pair_decimals=1,
        cost_decimals=5,
        tick_size="0.1",
        status="online",
    )
    assert row_of(nights.refresh(), "LUNAUSD")["error"] == MESSAGE
    assert nights.history("LUNAUSD") == held


def test_two_markets_that_swapped_names_go_on_each_in_its_folder() -> None:
    first, second = Pair(altname="AUSD", key="1"), Pair(altname="BUSD", key="2")
    listed = {"AUSD": Pair(altname="AUSD", key="2"), "BUSD": Pair(altname="BUSD", key="1")}
    market = RefreshCandidates(listed, {"AUSD": first, "BUSD": second}, ["AUSD", "BUSD"])
    assert [
        (target.pair.altname, target.pair.key, target.renamed_to)
        for target in select_refresh_targets([], market)
    ] == [
        ("AUSD", "1", "BUSD"),
        ("BUSD", "2", "AUSD"),
    ]


# --- the files -----------------------------------------------------------------------------------


def spelled(key: str) -> str:
    return msgspec.json.encode(Pair(altname="LUNAUSD", key=key)).decode()


def mixed(folder: Path, *keys: str) -> TradeStore:
    """An archive of one empty segment a key, as an older harvester left them."""
    archive = TradeStore(folder)
    for place, key in enumerate(keys):
        span = Range(FIRST_NS + place * 10, FIRST_NS + place * 10 + 10)
        with open_writer(archive, "LUNAUSD") as pair_writer:
            # Each in an archive of its own, as no writer puts them together any more.
            alone = TradeStore(folder / f"alone{place}")
            with open_writer(alone, "LUNAUSD") as other:
                [made] = other.commit(span, NO_ROWS, Footer(span, spelled(key)))
            pair_writer.record_requested(span)
            target = folder / made.path
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / f"alone{place}" / made.path).rename(target)
    return archive


def keys_on_disk(archive: TradeStore) -> list[tuple[int, str]]:
    """The length and the key of each segment."""
    return [
        (
            segment.range.through - segment.range.after,
            msgspec.json.decode(archive.footer(segment).pair_json)["key"],
        )
        for segment in archive.segments("LUNAUSD")
    ]


def test_a_writer_refuses_the_trades_of_another_market(tmp_path: Path) -> None:
    archive = mixed(tmp_path, "OLDLUNA")
    span = Range(FIRST_NS + 10, FIRST_NS + 20)
    with open_writer(archive, "LUNAUSD") as pair_writer, pytest.raises(MarketChanged) as caught:
        pair_writer.commit(span, NO_ROWS, Footer(span, spelled("NEWLUNA")))
    assert str(caught.value) == MESSAGE
    assert len(archive.segments("LUNAUSD")) == 1


def test_verify_reports_files_of_two_markets_in_one_folder(tmp_path: Path) -> None:
    archive = mixed(tmp_path, "OLDLUNA", "OLDLUNA", "NEWLUNA", "OLDLUNA")
    report = verify(archive, "LUNAUSD")
    [third] = [archive.segments("LUNAUSD")[2]]
    assert [(fault.path, fault.text) for fault in report.faults] == [
        (third.path, "its trades are of the market NEWLUNA, the trades before them of OLDLUNA")
    ]


def test_files_without_a_key_are_no_fault(tmp_path: Path) -> None:
    archive = mixed(tmp_path, "OLDLUNA")
    span = Range(FIRST_NS + 10, FIRST_NS + 20)
    nameless = msgspec.json.encode(Pair(altname="LUNAUSD")).decode()
    with open_writer(archive, "LUNAUSD") as pair_writer:
        pair_writer.commit(span, NO_ROWS, Footer(span, nameless))
        assert verify(archive, "LUNAUSD").faults == []
        pair_writer.compact(merge_all=True)
    assert keys_on_disk(archive) == [(20, "OLDLUNA")]


def test_a_compaction_merges_no_two_markets(tmp_path: Path) -> None:
    archive = mixed(tmp_path, "OLDLUNA", "OLDLUNA", "NEWLUNA", "NEWLUNA", "NEWLUNA")
    with open_writer(archive, "LUNAUSD") as pair_writer:
        assert pair_writer.compact(merge_all=True) == (5, 2)
    assert keys_on_disk(archive) == [(20, "OLDLUNA"), (30, "NEWLUNA")]


def test_a_stream_of_another_market_leaves_the_archive_as_it_was(tmp_path: Path) -> None:
    archive = mixed(tmp_path, "OLDLUNA")
    span = Range(FIRST_NS + 10, FIRST_NS + 20)
    with open_writer(archive, "LUNAUSD") as pair_writer, pytest.raises(MarketChanged):
        pair_writer.commit_stream(iter([]), lambda: Footer(span, spelled("NEWLUNA"), source="csv"))
    assert len(archive.segments("LUNAUSD")) == 1


def test_a_pair_that_is_held_without_a_key_takes_that_of_the_exchange(tmp_path: Path) -> None:
    archive = mixed(tmp_path, "")
    with open_writer(archive, "LUNAUSD") as pair_writer:
        pair_writer.check_market("NEWLUNA")
        span = Range(FIRST_NS + 10, FIRST_NS + 20)
        pair_writer.commit(span, NO_ROWS, Footer(span, spelled("NEWLUNA")))
    footer = archive.market_footer("LUNAUSD")
    assert footer is not None
    assert footer.key == "NEWLUNA"


# --- a renamed market: another name, the same key -------------------------------------------------


BEFORE_NS, AFTER_NS = FIRST_NS + DAY_NS, FIRST_NS + 5 * DAY_NS
RENAMED = {"altname": "LUNCUSD", "wsname": "LUNC/USD"}


@pytest.fixture
def renamed_market(tmp_path: Path) -> Iterator[tuple[Market, Exchange, harvester.Archive]]:
    """A market with a day of trades in an archive, which is renamed; four days later."""
    market, clock = luna("OLDLUNA", 1, days=4), Clock(BEFORE_NS)
    with Exchange([market, OTHER], clock=clock) as exchange:
        settings = {"archive.path": str(tmp_path / "data"), "exchange.url": exchange.url}
        archive = harvester.open(settings=settings | {"exchange.rate": 0})
        archive.backfill("LUNA/USD")
        exchange.change("LUNAUSD", **RENAMED)
        clock.now_ns = AFTER_NS
        yield market, exchange, archive


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("name", ["LUNC/USD", "luncusd"])
def test_a_backfill_by_its_new_name_continues_its_history(
    name: str,
    is_known: bool,
    renamed_market: tuple[Market, Exchange, harvester.Archive],
) -> None:
    market, _, archive = renamed_market
    if is_known:
        archive.pairs(update=True)
    archive.backfill(name, since="2024-12-15")
    assert archive.stored_pairs() == ["LUNAUSD"]
    archive.backfill(name)
    assert rows_on_disk(Path(archive.path), "LUNAUSD") == expected(market)
    assert archive.trades(name).fetchall() == archive.trades("LUNAUSD").fetchall()


@pytest.mark.parametrize("options", [{}, {"pairs": ["LUNC/USD"]}, {"pair": "LUNC/USD"}])
def test_a_file_of_its_new_name_continues_its_history(
    options: dict[str, Any],
    renamed_market: tuple[Market, Exchange, harvester.Archive],
    tmp_path: Path,
) -> None:
    market, _, archive = renamed_market
    archive.pairs(update=True)
    lines = [
        f"{trade.true_ns // 10**9},{trade.price},{trade.volume}\n" for trade in market.trades[200:]
    ]
    file = tmp_path / "LUNCUSD.csv"
    file.write_text("".join(lines))
    archive.import_csv(file, **options)
    assert archive.stored_pairs() == ["LUNAUSD"]
    archive.refresh()
    [status] = archive.status()
    assert (status.pair, status.trades, status.gaps) == ("LUNAUSD", len(market.trades), [])
