"""What `harvester status --runs` says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from harvester.cli import output
from harvester.cli.options import Common
from harvester.escaping import shortened
from harvester.operations.run_log import RunRecord, latest_runs

HEADER = ["begun", "command", "ended", "took", "pairs", "trades", "calls", "refusals", "gaps"]
GOES_FIRST = ("pairs", "refusals", "took", "calls", "gaps")


def tell_runs(common: Common, count: int, *, as_json: bool) -> None:
    """The last runs that wrote, the latest first, and what went wrong in them."""
    archive = common.existing()
    found = latest_runs(archive, count)
    if as_json:
        output.as_json([_plain(one) for one in found])
        return
    if not found:
        output.hint(f"the archive at {archive.path} has no record of a run")
        return
    output.block(table(found))


def table(found: Sequence[RunRecord]) -> str:
    """A line a run, and under it why it failed."""
    rows = [_row(run_record) for run_record in found]
    lines = output.fitting(HEADER, rows, GOES_FIRST, output.width(), left=3).split("\n")
    told = lines[:1]
    for one, line in zip(found, lines[1:], strict=True):
        told.append(line)
        told += [f"    {reason}" for reason in _reasons(one)]
    return "\n".join(told)


def _row(run_record: RunRecord) -> list[str]:
    return [
        run_record.begun[:19].replace("T", " "),
        run_record.command,
        run_record.state if run_record.exit_status is None else _end(run_record.exit_status),
        _took(run_record),
        f"{len(run_record.pairs):,}",
        f"{run_record.trades:,}",
        f"{run_record.calls:,}",
        f"{run_record.refusals:,}",
        f"{run_record.gaps:,}",
    ]


def _end(status: int) -> str:
    return "done" if status == 0 else f"status {status}"


def _reasons(run_record: RunRecord) -> list[str]:
    reasons = [run_record.error] if run_record.error else []
    reasons += [pair.error for pair in run_record.pairs if pair.error]
    first = [
        output.line(shortened(reason.split("\n")[0], output.LONGEST_LINE)) for reason in reasons[:1]
    ]
    return first + ([f"and {len(reasons) - 1:,} more; --json tells all"] if reasons[1:] else [])


def _took(run_record: RunRecord) -> str:
    if run_record.ended is None:
        return ""
    seconds = (
        datetime.fromisoformat(run_record.ended) - datetime.fromisoformat(run_record.begun)
    ).total_seconds()
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _plain(run_record: RunRecord) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(run_record),
        "trades": run_record.trades,
        "gaps": run_record.gaps,
    }
