"""What `verify --against-csv` does beyond its option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harvester.cli import output
from harvester.cli.options import Common
from harvester.cli.progress import display
from harvester.cli.proving import print_interval, verdict
from harvester.csv_import.files import Member
from harvester.download.events import Begun, Step
from harvester.errors import ArchiveIncomplete, gravest
from harvester.kraken.pairs import Pair
from harvester.pair_names import known_pairs
from harvester.storage.trade_store import TradeStore
from harvester.verify.against_csv import Chosen, choose, compare
from harvester.verify.reports import CsvReport

MOST_SHOWN = 8


class Asked(NamedTuple):
    """What is to be compared.

    Attributes:
        members: all that the files hold.
        names: altnames of the pairs that may be compared.
        all_of_them: whether each of them was named, so that one without a file is told.
    """

    members: Sequence[Member]
    names: Sequence[str]
    all_of_them: bool


def against_csv(
    common: Common, archive: TradeStore, asked: Asked, *, as_json: bool
) -> dict[str, CsvReport]:
    """Hold pairs of an archive against files of candles, and tell as each is done."""
    known = known_pairs(archive)
    chosen = choose(asked.members, asked.names, known.values())
    if not common.quiet:
        _tell_of_others(chosen)
    works = {name: files for name, files in chosen.files.items() if files or asked.all_of_them}
    if not works:
        output.error("nothing compared: none of the files is of a pair that is held")
    found = {}
    with display(quiet=common.quiet, log_json=common.log_json) as shown:
        shown.tell(Begun(len(works)))
        for name, files in works.items():

            def tell(done: int, of: int, name: str = name) -> None:
                shown.tell(Step(name, done, of, "bytes"))

            pair = known.get(name, Pair(altname=name))
            limit = common.settings.candles.memory_limit
            found[name] = compare(archive, pair, files, limit, tell)
            with shown.aside():
                for error in found[name].errors:
                    output.error(f"{name}: {error}")
                if not as_json:
                    _print(found[name])
    return found


def exit_status(found: Mapping[str, CsvReport]) -> int:
    """The gravest of all pairs'; 4 where nothing was compared."""
    if not found:
        return ArchiveIncomplete.exit_status
    return gravest([one.exit_status for one in found.values()])


def _tell_of_others(chosen: Chosen) -> None:
    if chosen.passed_over:
        output.hint(
            f"passed over: {chosen.passed_over:,} files of pairs that are not asked for or not held"
        )
    if unknown := chosen.unknown:
        shown = ", ".join(map(str, unknown[:MOST_SHOWN]))
        more = " ..." if len(unknown) > MOST_SHOWN else ""
        output.hint(
            f"passed over: {len(unknown):,} files whose names are not those of candles of a known "
            f"pair, such as XBTUSD_60.csv: {shown}{more}"
        )


def _print(report: CsvReport) -> None:
    output.result(f"{report.pair} against the files: {_verdict(report)}")
    for file in report.files:
        if file.error is None:
            print_interval(f"{file.interval.minutes}m, {file.file}", file.interval)


def _verdict(report: CsvReport) -> str:
    if report.is_held and not report.files:
        return "nothing compared: none of them is of it"
    if not report.errors:
        return verdict(report)
    failed = f"{len(report.errors)} of {len(report.files)} FILES NOT READ"
    return f"{failed}; {verdict(report)}" if report.compared else failed
