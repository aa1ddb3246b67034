"""What is done to a harvester at work: kills at any moment, bad machines, two runs at once."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from chaos_round import COMMANDS, COUNT, GAPS, LATENCY_S, SETTLE_S, Command, Round
from kraken_faults import Faults
from kraken_market import SECOND_NS
from ledger import Loss, staged, uncovered
from process import DENIED, MOUNTED_READ_ONLY, POLL_S, Ended, ended, hunt


class Trial(NamedTuple):
    """One thing to be done, and how often it is chosen."""

    name: str
    do: Callable[[Round], None]
    weight: int


def killed_at_any_moment(round_: Round) -> None:
    """SIGKILL after a random time, mostly once the exchange was asked."""
    command = round_.command()
    delay_s = round_.random.uniform(0, 0.25)
    round_.doing = f"{command.words!r}, killed {delay_s:.3f} s after its first call"
    asks = command.words.startswith("backfill")
    if not asks or round_.random.random() < 0.1:
        delay_s = round_.random.uniform(0, 0.8)
        round_.doing = f"{command.words!r}, killed {delay_s:.3f} s after its start"
        asks = False
    fuse = Fuse(round_, delay_s, at_start=not asks)
    process = round_.victims.fork(command.words.split())
    round_.booked("at a random moment", command, hunt(process, fuse.is_burnt))


class Fuse:
    """Burns for some seconds from the start of a process, or from its first call, and looks on."""

    def __init__(self, round_: Round, delay_s: float, *, at_start: bool = False) -> None:
        """Light it when the process starts."""
        self._round = round_
        self._delay_s = delay_s
        self._calls = len(round_.exchange.calls)
        self._lit_s = time.monotonic() if at_start else None

    def is_burnt(self) -> bool:
        """Whether the time is over."""
        self._round.glance()
        if self._lit_s is None and len(self._round.exchange.calls) > self._calls:
            self._lit_s = time.monotonic()
        return self._lit_s is not None and time.monotonic() - self._lit_s >= self._delay_s


def killed_when_a_file_is_staged(round_: Round) -> None:
    """SIGKILL as soon as a file is seen in staging, or the third, and a little later."""
    command, nth = round_.command(), round_.random.choice((1, 1, 2, 3, 6))
    delay_s = round_.random.choice((0, 0, 0.001, 0.004))
    round_.doing = f"{command.words!r}, killed {delay_s:.3f} s after file {nth} was staged"
    process = round_.victims.fork(command.words.split())
    seen: set[str] = set()

    def due() -> bool:
        round_.glance()
        found = {
            str(path) for path in staged(round_.disk.folder) if path.parent.name in round_.pairs
        }
        seen.update(found)
        if found and len(seen) >= nth:
            time.sleep(delay_s)
            return True
        return False

    round_.booked("as a file was staged", command, hunt(process, due))


def killed_just_after_a_rename(round_: Round) -> None:
    """SIGKILL as soon as something new is seen to be covered."""
    command, nth = round_.command(), round_.random.choice((1, 1, 2, 4))
    round_.doing = f"{command.words!r}, killed as commit {nth} was seen"
    process = round_.victims.fork(command.words.split())
    new: list[bool] = []

    def due() -> bool:
        if round_.glance():
            new.append(True)
        return len(new) >= nth

    round_.booked("just after a rename", command, hunt(process, due))


def killed_at_a_counted_step(round_: Round) -> None:
    """SIGKILL from within, before or after the n-th step of a kind; late, if there is none."""
    command, plan = round_.command(), round_.shifted(round_.aim())
    round_.doing = f"{command.words!r} under {plan}"
    fuse = Fuse(round_, round_.random.uniform(0.2, 0.6))
    process = round_.victims.fork(command.words.split(), plan)
    end = hunt(process, fuse.is_burnt)
    # Where the step never came, the fuse burnt down at a moment as random as any.
    round_.booked("at a step" if end.died_at else "at a random moment", command, end)


def two_at_once(round_: Round) -> None:
    """A second run ends with status 5 and harms nothing; the first is then killed, or ends."""
    first = Command(f"backfill {' '.join(round_.pairs)} -q", 0, (0, 3))
    held = any(ledger.committed for ledger in round_.ledgers)
    words = round_.random.choice((first.words, "compact -q" if held else first.words))
    round_.doing = f"{words!r} while {first.words!r} runs"
    round_.exchange.faults, round_.exchange.latency_s = Faults(), 0.3
    process = round_.victims.fork(first.words.split())
    try:
        while process.poll() is None and not _holds_all(round_, process.pid):
            time.sleep(POLL_S)
        second = round_.victims.run(words.split())
        if process.poll() is None and _holds_all(round_, process.pid):
            _refused(round_, words, second)
        round_.exchange.latency_s = LATENCY_S
        if round_.random.random() < 0.5:
            process.kill()
        # Refusals at random, however slowly it asks, would make the run longer than its limit.
        end = ended(process)
    finally:
        round_.exchange.faults, round_.exchange.latency_s = round_.faults, LATENCY_S
    round_.booked("with a second run beside it", first, end)


def _holds_all(round_: Round, pid: int) -> bool:
    """Whether a process holds the locks of all pairs, as the notes beside them say."""
    try:
        notes = [
            (round_.disk.folder / "locks" / f"{pair}.json").read_bytes() for pair in round_.pairs
        ]
        return all(json.loads(note)["pid"] == pid for note in notes)
    except (FileNotFoundError, ValueError):
        return False


def _refused(round_: Round, words: str, second: Ended) -> None:
    round_.tally.statuses[second.status] += 1
    if second.status != 5 or "is being written by another run (process " not in second.err:
        raise Loss(f"{words!r} beside a run: status {second.status}, {second.err!r}")
    round_.tally.trials["a second run refused with status 5"] += 1


def read_only(round_: Round) -> None:
    """A folder that can't be written: status 1, one line, and nothing changed."""
    if round_.disk.why_never_read_only:
        round_.tally.skipped.add(f"a read-only folder: {round_.disk.why_never_read_only}")
        return
    words = f"backfill {round_.pairs[0]} -q"
    round_.doing = f"{words!r} on a read-only folder"
    round_.exchange.faults = Faults()
    with round_.disk.read_only() as wrapped:
        end = round_.victims.run(words.split(), wrapped=wrapped)
    round_.exchange.faults = round_.faults
    _said_in_one_line(round_, end, MOUNTED_READ_ONLY if wrapped else DENIED)
    round_.tally.trials["a read-only folder"] += 1
    round_.check()


