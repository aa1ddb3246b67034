"""How an answer is made, for people and for machines."""

from __future__ import annotations

from harvester.cli import output
from harvester.errors import UsageError
from harvester.query.explain import Explanation, FileRead


def check_explained(form: str | None, file: str | None, *, is_one: bool) -> None:
    """Hold the other options to what --explain can tell of.

    Raises:
        UsageError: one of them makes no sense beside it.
    """
    if not is_one:
        raise UsageError("--explain tells of one pair and one --interval at a time: give one each")
    if form not in (None, "table", "json"):
        raise UsageError(f"--explain writes a table or JSON, and --format is {form}: give -f json")
    if file is not None:
        raise UsageError("--explain writes to stdout: leave -o out, or pipe it on")


def show_explanation(explanation: Explanation, form: str | None) -> None:
    """Print what is read, and the SQL."""
    if form == "json":
        output.as_json(_report(explanation))
    else:
        output.block("\n\n".join(_paragraphs(explanation)))


def _paragraphs(explanation: Explanation) -> list[str]:
    rows = _counted(sum(read.rows for read in explanation.reads), "row")
    what = [f"{explanation.query.title}, {explanation.query.range}: {rows} read"]
    if explanation.passes > 1:
        what.append("twice, once to see that no price has more decimals than are shown")
    what.append(f"in {_counted(explanation.parts, 'part')}")
    reads = [*([explanation.close_read] if explanation.close_read else []), *explanation.reads]
    told = [", ".join(what)]
    if explanation.reads:
        told.append(output.columns(["level", "files", "rows read"], _totals(explanation)))
    if reads:
        header = ["level", "file", "range", "rows read"]
        table = output.columns(header, [_row(read, explanation) for read in reads], left=3)
        told.append(table)
    if explanation.close_read:
        told.append("close: the trade whose price is carried into the span")
    return [*told, f"{explanation.sql};"]


def _totals(explanation: Explanation) -> list[list[str]]:
    return [[total.level, f"{total.files:,}", f"{total.rows:,}"] for total in explanation.totals]


def _row(read: FileRead, explanation: Explanation) -> list[str]:
    level = "close" if read is explanation.close_read else read.level
    return [level, read.file, str(read.range), f"{read.rows:,}"]


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _report(explanation: Explanation) -> dict[str, object]:
    query = explanation.query
    return {
        "pair": query.pair,
        "interval": query.interval.text,
        "range": query.range,
        "reads": [read._asdict() for read in explanation.reads],
        "close_read": explanation.close_read and explanation.close_read._asdict(),
        "totals": [total._asdict() for total in explanation.totals],
        "passes": explanation.passes,
        "parts": explanation.parts,
        "sql": explanation.sql,
    }
