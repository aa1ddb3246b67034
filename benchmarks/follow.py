"""Follow a busy pair for minutes, through an outage and a kill -9: exact, few files, small lag?

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from backfill import HARVESTER

TESTS = Path(__file__).resolve().parents[1] / "tests" / "helpers"
SAMPLE_S = 0.2
SECOND_NS = 10**9
SETTLE_S = 60.0
BACKLOG_S = 120
"""The exchange has trades of this time when the run begins."""
BURST_S = 20.0
BURST_TRADES = 800
"""Every so often, so many trades happen within some milliseconds."""
LATENCY_S = 0.12
LIMIT = 1.1
"""The exchange allows so many times one page a second."""

MOST_FILES = 12
MOST_OVER_S = 2.0
"""Lag over `--every`."""
MOST_GROWTH_MB = 20.0


class Sample(NamedTuple):
    """What was seen at one moment."""

    second: float
    lag_s: float
    resident_mb: float
    files: int


# --- the test exchange ----------------------------------------------------------------------------


def trades_of(begin_ns: int, seconds: float, rate: float) -> Iterator[Any]:
    """Make trades: so many a second on average, with bursts and with groups of equal stamps."""
    from kraken_market import Trade  # noqa: PLC0415 - of the tests

    source, number, price = random.Random(1), 0, 41_450.0
    stamp, burst_ns = begin_ns, begin_ns + int(BURST_S * SECOND_NS)
    mean_group, end_ns = 2.0, begin_ns + int(seconds * SECOND_NS)
    quiet_rate = max(1.0, rate - BURST_TRADES / BURST_S)
    burst = 0
    while stamp < end_ns:
        if not burst and stamp > burst_ns:
            burst, burst_ns = BURST_TRADES, burst_ns + int(BURST_S * SECOND_NS)
        gap_s = 1e-6 if burst else source.expovariate(quiet_rate / mean_group)
        stamp += int(gap_s * SECOND_NS) + 1
        group = 1 if source.random() < 0.5 else source.choice((2, 3, 4))
        for _ in range(group):
            number += 1
            price = max(1.0, price + source.choice((-0.1, 0.0, 0.1)))
            volume = f"{source.expovariate(20) + 1e-8:.8f}"
            yield Trade(stamp, f"{price:.1f}0000", volume, "b", "m", "", number)
        burst = max(0, burst - group)


def market_of(begin_ns: int, seconds: float, rate: float) -> Any:  # noqa: ANN401 - of the tests
    """The market, the same in each process."""
    sys.path.insert(0, str(TESTS))
    from sample_trades import market  # noqa: PLC0415 - of the tests

    return market(trades_of(begin_ns, seconds, rate))


def serve(options: argparse.Namespace) -> None:
    """Serve the market, whose trades appear as time passes; SIGUSR1 begins or ends an outage."""
    market = market_of(options.begin_ns, options.seconds, options.rate)
    from kraken_server import Exchange  # noqa: PLC0415 - of the tests

    ended, switched, is_listening = threading.Event(), threading.Event(), True

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()
        switched.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGUSR1, lambda _number, _frame: switched.set())
    with Exchange([market], limit=LIMIT, latency_s=LATENCY_S) as exchange:
        print(exchange.url, flush=True)
        while not ended.is_set():
            switched.wait()
            switched.clear()
            if not ended.is_set():
                (exchange.stop if is_listening else exchange.start)()
                is_listening = not is_listening


# --- the run --------------------------------------------------------------------------------------


def started(url: str, archive: Path, options: argparse.Namespace, *, first: bool) -> Any:  # noqa: ANN401
    """Start `harvester follow`."""
    command = [str(HARVESTER), "follow", "XBTUSD", "--every", f"{options.every:g}s", "-q"]
    command += ["-d", str(archive), "--api-url", url]
    command += ["--since", str(options.begin_ns)] if first else []
    return subprocess.Popen(command)


def sampled(process: subprocess.Popen[bytes], archive: Path, begun_s: float) -> Sample:
    """Look at the process and its archive: lag is how long settled trades are not stored."""
    names = [path.stem for path in archive.glob("trades/*/*/*.parquet")]
    reached_ns = max((int(name.partition("-")[2].partition(".")[0]) for name in names), default=0)
    lag_s = time.time() - SETTLE_S - reached_ns / SECOND_NS
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    resident = int(status.partition("VmRSS:")[2].split()[0]) / 1024 if "VmRSS" in status else 0.0
    return Sample(time.monotonic() - begun_s, lag_s, resident, len(names))


def run(options: argparse.Namespace, exchange: subprocess.Popen[str], archive: Path) -> Any:  # noqa: ANN401
    """Follow for the minutes; returns the samples, the exit status and the end of both faults."""
    url = exchange.stdout.readline().strip() if exchange.stdout else ""
    seconds, begun_s = options.minutes * 60, time.monotonic()
    faults = {
        "outage": 0.3 * seconds,
        "answers": 0.3 * seconds + options.outage_s,
        "kill": 0.7 * seconds,
    }
    samples: list[Sample] = []
    process = started(url, archive, options, first=True)
    while (now_s := time.monotonic() - begun_s) < seconds:
        due = [name for name, second in faults.items() if second <= now_s]
        for name in due:
            del faults[name]
            if name == "kill":
                process.kill()
                process.wait()
                process = started(url, archive, options, first=False)
            else:
                exchange.send_signal(signal.SIGUSR1)
        samples.append(sampled(process, archive, begun_s))
        time.sleep(SAMPLE_S)
    process.send_signal(signal.SIGTERM)
    return samples, process.wait()


def is_exact(archive: Path, options: argparse.Namespace) -> tuple[bool, int]:
    """Whether the archive has exactly the settled trades, by plain Parquet; and how many."""
    market = market_of(options.begin_ns, options.seconds, options.rate)
    from backfills import rows_on_disk  # noqa: PLC0415 - of the tests
    from kraken_market import expected  # noqa: PLC0415 - of the tests

    names = [path.stem for path in archive.glob("trades/*/*/*.parquet")]
    reached_ns = max(int(name.partition("-")[2]) for name in names)
    stored = rows_on_disk(archive, "XBTUSD")
    wanted = [row for row in expected(market) if options.begin_ns <= row[1] <= reached_ns]
    return stored == wanted, len(stored)


def figures(samples: list[Sample], status: int, options: argparse.Namespace) -> dict[str, Any]:
    """Work out what the run came to; lag counts while the run was live.

    It is not live while it catches up at the beginning, from the outage on until it has caught up,
    and from the kill on until it has caught up.
    """
    seconds, live, is_live = options.minutes * 60, list[Sample](), False
    faults = [(0.3 * seconds, 0.3 * seconds + options.outage_s), (0.7 * seconds, 0.7 * seconds)]
    recovered: list[float] = []
    for sample in samples:
        in_fault = any(begin <= sample.second <= end + 1 for begin, end in faults)
        if in_fault:
            is_live = False
        elif not is_live and sample.lag_s <= options.every:
            is_live = True
            recovered.append(sample.second)
        if is_live:
            live.append(sample)
    lags = [sample.lag_s for sample in live]
    memory = [sample.resident_mb for sample in samples if sample.second > 0.05 * seconds]
    before = [s.resident_mb for s in samples if 0.1 * seconds < s.second < 0.3 * seconds]
    after = [s.resident_mb for s in samples if 0.55 * seconds < s.second < 0.7 * seconds]
    return {
        "minutes": options.minutes,
        "every_s": options.every,
        "max_lag_s": max(lags),
        "p99_lag_s": statistics.quantiles(lags, n=100)[98],
        "median_lag_s": statistics.median(lags),
        "live_part": len(live) / len(samples),
        "live_again_at_s": [round(second) for second in recovered],
        "most_files": max(sample.files for sample in samples),
        "most_mb": max(memory),
        "growth_mb": max(after) - max(before),
        "exit_status": status,
    }


def main() -> None:
    """Measure and print; or be the test exchange, as which this program starts itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=150.0, help="trades a second")
    parser.add_argument("--every", type=float, default=10.0, help="seconds, of `follow`")
    parser.add_argument("--outage-s", type=float, default=60.0)
    parser.add_argument("--begin-ns", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    options.begin_ns = time.time_ns() // SECOND_NS * SECOND_NS - BACKLOG_S * SECOND_NS
    options.seconds = options.minutes * 60 + BACKLOG_S + 60
    command = [sys.executable, __file__, "--serve", "--begin-ns", str(options.begin_ns)]
    command += ["--seconds", str(options.seconds), "--rate", str(options.rate)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as exchange,
    ):
        archive = Path(folder) / "data"
        try:
            samples, status = run(options, exchange, archive)
        finally:
            exchange.terminate()
        exact, trades = is_exact(archive, options)
        found = figures(samples, status, options) | {"trades": trades, "exact": exact}
    for name, value in found.items():
        print(f"{name:<16}{value if not isinstance(value, float) else round(value, 3)}")
    met = {
        "exact": exact,
        f"at most {MOST_FILES} files": found["most_files"] <= MOST_FILES,
        f"lag below {options.every + MOST_OVER_S:g} s": found["max_lag_s"]
        < options.every + MOST_OVER_S,
        f"memory flat to {MOST_GROWTH_MB:g} MB": found["growth_mb"] <= MOST_GROWTH_MB,
        "status 0": status == 0,
    }
    for text, is_met in met.items():
        print(f"{'met   ' if is_met else 'MISSED'} {text}")
    print(json.dumps({"benchmark": "follow", **found, "targets": met}))


if __name__ == "__main__":
    main()
