"""What `ohlc` does: one answer on stdout or in a file, several in a folder, or how one is made."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from harvester.cli.delivery import (
    EXPORTS,
    Wanted,
    check_folder,
    deliver,
    folder_of,
    span_of,
    tell_written,
    write_all,
)
from harvester.cli.explaining import check_explained, show_explanation
from harvester.cli.exporters import export_candles
from harvester.cli.formats import form_of
from harvester.cli.options import Common
from harvester.errors import UsageError
from harvester.pair_names import resolve_held
from harvester.query.calendar import find_time_zone
from harvester.query.candles import candle_batches, guard_against_huge_fill
from harvester.query.explain import explain
from harvester.query.plan import CandleQuery, check_gaps
from harvester.storage.trade_store import TradeStore
from harvester.times import Interval, parse_interval, parse_offset


def ohlc(common: Common, pair: tuple[str, ...], interval: tuple[str, ...], **given: Any) -> None:
    """Write candles, or tell how they are made."""
    form, file = given["form"], given["file"]
    is_one = len(pair) == len(interval) == 1
    # By their names, each once: 60 and 60m are the same.
    intervals = list({one.name: one for one in map(parse_interval, interval)}.values())
    archive = common.existing()
    if given["explain"]:
        check_explained(form, file, is_one=is_one)
    elif not is_one:
        check_folder(form, file)
    elif form not in EXPORTS:
        form_of(form, file)
    wanted = _wanted(archive, pair, intervals[0], given)
    if not given["explain"]:
        wanted = [_checked(archive, asked, strict=given["strict"]) for asked in wanted]
    if given["explain"]:
        limit = common.settings.candles.memory_limit
        show_explanation(explain(archive, wanted[0].question, memory_limit=limit), form)
        return
    for one in wanted:
        for length in intervals:
            guard_against_huge_fill(archive, replace(one.question, interval=length))
    if is_one:
        _write_one(common, archive, wanted[0], form, file)
    else:
        write_all(common, archive, wanted, intervals, form, file)


def print_candles(common: Common, pair: str, interval: str, since: str, until: str) -> None:
    """Candles as a table on stdout."""
    given = {"since": since, "until": until, "fill": "none", "offset": "0", "tz": None}
    more = {"all_columns": False, "explain": False, "form": "table", "file": None}
    more |= {"strict": False, "complete_only": False}
    ohlc(common, (pair,), (interval,), **given, **more)


def _wanted(
    archive: TradeStore, names: tuple[str, ...], interval: Interval, given: dict[str, Any]
) -> list[Wanted]:
    """Each pair, once, with what is asked of it."""
    offset_ns = parse_offset(given["offset"])
    tz = None if given["tz"] is None else find_time_zone(given["tz"]).key
    span = span_of(given["since"], given["until"])
    if not all(name.strip() for name in names):
        raise UsageError("a pair's name is empty: give one such as XBT/USD")
    pairs = {pair.altname: pair for pair in (resolve_held(archive, name) for name in names)}
    return [
        Wanted(
            pair,
            CandleQuery(
                pair=pair.altname,
                interval=interval,
                range=span,
                fill=given["fill"],
                all_columns=given["all_columns"],
                offset_ns=offset_ns,
                tz=tz,
                pair_decimals=pair.pair_decimals,
                complete_only=given["complete_only"],
            ),
        )
        for pair in pairs.values()
    ]


def _checked(archive: TradeStore, wanted: Wanted, *, strict: bool) -> Wanted:
    """The same with notes on the gaps in the requested range.

    Raises:
        ArchiveHasGaps: there are gaps, and the query is strict.
    """
    question, now_ns = wanted.question, time.time_ns()
    notes = check_gaps(archive, question.pair, [question.range], now_ns, strict=strict)
    return wanted._replace(notes=notes)


def _write_one(
    common: Common, archive: TradeStore, wanted: Wanted, form: str | None, file: str | None
) -> None:
    pair, question, notes = wanted
    limit = common.settings.candles.memory_limit
    if form in EXPORTS:
        whole = replace(question, all_columns=True)
        batches = candle_batches(archive, whole, memory_limit=limit)
        folder = folder_of(form, file)
        written = export_candles(batches, pair, question.interval, form, folder)
        tell_written(common, written, notes)
        return
    batches = candle_batches(archive, question, memory_limit=limit)
    deliver(common, batches, "candles", form, file, notes)
