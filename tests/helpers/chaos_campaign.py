"""Round after round of torture, until so many processes were killed or the time is over."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos_round import Round, Tally
from chaos_trials import play
from process import Disk


@dataclass
class Campaign:
    """How much is to be done, and what came of it.

    Attributes:
        disk: where archives are made, one after the other.
        kills: so many processes are to be killed.
        trades: of each of the two markets of a round.
        minutes: no new trial begins later than that.
        report_line: called with a line at each round's end.
        round: the first round's number; with the seed it decides all that is random, but
            for how fast the machine is.
    """

    disk: Disk
    seed: int
    kills: int
    trades: int
    minutes: float
    report_line: Callable[[str], None]
    round: int = 1
    rounds: int = 0
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0

    @property
    def killed(self) -> int:
        """How many processes died by SIGKILL so far."""
        return self.tally.kills.total()

    def _is_over(self, begun_s: float) -> bool:
        return self.killed >= self.kills or time.monotonic() - begun_s > 60 * self.minutes

    def run(self) -> str:
        """Go all rounds; returns what went wrong and how to come there again, empty for nothing."""
        begun_s = time.monotonic()
        while not self._is_over(begun_s):
            number = self.round + self.rounds
            self.rounds += 1
            if self.rounds > 1:
                empty(self.disk.folder)
            fault = self._go(number, begun_s)
            self.seconds = time.monotonic() - begun_s
            self.report_line(f"round {number}: {self.killed} kills, {self.seconds:.0f} s")
            if fault:
                return f"--seed {self.seed} --round {number}: {fault}"
        return ""

    def _go(self, number: int, begun_s: float) -> str:
        round_ = Round(self.disk, self.seed * 1000 + number, self.trades, self.tally)
        with round_:
            try:
                while not (round_.is_done or self._is_over(begun_s)):
                    play(round_)
                round_.finish()
            except Exception as fault:  # noqa: BLE001 - whatever it was, it is shown with its seed
                return f"trial {round_.trials}: {round_.doing}: {type(fault).__name__}: {fault}"
        return ""


def empty(folder: Path) -> None:
    """Take away all that a folder holds; it may be a mount, which stays."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
