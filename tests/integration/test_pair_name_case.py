"""Pairs whose names differ only by case: two markets in every lookup, and never in one folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import filelock
import msgspec
import pytest
import sample_trades
from backfills import Backfill, rows_on_disk, serve
from kraken_market import Market, expected
from kraken_server import Exchange

import harvester
from harvester import config
from harvester.csv_import.pair_matching import ImportRequest, match_files
from harvester.errors import AmbiguousPair, ArchiveUnwritable, NothingStored
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair, altnames_by_spelling
from harvester.pair_selection import (
    PairName,
    PairSelection,
    RefreshCandidates,
    altname_of_known_pair,
    known_pairs,
    resolve_stored,
    select_pairs,
    select_refresh_targets,
)
from harvester.query.views import write_database
from harvester.server.kraken_endpoints import ApiResponder
from harvester.storage import locks_and_requests
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range

TOKEN = Market(
    "AAPLxUSD", "AAPLxUSD", "AAPLx/USD", "AAPLx", trades=sample_trades.xbtusd_like(30, 1)
)
COIN = Market(
    "AAPLXUSD", "XAAPLXZUSD", "AAPLX/USD", "AAPLX", trades=sample_trades.xbtusd_like(50, 2)
)
ROWS = {"AAPLxUSD": 30, "AAPLXUSD": 50}
BOTH = "'aaplxusd' may mean AAPLXUSD and AAPLxUSD, which differ by case: give the exact spelling"


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with serve(TOKEN, COIN) as server:
        yield server


@pytest.fixture(scope="module")
def folder(exchange: Exchange, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that holds both."""
    path = tmp_path_factory.mktemp("both")
    pairs = named(exchange, path, "AAPLxUSD", "AAPLXUSD")
    assert pairs == ["AAPLxUSD", "AAPLXUSD"]
    outcomes = Backfill(exchange.url, path).run(*pairs)
    assert [outcome.error for outcome in outcomes] == [None, None]
    return path


