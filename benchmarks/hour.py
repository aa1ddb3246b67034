"""A long backfill at a limited pace: does memory stay flat, and is no call left unused?

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from backfill import HARVESTER

TESTS = Path(__file__).resolve().parents[1] / "tests" / "helpers"
SPARE = 1.1
"""So many times the trades that can be fetched in the time are made."""
LIMIT = 1.1
"""The exchange allows so many times the rate that is asked for."""
LATENCY_S = 0.12
SAMPLE_S = 5.0
WARM_UP = 0.1
"""The part of the run whose memory is not held against the rest."""

MOST_GROWTH_MB = 20.0
LEAST_PACE = 0.98
MOST_FILES = 4
"""More than at the quietest moment: what a flush and a merge hold open."""


class Sample(NamedTuple):
    """The memory of the backfill at one moment."""

    second: float
    resident_mb: float
    open_files: int
    segments: int


# --- the test exchange ----------------------------------------------------------------------------


def serve(pairs: int, trades: int, rate: float) -> None:
    """Serve the same trades under several names, with a limit of calls, until terminated."""
    sys.path.insert(0, str(TESTS))
    from kraken_market import named  # noqa: PLC0415 - of the tests, and only here
    from kraken_server import Exchange  # noqa: PLC0415 - of the tests, and only here
    from sample_trades import xbtusd_like  # noqa: PLC0415

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: ended.set())
    made_trades = xbtusd_like(trades, 7, gap_s=6.0)
    markets = [named(number, made_trades) for number in range(pairs)]
    with Exchange(markets, limit=rate * LIMIT, latency_s=LATENCY_S, cache_gzip=True) as exchange:
        print(exchange.url, flush=True)
        ended.wait(4 * 3600)


@contextmanager
def sample_exchange(pairs: int, trades: int, rate: float) -> Iterator[str]:
    """Start the test exchange as a process of its own; it is ended by its own id."""
    command = [sys.executable, __file__, "--serve", "--pairs", str(pairs)]
    command += ["--trades", str(trades), "--rate", str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


# --- the backfill ---------------------------------------------------------------------------------


def sampled(process: subprocess.Popen[str], archive: Path, begun: float) -> Sample:
    """Look at the process and its archive."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    resident = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    open_files = sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())
    segments = sum(1 for _ in archive.glob("trades/*/*/*.parquet"))
    return Sample(time.monotonic() - begun, resident, open_files, segments)


def run_backfill(
    url: str, options: argparse.Namespace, names: list[str]
) -> tuple[list[Sample], Any]:
    """Backfill for the minutes asked for, then end it; returns the samples and its own report."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "data"
        command = [str(HARVESTER), "backfill", *names, "--rate", str(options.rate), "-q", "--json"]
        command += ["--jobs", str(len(names)), "-d", str(archive), "--api-url", url]
        begun = time.monotonic()
        samples = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None and time.monotonic() - begun < options.minutes * 60:
                time.sleep(SAMPLE_S)
                samples.append(sampled(process, archive, begun))
            process.send_signal(signal.SIGTERM)
            report, _ = process.communicate()
    return samples, json.loads(report)


def figures(samples: list[Sample], report: Any, options: argparse.Namespace) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Work out what the run came to."""
    seconds = samples[-1].second
    later = [sample for sample in samples if sample.second >= seconds * WARM_UP]
    pages = sum(pair["pages"] for pair in report["pairs"])
    return {
        "minutes": seconds / 60,
        "pairs": len(report["pairs"]),
        "trades": sum(pair["trades"] for pair in report["pairs"]),
        "pages": pages,
        "pace": pages / (options.rate * seconds * len(report["pairs"])),
        "least_mb": min(sample.resident_mb for sample in later),
        "most_mb": most_mb(later),
        # Peaks against peaks: between two flushes memory goes up and down by what waits.
        "growth_mb": most_mb(tail(later)) - most_mb(head(later)),
        "tenths_mb": [round(most_mb(tail(later[: len(later) * n // 10]))) for n in range(1, 11)],
        # Peaks again: files are open while they are merged.
        "open_files": [max(s.open_files for s in part) for part in (head(later), tail(later))],
        "most_segments": max(sample.segments for sample in samples),
    }


def head(samples: list[Sample]) -> list[Sample]:
    """The first tenth of some samples."""
    return samples[: max(1, len(samples) // 10)]


def tail(samples: list[Sample]) -> list[Sample]:
    """The last tenth of some samples."""
    return samples[-max(1, len(samples) // 10) :]


def most_mb(samples: list[Sample]) -> float:
    """The most memory in some samples."""
    return max(sample.resident_mb for sample in samples)


def main() -> None:
    """Measure and print; or be the test exchange, as which this program starts itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1.0, help="pages a second a pair")
    parser.add_argument("--trades", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.pairs, options.trades, options.rate)
        return
    trades = int(options.minutes * 60 * options.rate * 1000 * SPARE)
    with sample_exchange(options.pairs, trades, options.rate) as url:
        sys.path.insert(0, str(TESTS))
        from kraken_market import named  # noqa: PLC0415 - of the tests

        names = [named(number, []).altname for number in range(options.pairs)]
        found = figures(*run_backfill(url, options, names), options)
    for name, value in found.items():
        print(f"{name:<16}{value if not isinstance(value, float) else round(value, 3)}")
    met = {
        f"pace at least {LEAST_PACE:.0%} of the rate": found["pace"] >= LEAST_PACE,
        f"memory flat to {MOST_GROWTH_MB:g} MB": abs(found["growth_mb"]) <= MOST_GROWTH_MB,
        "open files flat": found["open_files"][1] - found["open_files"][0] <= MOST_FILES,
    }
    for text, is_met in met.items():
        print(f"{'met   ' if is_met else 'MISSED'} {text}")
    print(json.dumps({"benchmark": "hour", **found, "targets": met}))


if __name__ == "__main__":
    main()