def disk_full(round_: Round) -> None:
    """No room: status 1 and one line; the next run, with room, goes on."""
    pair = round_.random.choice(round_.pairs)
    words = f"backfill {pair} -q"
    spare = round_.random.choice((0, 1, 2, 4, 6)) * 4096 if round_.disk.is_mount else 2000
    round_.doing = f"{words!r} with {spare} bytes of room"
    round_.exchange.faults = Faults()
    try:
        with round_.disk.full(spare) as (plan, reason):
            end = round_.victims.run(words.split(), plan)
    finally:
        round_.exchange.faults = round_.faults
    if end.status == 0 or (end.status == GAPS and COUNT in end.err):
        round_.tally.trials["a full disk that had room enough"] += 1
    elif end.status == 3 and not round_.has_traded(pair):
        round_.tally.trials["a full disk and a market without trades yet"] += 1
    elif end.status == 3 and NOTHING_LATER in end.err:
        round_.tally.trials["a full disk and a clock that moved back"] += 1
    else:
        _said_in_one_line(round_, end, reason)
        round_.tally.trials["a full disk"] += 1
    round_.check()
    again = round_.victims.run(words.split())
    round_.judge(Command(words, 0, (0, 3)), again)
    round_.check()


NOTHING_LATER = "by that clock nothing later can be downloaded"
"""Said where the exchange's clock has moved back, and what is covered then ends in its future."""
NOTES = (
    # The exchange's clock moves as well, and what is covered then lies in its future.
    "which by the exchange's clock is still to come",
    # Ids that skip somewhere in a file's range, which is longer than a page.
    "the imported file lacks trades, or the exchange skipped ids",
    # Of a market whose ids skip again and again, where the place is longer than is asked again.
    "and the exchange did not show both sides again",
    "it has many id gaps, and requesting them again finds nothing",
)