@pytest.fixture(scope="module")
def token_only(exchange: Exchange, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that holds one of them, and knows the other one by name."""
    path = tmp_path_factory.mktemp("one")
    Backfill(exchange.url, path).run(*named(exchange, path, "AAPLxUSD"))
    assert known_pairs(TradeStore(path)).keys() == ROWS.keys()
    return path


def named(exchange: Exchange, folder: Path, *texts: str) -> list[str]:
    """The pairs that a backfill of these names is for."""

    async def ask() -> list[Pair]:
        settings = config.load({"exchange.url": exchange.url}, environment={})
        async with Client(settings.exchange) as client:
            return await select_pairs(
                client, TradeStore(folder), PairSelection([PairName(text) for text in texts])
            )

    return [pair.altname for pair in asyncio.run(ask())]


def test_both_are_downloaded_side_by_side(folder: Path) -> None:
    assert rows_on_disk(folder, "AAPLxUSD") == expected(TOKEN)
    assert rows_on_disk(folder, "AAPLXUSD") == expected(COIN)


def test_a_backfill_of_neither_spelling_names_both(exchange: Exchange, tmp_path: Path) -> None:
    with pytest.raises(AmbiguousPair) as caught:
        named(exchange, tmp_path, "aaplxusd")
    assert str(caught.value) == BOTH


@pytest.mark.parametrize("find_pair", [resolve_stored, altname_of_known_pair])
def test_what_is_held_is_looked_up_by_the_exact_spelling(find_pair: Any, folder: Path) -> None:
    found = [find_pair(TradeStore(folder), name) for name in ("AAPLxUSD", "AAPLXUSD")]
    assert [getattr(pair, "altname", pair) for pair in found] == ["AAPLxUSD", "AAPLXUSD"]
    with pytest.raises(AmbiguousPair) as caught:
        find_pair(TradeStore(folder), "aaplxusd")
    assert str(caught.value) == BOTH


@pytest.mark.parametrize("find_pair", [resolve_stored, altname_of_known_pair])
def test_the_exact_spelling_of_a_pair_that_is_not_held_means_no_other(
    find_pair: Any, token_only: Path
) -> None:
    with pytest.raises(NothingStored, match="holds no trades of 'AAPLXUSD'; it holds AAPLxUSD"):
        find_pair(TradeStore(token_only), "AAPLXUSD")


def test_what_was_only_requested_is_looked_up_by_the_exact_spelling(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)
    for name in ROWS:
        with open_writer(archive, name) as pair_writer:
            pair_writer.record_requested(Range(0, 10))
    assert [altname_of_known_pair(archive, name) for name in ROWS] == list(ROWS)
    with pytest.raises(AmbiguousPair) as caught:
        altname_of_known_pair(archive, "aaplxusd")
    assert str(caught.value) == BOTH


@pytest.mark.parametrize("stored", [[], ["AAPLXUSD"], ["AAPLXUSD", "AAPLxUSD", "XBTUSD"]], ids=len)
def test_a_refresh_of_neither_spelling_names_both_and_refreshes_the_others(
    stored: list[str],
) -> None:
    pairs = {name: Pair(altname=name, key=name) for name in (*ROWS, "XBTUSD")}
    names = ["aaplxusd", "xbtusd", "AAPLxUSD"]
    found = select_refresh_targets(names, RefreshCandidates(pairs, pairs, stored))
    assert [(outcome.pair.altname, outcome.error and str(outcome.error)) for outcome in found] == [
        ("aaplxusd", BOTH),
        ("XBTUSD", None),
        ("AAPLxUSD", None),
    ]


# --- SQL -----------------------------------------------------------------------------------------


def live(path: Path, _: Path) -> duckdb.DuckDBPyConnection:
    """The connection of a program."""
    return harvester.open(path).connect()


def kept(path: Path, folder: Path) -> duckdb.DuckDBPyConnection:
    """The database file as somebody without harvester opens it."""
    archive = TradeStore(path)
    names = altnames_by_spelling(known_pairs(archive).values(), archive.stored_pairs())
    write_database(archive, str(folder / "kept.db"), names=names)
    return duckdb.connect(str(folder / "kept.db"), read_only=True)


OPENED = pytest.mark.parametrize("opened", [live, kept])


def counted(connection: duckdb.DuckDBPyConnection, name: str) -> tuple[int, int]:
    """How many trades the two macros find of a name."""
    query = "SELECT (SELECT count(*) FROM tape($1)), (SELECT sum(count) FROM ohlc($1, '1h'))"
    [(trades, traded)] = connection.execute(query, [name]).fetchall()
    return trades, int(traded or 0)


@OPENED
@pytest.mark.parametrize(
    ("text", "altname"),
    [
        ("AAPLxUSD", "AAPLxUSD"),
        ("AAPLx/USD", "AAPLxUSD"),
        ("AAPLx-USD", "AAPLxUSD"),
        ("AAPLXUSD", "AAPLXUSD"),
        (" AAPLX/USD ", "AAPLXUSD"),
        ("xaaplxzusd", "AAPLXUSD"),
    ],
)
def test_the_macros_take_the_exact_spelling_first(
    opened: Any, text: str, altname: str, folder: Path, tmp_path: Path
) -> None:
    assert counted(opened(folder, tmp_path), text) == (ROWS[altname], ROWS[altname])


@OPENED
def test_the_macros_guess_nothing(opened: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(duckdb.Error) as caught:
        counted(opened(folder, tmp_path), "aaplxusd")
    assert BOTH in str(caught.value)


def test_the_macros_take_no_pair_for_another_that_is_not_held(
    token_only: Path, tmp_path: Path
) -> None:
    with pytest.raises(duckdb.Error, match="holds no trades of 'AAPLXUSD'; it holds AAPLxUSD"):
        counted(live(token_only, tmp_path), "AAPLXUSD")
    assert counted(kept(token_only, tmp_path), "AAPLXUSD") == (0, 0)


def test_a_connection_without_names_takes_altnames_in_their_exact_spelling(folder: Path) -> None:
    from harvester.query.sql import connect_views

    with connect_views(TradeStore(folder)) as connection:
        assert [counted(connection, name)[0] for name in ROWS] == [30, 50]
        with pytest.raises(duckdb.Error, match="'aaplxusd' may mean AAPLXUSD and AAPLxUSD"):
            counted(connection, "aaplxusd")


# --- the API server ------------------------------------------------------------------------------


def test_the_server_answers_about_the_pair_of_the_exact_spelling(folder: Path) -> None:
    answers = ApiResponder(TradeStore(folder))
    for name, key in (("AAPLxUSD", "AAPLxUSD"), ("AAPLXUSD", "XAAPLXZUSD")):
        result = json.loads(answers.trades({"pair": name, "since": "0"}))["result"]
        assert len(result[key]) == ROWS[name]
    with pytest.raises(AmbiguousPair):
        answers.trades({"pair": "aaplxusd", "since": "0"})


# --- files ---------------------------------------------------------------------------------------


def test_files_of_a_pair_are_chosen_by_the_exact_spelling(tmp_path: Path) -> None:
    for name in ROWS:
        (tmp_path / f"{name}.csv").write_text("1700000000,1.0,1.0\n")
    listed = {name: Pair(altname=name) for name in ROWS}

    def stems(text: str) -> list[str]:
        request = ImportRequest([str(tmp_path)], pairs=[text])
        picked = match_files(request, TradeStore(tmp_path / "data"), lambda: listed)
        return [member.stem for files in picked.pairs for member in files.members]

    assert [stems(name) for name in ROWS] == [["AAPLxUSD"], ["AAPLXUSD"]]
    assert sorted(stems("aapl*")) == ["AAPLXUSD", "AAPLxUSD"]
    with pytest.raises(AmbiguousPair, match="'aaplxusd' may mean AAPLXUSD and AAPLxUSD"):
        stems("aaplxusd")


# --- a disk that ignores case --------------------------------------------------------------------


def test_a_file_system_that_ignores_case_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pair=XBTUSD").mkdir()
    assert not locks_and_requests.ignores_case(tmp_path / "pair=XBTUSD")
    monkeypatch.setattr(
        Path, "samefile", lambda path, other: path.name.lower() == other.name.lower()
    )
    assert locks_and_requests.ignores_case(tmp_path / "pair=XBTUSD")


@pytest.mark.parametrize(
    "there", ["trades/pair=AAPLxUSD", "wanted/AAPLxUSD.json", "locks/AAPLxUSD.lock"]
)
def test_on_a_disk_that_ignores_case_the_second_pair_is_refused(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / there).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(locks_and_requests, "ignores_case", lambda _path: True)
    with (
        pytest.raises(ArchiveUnwritable) as caught,
        open_writer(TradeStore(tmp_path), "AAPLXUSD"),
    ):
        pass
    assert sorted(tmp_path.rglob("*")) == before
    assert str(caught.value) == (
        f"AAPLXUSD can't be stored next to AAPLxUSD in {tmp_path}: the disk ignores case, so both "
        "would share one folder. Choose another folder for one of them"
    )


def test_on_a_disk_that_ignores_case_a_pair_that_another_run_just_wrote_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks_and_requests, "ignores_case", lambda _path: True)
    acquire = filelock.FileLock.acquire

    def acquire_late(self: filelock.FileLock, *args: Any, **options: Any) -> Any:
        (tmp_path / "trades/pair=AAPLxUSD").mkdir(parents=True)
        return acquire(self, *args, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire_late)
    with (
        pytest.raises(ArchiveUnwritable, match="can't be stored next to AAPLxUSD"),
        open_writer(TradeStore(tmp_path), "AAPLXUSD"),
    ):
        pass


def test_on_a_disk_that_ignores_case_a_pair_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trades/pair=AAPLxUSD").mkdir(parents=True)
    monkeypatch.setattr(locks_and_requests, "ignores_case", lambda _path: True)
    with open_writer(TradeStore(tmp_path), "AAPLxUSD") as pair_writer:
        assert pair_writer.pair == "AAPLxUSD"


def test_a_pair_that_is_refused_there_stops_no_other(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks_and_requests, "ignores_case", lambda _path: True)
    backfill = Backfill(exchange.url, tmp_path)
    assert backfill.only("AAPLxUSD").error is None
    assert isinstance(backfill.only("AAPLXUSD").error, ArchiveUnwritable)
    assert sorted(path.name for path in (tmp_path / "trades").iterdir()) == ["pair=AAPLxUSD"]
    assert msgspec.json.decode((tmp_path / "wanted/AAPLxUSD.json").read_bytes())["pair"] == (
        "AAPLxUSD"
    )
