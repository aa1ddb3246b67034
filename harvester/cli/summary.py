"""What a run over several pairs came to, short enough to be read when there were hundreds."""

from __future__ import annotations

from collections.abc import Sequence

from harvester.cli import output
from harvester.download.events import BackfillResult
from harvester.errors import Interrupted

MOST_LISTED = 20


def summary(outcomes: Sequence[BackfillResult]) -> str:
    """A table of how many pairs were done, failed, have gaps or were stopped, and the failures."""
    groups: dict[str, list[BackfillResult]] = {}
    for kind in ("done", "not agreeing", "with gaps", "failed", "stopped"):
        if found := [outcome for outcome in outcomes if _kind(outcome) == kind]:
            groups[kind] = found
    rows = [
        [
            kind,
            f"{len(found):,}",
            f"{sum(one.trades for one in found):,}",
            f"{sum(one.pages for one in found):,}",
        ]
        for kind, found in groups.items()
    ]
    lines = [output.columns(["", "pairs", "trades", "pages"], rows)]
    for kind in ("not agreeing", "with gaps", "failed"):
        found = groups.get(kind, [])
        lines += [f"{kind}: {_reason(one)}" for one in found[:MOST_LISTED]]
        if len(found) > MOST_LISTED:
            lines.append(f"{kind}: and {len(found) - MOST_LISTED} more; --json tells all")
    return "\n".join(lines)


def _kind(outcome: BackfillResult) -> str:
    if isinstance(outcome.error, Interrupted):
        return "stopped"
    if outcome.error is not None:
        return "failed"
    if outcome.gaps:
        return "with gaps"
    return "done" if outcome.exit_status == 0 else "not agreeing"


def _reason(outcome: BackfillResult) -> str:
    if outcome.error is None and not outcome.gaps:
        return f"{outcome.pair}: {outcome.upgrade}"
    if outcome.error is None:
        return f"{outcome.pair}: {len(outcome.gaps)} gaps, the first {outcome.gaps[0]}"
    return output.line(f"{outcome.pair}: {str(outcome.error).removeprefix(f'{outcome.pair}: ')}")
