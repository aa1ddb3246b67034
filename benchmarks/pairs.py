"""Many pairs at once: trades a second in all, memory, and where the processor's time goes.

Everything runs on this machine, the test exchange in a process of its own. See
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from backfill import AGENT, HARVESTER, STAND_IN, Cost, Loop, measured

SEED = 7
TARGET_TRADES_S = 300_000
MOST_PEAK_MB = 500.0


class Scene(NamedTuple):
    """What is downloaded, and how."""

    pairs: int
    trades: int
    jobs: int
    gzip: str


class Measured(NamedTuple):
    """What one program took, and what the test exchange took meanwhile."""

    cost: Cost
    exchange_s: float


# --- the bare loops --------------------------------------------------------------------------


async def bare(url: str, own_pools: bool) -> int:
    """Follow `last` of all pairs side by side, and keep nothing; returns the rows seen."""
    import httpx  # noqa: PLC0415 - a part of what is measured
    import orjson  # noqa: PLC0415

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    context = ssl.create_default_context()  # or each client would take 25 ms to make its own

    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, headers=AGENT, limits=limits, verify=context)

    async def follow(pair: str, async_client: httpx.AsyncClient) -> int:
        loop = Loop()
        while True:
            answer = await async_client.get("/0/public/Trades", params=loop.params | {"pair": pair})
            if not loop.follow(orjson.loads(answer.content)):
                return loop.rows

    async def follow_alone(pair: str) -> int:
        async with client() as own:
            return await follow(pair, own)

    async with client() as shared:
        listed = orjson.loads((await shared.get("/0/public/AssetPairs")).content)["result"]
        loops = [follow_alone(pair) if own_pools else follow(pair, shared) for pair in listed]
        return sum(await asyncio.gather(*loops))


# --- whole processes -------------------------------------------------------------------------


class StandIn:
    """The test exchange, a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Wait until it answers."""
        self._process = process
        self.url = process.stdout.readline().strip() if process.stdout else ""
        if not self.url:
            message = "the test exchange did not start"
            raise RuntimeError(message)

    def cpu_s(self) -> float:
        """Its user and system time so far; 0 where the system does not show it."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return 0.0
        cpu_times = stat.rpartition(")")[2].split()[11:13]
        return sum(map(int, cpu_times)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def sample_exchange(scene: Scene) -> Iterator[StandIn]:
    """Start the test exchange; it is ended by its own id."""
    command = [sys.executable, str(STAND_IN), "--alike", "--seed", str(SEED)]
    command += ["--pairs", str(scene.pairs), "--trades", str(scene.trades)]
    command += {"each": [], "once": ["--cache-gzip"], "none": ["--no-gzip"]}[scene.gzip]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield StandIn(process)
        finally:
            process.terminate()


def backfill(exchange: StandIn, scene: Scene) -> tuple[Measured, dict[str, Any]]:
    """Measure a backfill of all pairs into a fresh archive, and compare it with the true trades."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [str(HARVESTER), "backfill", "--all", "--rate", "0", "-q", "-d", "data"]
        command += ["--jobs", str(scene.jobs), "--api-url", exchange.url]
        before = exchange.cpu_s()
        cost, _ = measured(command, folder)
        spent = exchange.cpu_s() - before
        check = [*MYSELF, "--check", str(folder / "data"), "--trades", str(scene.trades)]
        _, text = measured(check, folder)
    return Measured(cost, spent), json.loads(text)


MYSELF = (sys.executable, str(Path(__file__).resolve()))


def bare_loops(exchange: StandIn, scene: Scene, *, own_pools: bool) -> Measured:
    """Measure the bare loops, which must have seen as many rows, their overlaps counted in."""
    before = exchange.cpu_s()
    command = [*MYSELF, "--bare", "own" if own_pools else "shared", "--url", exchange.url]
    cost, text = measured(command, Path(tempfile.gettempdir()))
    if int(text) < scene.pairs * scene.trades:
        message = f"the bare loops saw {int(text):,} rows of {scene.pairs * scene.trades:,}"
        raise RuntimeError(message)
    return Measured(cost, exchange.cpu_s() - before)


def check(folder: Path, trades: int) -> dict[str, Any]:
    """Compare every pair of an archive with the true trades, digit by digit, by plain pyarrow."""
    sys.path.insert(0, str(STAND_IN.parent))
    import pyarrow as pa  # noqa: PLC0415 - the measuring process stays small
    import pyarrow.parquet as pq  # noqa: PLC0415
    from kraken_market import Market, expected  # noqa: PLC0415
    from sample_trades import xbtusd_like  # noqa: PLC0415

    expected_rows = list(zip(*expected(Market(trades=xbtusd_like(trades, SEED))), strict=True))
    kept = files = exact = 0
    pairs = sorted((folder / "trades").iterdir())
    for pair in pairs:
        paths = sorted(pair.rglob("*.parquet"), key=lambda path: path.name)
        table = pa.concat_tables([pq.ParquetFile(path).read() for path in paths])
        columns = [table.column(name) for name in table.schema.names]
        columns[1] = columns[1].cast(pa.int64())
        found = [tuple(column.to_pylist()) for column in columns]
        exact += found == expected_rows
        kept += len(set(found[0]) & set(expected_rows[0]))
        files += len(paths)
    return {"pairs": len(pairs), "exact": exact, "kept": kept, "files": files}


# --- figures ---------------------------------------------------------------------------------


def compare(scene: Scene, rounds: int) -> dict[str, Any]:
    """Measure all programs in turn, round after round, over one test exchange."""
    runs: dict[str, list[Measured]] = {"harvester": [], "bare": [], "bare, own pools": []}
    with sample_exchange(scene) as exchange:
        bare_loops(exchange, scene, own_pools=True)  # warms the test exchange
        for _ in range(rounds):
            whole_run, found = backfill(exchange, scene)
            runs["harvester"].append(whole_run)
            runs["bare"].append(bare_loops(exchange, scene, own_pools=False))
            runs["bare, own pools"].append(bare_loops(exchange, scene, own_pools=True))
    total = scene.pairs * scene.trades
    middles = {
        name: {
            "wall_s": (wall_s := median(run.cost.wall_s for run in several)),
            "cpu_s": median(run.cost.cpu_s for run in several),
            "exchange_s": median(run.exchange_s for run in several),
            "peak_mb": max(run.cost.peak_mb for run in several),
            "trades_s": total / wall_s,
        }
        for name, several in runs.items()
    }
    return {
        **scene._asdict(),
        "rounds": rounds,
        "runs": middles,
        "kept": found["kept"] / total,
        "exact": found["exact"] == found["pairs"] == scene.pairs,
        "files": found["files"],
        "wall_ratio": middles["harvester"]["wall_s"] / middles["bare"]["wall_s"],
    }


def show(figures: dict[str, Any]) -> None:
    """Print the table of one scene."""
    print(
        f"\n{figures['pairs']} pairs of {figures['trades']:,} trades, {figures['jobs']} side by "
        f"side, {figures['rounds']} rounds, gzip: {figures['gzip']}"
    )
    names = ("wall s", "CPU s", "exchange CPU s", "peak MB", "trades/s", "wall x")
    print(f"{'program':<18}" + "".join(f"{name:>16}" for name in names))
    base = figures["runs"]["bare"]["wall_s"]
    for name, run in figures["runs"].items():
        print(
            f"{name:<18}{run['wall_s']:>16.2f}{run['cpu_s']:>16.2f}{run['exchange_s']:>16.2f}"
            f"{run['peak_mb']:>16.0f}{run['trades_s']:>16,.0f}{run['wall_s'] / base:>16.2f}"
        )
    exact = "every history exact" if figures["exact"] else "NOT exact"
    print(f"kept {figures['kept']:.2%} in {figures['files']} files, {exact}")


def main() -> None:
    """Measure and print; or be one of the parts, as which this program starts itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[100], help="a run for each")
    parser.add_argument("--total", type=int, default=3_000_000, help="trades of all pairs")
    parser.add_argument("--jobs", type=int, help="side by side; all of them unless given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gzip", choices=("each", "once", "none"), default="once")
    parser.add_argument("--bare", choices=("own", "shared"), help=argparse.SUPPRESS)
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trades", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(asyncio.run(bare(options.url, options.bare == "own")))
        return
    if options.check:
        print(json.dumps(check(options.check, options.trades)))
        return
    scenes = []
    for pairs in options.pairs:
        scene = Scene(pairs, options.total // pairs, options.jobs or pairs, options.gzip)
        scenes.append(compare(scene, options.rounds))
        show(scenes[-1])
    whole_run = [figures["runs"]["harvester"] for figures in scenes]
    met = {
        f"at least {TARGET_TRADES_S:,} trades a second": whole_run[0]["trades_s"]
        >= TARGET_TRADES_S,
        f"peak memory under {MOST_PEAK_MB:g} MB": all(
            o["peak_mb"] < MOST_PEAK_MB for o in whole_run
        ),
        "every history exact": all(figures["exact"] for figures in scenes),
    }
    print()
    for text, is_met in met.items():
        print(f"{'met   ' if is_met else 'MISSED'} {text}")
    print(json.dumps({"benchmark": "pairs", "scenes": scenes, "targets": met}))


if __name__ == "__main__":
    main()
