"""What the asking commands do, apart from their options."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from harvester.cli.delivery import EXPORTS, deliver, folder_of, span_of, tell, tell_written
from harvester.cli.exporters import export_trades
from harvester.cli.formats import form_of, write
from harvester.cli.options import Common
from harvester.config import Settings
from harvester.download.pair_selection import refresh_pairs
from harvester.errors import UnknownPair, UsageError
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair, search
from harvester.pair_names import known_pairs, resolve_held
from harvester.query.plan import check_gaps
from harvester.schema import TRADES
from harvester.storage.trade_store import TradeStore
from harvester.times import parse_moment


def bars(common: Common, pair: str, **given: Any) -> None:
    """Write bars that are not of time."""
    from harvester.query.bars import BYS, BarQuery, bar_batches, counted_ranges, parse_size

    form_of(given["form"], given["file"])
    sizes = [(by, given[by]) for by in BYS if given[by] is not None]
    if len(sizes) != 1:
        raise UsageError("what ends a bar? Give one of --trades N, --volume X and --value X")
    size = parse_size(*sizes[0])
    wanted = span_of(given["since"], given["until"])
    anchor_ns = parse_moment(given["anchor"], time.time_ns())
    archive = common.existing()
    one = resolve_held(archive, pair)
    question = BarQuery(
        one.altname, size, wanted, anchor_ns, given["all_columns"], given["complete_only"]
    )
    spans, strict = counted_ranges(question), given["strict"]
    notes = check_gaps(archive, one.altname, spans, time.time_ns(), strict=strict)
    batches = bar_batches(archive, question)
    deliver(common, batches, "bars", given["form"], given["file"], notes)


def trades(common: Common, pair: str, **given: Any) -> None:
    """Write trades."""
    if given["form"] not in EXPORTS:
        form_of(given["form"], given["file"])
    wanted = span_of(given["since"], given["until"])
    archive = common.existing()
    one = resolve_held(archive, pair)
    notes = check_gaps(archive, one.altname, [wanted], time.time_ns(), strict=given["strict"])
    batches = archive.scan(one.altname, wanted)
    if given["form"] in EXPORTS:
        written = export_trades(batches, one, folder_of(given["form"], given["file"]))
        tell_written(common, written, notes)
        return
    rows = write(batches, TRADES, given["form"], given["file"], notes)
    tell(common, rows, "trades", given["file"], notes)


def pairs(common: Common, text: str, *, update: bool) -> list[Pair]:
    """The markets whose names hold `text`.

    Raises:
        UnknownPair: there is none.
    """
    archive = TradeStore(common.settings.archive.path)
    known = known_pairs(archive)
    if update or len(known) <= len(archive.held()):
        from harvester.cli.crawling import show_warnings

        show_warnings(verbose=common.verbose > 0)
        known = asyncio.run(_ask_pairs(common.settings, archive))
    found = search(text, known.values())
    if not found:
        raise UnknownPair(f"no market bears {text!r} in its names; --update asks the exchange anew")
    return found


async def _ask_pairs(settings: Settings, archive: TradeStore) -> dict[str, Pair]:
    async with Client(settings.exchange) as client:
        return await refresh_pairs(client, archive)
