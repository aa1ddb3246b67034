"""Thirty nights of one archive: missed, killed, refused, and at the end the exchange's trades."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from backfills import foreign_files
from crash_points import Plan
from kraken_market import Clock
from kraken_server import Exchange
from nightly_runs import DAY_NS, FIRST_NS, Nights, daily, move_ahead, states, until
from process import ended, wait_for

from harvester.events import BackfillResult, Event
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.verify.integrity import verify

C, COMPLETE = "complete", {"XBTUSD": "complete", "ETHEUR": "complete"}
XDG, SOL = {"XDGUSD": C}, {"SOLEUR": C}
GONE = {"XDGUSD": "delisted"}


class Night(NamedTuple):
    """What a night came to: the exit status, and the state of each pair as the JSON says."""

    status: int
    states: dict[str, str]


class Month:
    """The thirty nights, and what becomes of them; nights that are not named are plain ones."""

    def __init__(self, nights: Nights) -> None:
        self.nights = nights
        self.exchange = nights.exchange
        self.reports: list[tuple[int, Any]] = []

    def plain(self) -> Night:
        report = self.nights.refresh()
        return self._seen(report)

    def _seen(self, report: Any) -> Night:
        self.reports.append((len(self.reports), report))
        return Night(report["exit_status"], states(report))

    def missed(self) -> Night:
        return Night(0, {})

    def killed(self) -> Night:
        """The real command, ended by force in the middle of its commits."""
        done = self.nights.command("--json", plan=Plan("rename", "before", 2, "commit"))
        assert done.died_at == "rename before commit"
        assert done.out == ""
        return Night(done.status, {})

    def killed_after_the_last_commit(self) -> Night:
        """The real command, ended by force while it makes roll-ups."""
        done = self.nights.command("--json", plan=Plan("rename", "after", 1, "store_rollup"))
        assert done.died_at == "rename after store_rollup"
        return Night(done.status, {})

    def maintenance(self) -> Night:
        self.exchange.status = "maintenance"
        pages = self.exchange.pages()
        night = self.plain()
        self.exchange.status = "online"
        assert self.exchange.pages() == pages
        return night

    def refusals(self) -> Night:
        """The exchange refuses now and then, and answers nonsense: the night is complete."""
        self.exchange.faults.push("rate_limit", "http:502", None, "cut", "busy", pair="XBTUSD")
        night = self.plain()
        xbt, eth, *_ = self.reports[-1][1]["pairs"]
        assert (xbt["refusals"], eth["refusals"]) == (4, 0)
        assert self.exchange.faults.by_pair["XBTUSD"].__len__() == 0
        return night

    def nothing_but_refusals(self) -> Night:
        """One pair is refused all night long; the others are not kept from anything."""
        self.exchange.faults.push(*["unavailable"] * 1000, pair="ETHEUR")
        night = self._seen(self.nights.refresh(exchange__give_up_s=0.3))
        self.exchange.faults.by_pair.clear()
        return night

    def new_in_config(self) -> Night:
        self.nights.pairs = ["XBT/USD", "ETHEUR", "DOGE/USD", "SOL/EUR"]
        return self.plain()

    def delisted(self) -> Night:
        self.exchange.delist("XDGUSD")
        return self.plain()

    def renamed(self) -> Night:
        self.exchange.change("ETHEUR", altname="ETH2EUR", wsname="ETH2/EUR")
        night = self.plain()
        assert [outcome["renamed_to"] for outcome in self.reports[-1][1]["pairs"]] == [
            None,
            "ETH2EUR",
            None,
            None,
        ]
        return night

    def two_at_once(self) -> Night:
        """A second run meets the first, a process of its own that waits for the exchange."""
        self.exchange.faults.push("hang:60", pair="XBTUSD")
        process = self.nights.machine.fork(["refresh", "--json"])
        wait_for(lambda: self.exchange.faults.done["hang"] > 0)
        second = self.nights.refresh()
        # Its connection cut, the first asks again.
        self.exchange.stop()
        self.exchange.start()
        first = ended(process)
        assert (second["exit_status"], second["pairs"]) == (5, [])
        assert second["error"].startswith(
            f"the archive at {self.nights.folder} is being refreshed by another run "
            f"(process {process.pid} on "
        )
        assert second["error"].endswith("): wait until it is done, or stop it")
        report = json.loads(first.out)
        assert report["exit_status"] == first.status
        return self._seen(report)

    def beside_a_backfill(self) -> Night:
        """Another run writes one pair: it is left alone."""
        with open_writer(TradeStore(self.nights.folder), "SOLEUR"):
            return self.plain()

    def out_of_time(self) -> Night:
        """One pair hangs until the time is up, while the others are done."""
        self.exchange.faults.push(None, "hang:60", pair="XBTUSD")
        left = {"ETHEUR", "XDGUSD", "SOLEUR"}

        def listen(event: Event) -> None:
            if isinstance(event, BackfillResult):
                left.discard(event.pair)
                if not left:
                    move_ahead(3600)

        night = self._seen(self.nights.refresh(max_s=3600, listener=listen))
        self.exchange.faults.by_pair.clear()
        return night

    def in_the_dark(self) -> Night:
        """Nobody answers."""
        self.exchange.stop()
        night = self._seen(self.nights.refresh(exchange__give_up_s=0.1))
        self.exchange.start()
        return night


PLAIN = (Month.plain, 0, COMPLETE | XDG)
LATER = (Month.plain, 0, COMPLETE | XDG | SOL)
LAST = (Month.plain, 0, COMPLETE | GONE | SOL)
ALL = COMPLETE | GONE | SOL
THIRTY: list[tuple[Callable[[Month], Night], int, dict[str, str]]] = [
    PLAIN,
    PLAIN,
    (Month.missed, 0, {}),
    PLAIN,
    (Month.killed, -signal.SIGKILL, {}),
    PLAIN,
    (Month.maintenance, 3, dict.fromkeys(COMPLETE | XDG, "maintenance")),
    PLAIN,
    (Month.refusals, 0, COMPLETE | XDG),
    (Month.nothing_but_refusals, 3, COMPLETE | XDG | {"ETHEUR": "failed"}),
    (Month.killed, -signal.SIGKILL, {}),
    (Month.new_in_config, 0, COMPLETE | XDG | SOL),
    LATER,
    (Month.killed_after_the_last_commit, -signal.SIGKILL, {}),
    (Month.missed, 0, {}),
    LATER,
    (Month.two_at_once, 0, COMPLETE | XDG | SOL),
    LATER,
    (Month.out_of_time, 0, COMPLETE | XDG | SOL | {"XBTUSD": "unfinished"}),
    LATER,
    (Month.delisted, 0, ALL),
    LAST,
    (Month.beside_a_backfill, 5, ALL | {"SOLEUR": "locked"}),
    (Month.renamed, 0, ALL),
    LAST,
    (Month.in_the_dark, 3, dict.fromkeys(ALL, "failed")),
    LAST,
    (Month.maintenance, 3, dict.fromkeys(ALL, "maintenance")),
    (Month.missed, 0, {}),
    LAST,
]


def test_after_thirty_nights_of_all_kinds_the_archive_equals_the_exchange(tmp_path: Path) -> None:
    markets = [
        daily("XBTUSD", 200, 36),
        daily("ETHEUR", 60, 36, 2),
        daily("XDGUSD", 10, 36, 3),
        daily("SOLEUR", 30, 36, 4),
    ]
    clock = Clock(FIRST_NS + 5 * DAY_NS + 10**9)
    assert len(THIRTY) == 30
    with Exchange(markets, clock=clock, page_size=100) as exchange:
        nights = Nights(tmp_path / "data", exchange, clock)
        nights.pairs = ["XBT/USD", "ETHEUR", "DOGE/USD"]
        month = Month(nights)
        delisted_ns = 0
        for number, (night, status, states_) in enumerate(THIRTY, 1):
            before, reported = nights.rows(), len(month.reports)
            if night is Month.delisted:
                delisted_ns = nights.settled_ns - DAY_NS
            assert (number, night(month)) == (number, Night(status, states_))
            if len(month.reports) > reported:
                rows = nights.rows()
                assert {
                    outcome["pair"]: outcome["trades_added"]
                    for outcome in month.reports[-1][1]["pairs"]
                } == {name: rows.get(name, 0) - before.get(name, 0) for name in states_}
            clock.now_ns += DAY_NS
        clock.now_ns -= DAY_NS
    ends = dict.fromkeys(("XBTUSD", "ETHEUR", "SOLEUR"), nights.settled_ns)
    ends["XDGUSD"] = delisted_ns
    archive = TradeStore(nights.folder)
    for market in markets:
        name = market.altname
        assert nights.history(name) == until(market, ends[name]), name
        report = verify(archive, name)
        assert (report.faults, report.notes) == ([], []), name
        assert report.rollups == 2 * nights.files(name)
        assert [span.through for span in archive.coverage(name)] == [ends[name]]
        assert archive.gaps(name) == []
        assert nights.files(name) <= 6
    assert foreign_files(nights.folder) == []
    assert archive.stored_pairs() == sorted(ends)


def test_over_the_nights_of_two_years_files_stay_few(tmp_path: Path) -> None:
    """What the plan is for nights of 30,000 trades is tried in test_compaction."""
    market = daily("XBTUSD", 20, 42)
    clock = Clock(FIRST_NS + DAY_NS)
    files = []
    with Exchange([market], clock=clock) as exchange:
        nights = Nights(tmp_path / "data", exchange, clock)
        nights.pairs = ["XBTUSD"]
        for _ in range(25):
            assert nights.refresh(candles__rollups=[])["exit_status"] == 0
            files.append(nights.files("XBTUSD"))
            clock.now_ns += DAY_NS
        clock.now_ns -= DAY_NS
    assert nights.history("XBTUSD") == until(market, nights.settled_ns)
    assert set(files) == {1, 2}