def _said_in_one_line(round_: Round, end: Ended, reason: str) -> None:
    round_.tally.statuses[end.status] += 1
    lines = [line for line in end.err.splitlines() if not any(note in line for note in NOTES)]
    if end.status != 1 or len(lines) != 1 or "can't write" not in end.err or reason not in end.err:
        raise Loss(f"{round_.doing}: status {end.status}, {end.err!r}")


def stop_by_signal(round_: Round) -> None:
    """SIGTERM or SIGINT: status 130, and all that was fetched is there."""
    pair = round_.random.choice(round_.pairs)
    number = round_.random.choice((signal.SIGTERM, signal.SIGINT))
    pages, calls = round_.random.randint(3, 14), len(round_.exchange.calls)
    round_.doing = f"'backfill {pair}' after {pages} calls stopped by signal {number}"
    ledger = next(known for known in round_.ledgers if known.pair == pair)
    before = ledger.rows_committed()
    process = round_.victims.fork(["backfill", pair, "-q", "--json"])

    def due() -> bool:
        round_.glance()
        return len(round_.exchange.calls) >= calls + pages

    end = hunt(process, due, number)
    round_.judge(Command(f"backfill {pair}", 0, (0, 3, 130)), end)
    round_.check()
    gained = ledger.rows_committed() - before
    if end.status == 130 and end.out:
        [report] = json.loads(end.out)["pairs"]
        round_.tally.trials["stopped by a signal, all that was fetched kept"] += 1
        # Trades of the last stamp are fetched, and can't be kept while more of it may follow.
        if not 0 <= report["trades"] - gained < ledger.most_alike:
            raise Loss(f"{round_.doing}: fetched {report['trades']}, committed {gained}")


def left_alone(round_: Round) -> None:
    """A run that nobody disturbs but the exchange reaches the settled head."""
    command = COMMANDS[0]._replace(words=f"backfill {' '.join(round_.pairs)} -q")
    round_.doing = f"{command.words!r}, left alone"
    end = round_.victims.run(command.words.split())
    round_.judge(command, end)
    round_.check()
    settled = round_.clock.now_ns // SECOND_NS * SECOND_NS - SETTLE_S * SECOND_NS
    for ledger in round_.ledgers if end.status == 0 else []:
        if gone := uncovered([(0, settled)], ledger.committed):
            raise Loss(f"{round_.doing}: it ended well, and {gone} of {ledger.pair} is not covered")


def asked_for_status(round_: Round) -> None:
    """`status` works after any kill, and reports exactly what is stored."""
    round_.doing = "'status'"
    end = round_.victims.run(["status", "--json"])
    round_.judge(Command("status", 0, (0, 4)), end)
    counted = {each["pair"]: each["trades"] for each in json.loads(end.out or "[]")}
    known = {ledger.pair: ledger.rows_committed() for ledger in round_.ledgers}
    if any(counted.get(pair, 0) != rows for pair, rows in known.items()):
        raise Loss(f"status reports {counted}, and {known} are there")


TRIALS = (
    Trial("a kill at a random moment", killed_at_any_moment, 30),
    Trial("a kill as a file is staged", killed_when_a_file_is_staged, 16),
    Trial("a kill just after a rename", killed_just_after_a_rename, 10),
    Trial("a kill at a counted step", killed_at_a_counted_step, 40),
    Trial("two runs at once", two_at_once, 2),
    Trial("a read-only folder", read_only, 2),
    Trial("a full disk", disk_full, 3),
    Trial("stopped by a signal", stop_by_signal, 4),
    Trial("left alone", left_alone, 3),
    Trial("asked for its status", asked_for_status, 5),
)


def play(round_: Round) -> None:
    """Let time pass, and do one thing by chance."""
    round_.pass_time()
    trial = round_.random.choices(TRIALS, [each.weight for each in TRIALS])[0]
    trial.do(round_)
