"""Other programs that fetch Kraken's trades, beside `harvester backfill`, on one test exchange.

Run as a program by an interpreter that has ccxt, it is the contestant "ccxt". See
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

PAIR, SYMBOL = "XBTUSD", "BTC/USD"
AGENT = "harvester-benchmark"
FIRST_ID = 10_000_001
"""All ids have eight digits, as Kraken's do today.

ccxt sorts trades of one millisecond by their ids as texts: where 10000 comes before 9999, it does
not find the cursor in its last trade.
"""
COUNT_FEATHER = """
import sys
from pathlib import Path
import pyarrow.feather as feather
(path,) = Path(sys.argv[1]).rglob("*-trades.feather")
print(feather.read_table(path, columns=["id"]).column("id").combine_chunks().unique().__len__())
"""


class Run(NamedTuple):
    """What one program came to: seconds of its whole process, and how many trades it kept."""

    wall_s: float
    kept: int


# --- the contestants -----------------------------------------------------------------------------


def harvester(url: str, folder: Path, _python: str) -> Run:
    """Measure `harvester backfill` into a fresh archive."""
    from backfill import HARVESTER, measured  # noqa: PLC0415 - absent where this is the ccxt program

    command = [str(HARVESTER), "backfill", PAIR, "--rate", "0", "-q", "--api-url", url]
    cost, _ = measured([*command, "-d", "data"], folder)
    _, printed = measured([str(HARVESTER), "status", "--json", "-d", "data"], folder)
    return Run(cost.wall_s, sum(pair["trades"] for pair in json.loads(printed)))


def ccxt(url: str, folder: Path, python: str) -> Run:
    """Measure ccxt's `fetch_trades`, which follows `last` and keeps all in memory."""
    from backfill import measured  # noqa: PLC0415 - see above

    program = str(Path(__file__).resolve())
    cost, printed = measured([python, program, "--ccxt", url], folder)
    return Run(cost.wall_s, int(printed.splitlines()[-1]))


def freqtrade(url: str, folder: Path, python: str) -> Run:
    """Measure freqtrade's `download-data --dl-trades` into feather."""
    from backfill import measured  # noqa: PLC0415 - see above

    api = {"public": url, "private": url, "zendesk": url}
    config = {
        "stake_currency": "USD",
        "stake_amount": "unlimited",
        "dry_run": True,
        "exchange": {
            "name": "kraken",
            "pair_whitelist": [SYMBOL],
            "ccxt_config": {"enableRateLimit": False, "urls": {"api": api}, "userAgent": AGENT},
        },
        "pairlists": [{"method": "StaticPairList"}],
    }
    (folder / "config.json").write_text(json.dumps(config))
    first, last = (datetime.fromtimestamp(seconds, UTC) for seconds in ends(url))
    span = f"{first:%Y%m%d}-{last + timedelta(days=1):%Y%m%d}"
    command = [str(Path(python).with_name("freqtrade")), "download-data", "-c", "config.json"]
    command += ["--userdir", ".", "--dl-trades", "--pairs", SYMBOL, "--timerange", span]
    cost, _ = measured([*command, "--timeframes", "1h"], folder)
    _, printed = measured([python, "-c", COUNT_FEATHER, "."], folder)
    return Run(cost.wall_s, int(printed))


CONTESTANTS = {"harvester": harvester, "ccxt": ccxt, "freqtrade": freqtrade}


def ends(url: str) -> Iterator[float]:
    """When the first and the last trade were made, in UNIX seconds."""
    for place, since in ((0, "&since=0"), (-1, "")):
        address = f"{url}/0/public/Trades?pair={PAIR}{since}"
        request = urllib.request.Request(address, headers={"User-Agent": AGENT})  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - the test exchange on loopback
            result = json.load(answer)["result"]
        del result["last"]
        (rows,) = result.values()
        yield float(rows[place][2])


def ccxt_loop(url: str) -> int:
    """Fetch all trades with ccxt, page by page from each answer's `last`; returns how many."""
    import ccxt  # noqa: PLC0415 - not installed where harvester is measured

    exchange = ccxt.kraken(
        {
            "enableRateLimit": False,
            "userAgent": AGENT,
            "urls": {"api": {"public": url, "private": url, "zendesk": url}},
        }
    )
    exchange.load_markets()
    since = "0"
    kept: dict[str, dict[str, Any]] = {}
    while True:
        trades = exchange.fetch_trades(SYMBOL, None, 1000, {"since": since})
        before = len(kept)
        kept.update({trade["id"]: trade for trade in trades})
        if len(trades) < 1000 or len(kept) == before:
            return len(kept)
        # ccxt hands the page's `last` on as one more element of its last row.
        since = trades[-1]["info"][-1]


# --- the run -------------------------------------------------------------------------------------


def installed(python: str, module: str) -> str | None:
    """The version of a module that another interpreter has; None for none."""
    question = f"from importlib.metadata import version; print(version({module!r}))"
    done = subprocess.run([python, "-c", question], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def compare(trades: int, rounds: int, mode: str, python: str) -> dict[str, Any]:
    """Measure all that is installed in turn, round after round, over one test exchange."""
    from backfill import sample_exchange  # noqa: PLC0415 - see above

    versions = {name: installed(python, name) for name in ("ccxt", "freqtrade")}
    names = ["harvester", *(name for name, version in versions.items() if version)]
    runs: dict[str, list[Run]] = {name: [] for name in names}
    stand_in = ("--since-mode", mode, "--first-id", str(FIRST_ID))
    with sample_exchange(trades, "once", *stand_in) as url:
        for _ in range(rounds):
            for name in names:
                with tempfile.TemporaryDirectory() as folder:
                    runs[name].append(CONTESTANTS[name](url, Path(folder), python))
    seconds = {name: median(run.wall_s for run in some) for name, some in runs.items()}
    return {
        "since": mode,
        "trades": trades,
        "versions": versions,
        "trades_s": {name: trades / wall_s for name, wall_s in seconds.items()},
        "kept": {name: min(run.kept for run in some) / trades for name, some in runs.items()},
        "ours_by_theirs": {name: wall_s / seconds["harvester"] for name, wall_s in seconds.items()},
    }


def show(found: dict[str, Any]) -> None:
    """Print the table of one mode."""
    print(f"\n{found['trades']:,} trades, `since` {found['since']}, whole processes")
    print(f"{'program':<22}{'trades/s':>10}{'kept':>10}{'harvester is':>15}")
    for name, pace in found["trades_s"].items():
        full = f"{name} {found['versions'].get(name, '')}"
        times = f"{found['ours_by_theirs'][name]:.1f} x faster" if name != "harvester" else ""
        print(f"{full:<22}{pace:>10,.0f}{found['kept'][name]:>10.3%}{times:>15}")


def main() -> None:
    """Measure and print; or be the ccxt program, as which this one starts itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="It has ccxt or freqtrade.")
    parser.add_argument("--ccxt", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ccxt:
        print(ccxt_loop(options.ccxt))
        return
    from backfill import compile_harvester  # noqa: PLC0415 - see `ccxt`

    compile_harvester()
    modes = ("inclusive", "exclusive")
    found = [compare(options.trades, options.rounds, mode, options.python) for mode in modes]
    for comparison in found:
        show(comparison)
    print(json.dumps({"benchmark": "peers", "found": found}))


if __name__ == "__main__":
    main()
