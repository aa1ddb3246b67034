"""Kills the real process, again and again, on a faulty exchange and bad machines; loses nothing.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chaos_campaign import Campaign

TESTS = Path(__file__).resolve().parents[1] / "tests" / "helpers"
INSIDE = "--inside"
"""An option for its own process in a mount namespace of its own."""


def options() -> argparse.Namespace:
    """Read what was typed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--trades", type=int, default=30_000, help="of each market of a round")
    parser.add_argument("--minutes", type=float, default=60.0, help="no new trial begins later")
    parser.add_argument("--round", type=int, default=1, help="the first round's number")
    parser.add_argument("--keep", metavar="DIR", help="the last archive is copied to there")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def torture(given: argparse.Namespace, *, is_mount: bool) -> tuple[Campaign, str]:
    """Go all rounds in a folder of their own; returns what was done, and what went wrong."""
    from chaos_campaign import Campaign  # noqa: PLC0415 - not on the path before
    from process import SPARE_BYTES, Disk, mount, umount  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name) / "data"
        folder.mkdir()
        if is_mount:
            mount(folder, "tmpfs", f"size={SPARE_BYTES}")
        try:
            disk = Disk(folder, is_mount=is_mount)
            bounds = (given.seed, given.kills, given.trades, given.minutes)
            done = Campaign(disk, *bounds, report_line=say, round=given.round)
            fault = done.run()
            if fault or given.keep:
                # First what went wrong: the rest may fail where a process still runs.
                say(fault)
                kept = Path(given.keep or tempfile.mkdtemp(prefix="tortured-"))
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                print(f"the last archive is kept in {kept}")
        finally:
            if is_mount:
                umount(folder)
    return done, fault


def say(text: str) -> None:
    """Print how far it is."""
    print(text, file=sys.stderr, flush=True)


def figures(done: Campaign, fault: str) -> dict[str, Any]:
    """Give all that was done in numbers."""
    tally = done.tally
    faults = {kind: times for kind, times in tally.faults.items() if kind != "ok"}
    return {
        "benchmark": "torture",
        "seed": done.seed,
        "kills": done.killed,
        "kills_by_way": dict(tally.kills.most_common()),
        "left_by_kills": dict(tally.left),
        "trials": dict(tally.trials),
        "runs": tally.runs,
        "rounds": done.rounds,
        "statuses": dict(tally.statuses),
        "trades": tally.trades,
        "calls": tally.calls,
        "faults_served": sum(faults.values()),
        "faults": faults,
        "skipped": sorted(tally.skipped),
        "seconds": round(done.seconds),
        "fault": fault,
    }


def ways(by_way: dict[str, int]) -> Counter[str]:
    """Add kills up: by the way they came, and of those at a counted step by the method killed."""
    found: Counter[str] = Counter()
    for way, times in by_way.items():
        name, _, step = way.partition(": ")
        inside = {
            "commit": "a flush",
            "commit_stream": "an import",
            "replace_imported": "a re-download",
            "compact": "a compaction",
            "store_rollup": "a roll-up",
            "sweep": "a sweep",
        }
        where = inside.get(step.rpartition(" ")[2], "anything else")
        found[f"{name}, in {where}" if step else name] += times
    return found


def show(report: dict[str, Any]) -> None:
    """Print the summary."""
    print(
        f"{report['kills']:>7,} kills in {report['runs']:,} runs and {report['rounds']} rounds, "
        "of which"
    )
    for name, times in ways(report["kills_by_way"]).most_common():
        print(f"{times:>7,}   {name}")
    for name, times in report["left_by_kills"].items():
        print(f"{times:>7,}   left {name}")
    for name, times in report["trials"].items():
        print(f"{times:>7,} {name}")
    print(f"{report['faults_served']:>7,} refusals and faults served in {report['calls']:,} calls")
    print(f"{report['trades']:>7,} trades held against the exchange's at the ends of rounds")
    for reason in report["skipped"]:
        print(f"skipped {reason}")
    print(f"{report['seconds']:>7,} seconds")
    print(f"FAILED {report['fault']}" if report["fault"] else "nothing lost, nothing twice")


def main() -> None:
    """Torture and print the figures; the status is 1 if a guarantee was broken."""
    given = options()
    sys.path.insert(0, str(TESTS))
    from process import unshared  # noqa: PLC0415 - not on the path before

    if not given.inside and (before := unshared()):
        again = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], INSIDE]
        sys.exit(subprocess.run([*before, *again], check=False).returncode)
    report = figures(*torture(given, is_mount=given.inside))
    show(report)
    print(json.dumps(report))
    sys.exit(1 if report["fault"] else 0)


if __name__ == "__main__":
    main()
