"""Harms done by hand to an archive of four segments, and what must be said of each."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import sample_trades
from backfills import Backfill, serve
from kraken_market import Market
from kraken_server import Exchange

from harvester import config
from harvester.kraken.client import Client
from harvester.pair_selection import request_pairs
from harvester.storage.parquet_files import WRITER_OPTIONS
from harvester.storage.trade_store import TradeStore
from harvester.times import Range

PAIR = "XBTUSD"
TRADES = sample_trades.xbtusd_like(800, 171)
MARKET = sample_trades.market(TRADES)
END = TRADES[-1].true_ns + 10**9
EDGES = [0, *(TRADES[place].true_ns for place in (199, 399, 599)), END]
RANGES = [Range(*ends) for ends in pairwise(EDGES)]
"""What each of the four segments holds."""
BEYOND_NS = 3_600 * 10**9


class Said(NamedTuple):
    """What `verify` must say of a file, or of a pair: patterns of its texts, and the range."""

    where: str
    texts: tuple[str, ...]
    span: Range

    def lines(self) -> Iterator[str]:
        """Patterns of whole lines."""
        span = span_text(self.span)
        for text in self.texts:
            yield rf"  {re.escape(self.where)}: {text}; range {re.escape(span)}"


Harm = Callable[[Path, int], list[Said]]
"""Harms one of the four segments of an archive."""


def build(folder: Path, part: Callable[[], Path]) -> Path:
    """Make the archive: four segments that touch, what was wanted, and names of pairs."""
    with serve(MARKET) as exchange:
        for span in RANGES:
            fetch(exchange.url, folder, span, part())
        want(folder, Range(0, END))
        asyncio.run(_know(exchange, TradeStore(folder)))
    return folder


def fetch(url: str, folder: Path, span: Range, through: Path) -> None:
    """Put a segment into an archive that was downloaded elsewhere, so that nothing is merged."""
    outcome = Backfill(url, through, {"candles.rollups": ""}).only(PAIR, span)
    assert outcome.error is None
    shutil.copytree(through / "trades", folder / "trades", dirs_exist_ok=True)


def want(folder: Path, *spans: Range) -> None:
    """Say what was asked for."""
    listed = ", ".join(f"[{span.after}, {span.through}]" for span in spans)
    (folder / "wanted").mkdir(exist_ok=True)
    (folder / f"wanted/{PAIR}.json").write_text(f'{{"pair": "{PAIR}", "spans": [{listed}]}}')


async def _know(exchange: Exchange, archive: TradeStore) -> None:
    settings = config.load({"exchange.url": exchange.url}, environment={})
    async with Client(settings.exchange) as client:
        await request_pairs(client, archive)


def market_without(*places: int) -> Market:
    """The market as one shows it that left some trades out."""
    return sample_trades.market(trade for at, trade in enumerate(TRADES) if at not in places)


def segment(folder: Path, place: int) -> Path:
    """The file of one of the four segments."""
    return folder / path_of(RANGES[place])


def path_of(span: Range) -> str:
    """Where a segment stands."""
    return f"trades/pair={PAIR}/year=2024/{span.after:019d}-{span.through:019d}.parquet"


def span_text(span: Range) -> str:
    """A range as lines show it, by datetime; of two neighbouring nanoseconds, the rounder."""
    return " to ".join(_instant(max(end + 1, end, key=_zeros)) for end in span)


def _zeros(stamp_ns: int) -> int:
    return len(str(stamp_ns)) - len(str(stamp_ns).rstrip("0"))


def _instant(stamp_ns: int) -> str:
    if stamp_ns == 0:
        return "the beginning"
    seconds, fraction = divmod(stamp_ns, 10**9)
    when = datetime.fromtimestamp(seconds, UTC)
    if fraction:
        return f"{when:%Y-%m-%d %H:%M:%S}.{fraction:09d}".rstrip("0")
    date, clock = f"{when:%Y-%m-%d %H:%M:%S}".split()
    return date if clock == "00:00:00" else f"{date} {clock.removesuffix(':00')}"


def rewrite(
    file: Path, change: Callable[[pa.Table], pa.Table], footer_of: Path | None = None
) -> None:
    """Write a file again with other rows, as a clumsy tool would: a footer stays."""
    table, footer = pq.ParquetFile(file).read(), pq.read_metadata(footer_of or file).metadata
    kept = {key: text for key, text in footer.items() if key.startswith(b"harvester.")}
    pq.write_table(change(table).replace_schema_metadata(kept), file, **WRITER_OPTIONS)


# --- the harms -----------------------------------------------------------------------------------

CHECKSUM = "the checksum of its rows is not that of its footer"
OUTSIDE = "it has trades outside of its range"


def _other_name(span: Range) -> str:
    return f"its footer says {re.escape(span_text(span))}, its name another range"


def row_taken_out(folder: Path, place: int) -> list[Said]:
    file = segment(folder, place)
    rows = pq.read_metadata(file).num_rows
    rewrite(file, lambda table: pa.concat_tables([table.slice(0, 10), table.slice(11)]))
    text = f"has {rows - 1} rows, but its footer says {rows}"
    return [Said(path_of(RANGES[place]), (text,), RANGES[place])]


def digit_changed(folder: Path, place: int) -> list[Said]:
    def change(table: pa.Table) -> pa.Table:
        prices, kind = table.column("price").to_pylist(), table.schema.field("price")
        prices[50] += Decimal("0.1")
        return table.set_column(3, kind, pa.array(prices, kind.type))

    rewrite(segment(folder, place), change)
    return [Said(path_of(RANGES[place]), (CHECKSUM,), RANGES[place])]


def rows_swapped(folder: Path, place: int) -> list[Said]:
    def change(table: pa.Table) -> pa.Table:
        order = list(range(table.num_rows))
        order[30], order[90] = order[90], order[30]
        return table.take(order)

    rewrite(segment(folder, place), change)
    texts = ("its times go back", "its ties are not the indexes among rows of equal time", CHECKSUM)
    return [Said(path_of(RANGES[place]), texts, RANGES[place])]


def file_lost(folder: Path, place: int) -> list[Said]:
    segment(folder, place).unlink()
    return [Said(PAIR, ("missing: requested, but no file has it",), RANGES[place])]


def file_doubled(folder: Path, place: int) -> list[Said]:
    """Under a name shifted by five nanoseconds."""
    shifted = Range(RANGES[place].after + 5, RANGES[place].through)
    shutil.copy(segment(folder, place), folder / path_of(shifted))
    texts = [_other_name(RANGES[place])]
    # The exchange's first trade of all lies long after the beginning of time.
    texts += [OUTSIDE] if place else []
    texts += [f"it overlaps with {re.escape(path_of(RANGES[place]))}"]
    return [Said(path_of(shifted), tuple(texts), shifted)]


def file_renamed_wider(folder: Path, place: int) -> list[Said]:
    """By an hour, so over all that follows."""
    wider = RANGES[place]._replace(through=RANGES[place].through + BEYOND_NS)
    segment(folder, place).rename(folder / path_of(wider))
    overlap = f"it overlaps with {re.escape(path_of(wider))}"
    return [
        Said(path_of(wider), (_other_name(RANGES[place]),), wider),
        *(Said(path_of(span), (overlap,), span) for span in RANGES[place + 1 :]),
    ]


def bytes_cut_off(folder: Path, place: int) -> list[Said]:
    file = segment(folder, place)
    file.write_bytes(file.read_bytes()[:-100])
    text = (
        f"{re.escape(str(file))} can't be read: Parquet magic bytes not found in footer. Either "
        "the file is corrupted or this is not a parquet file."
    )
    return [Said(path_of(RANGES[place]), (text,), RANGES[place])]


def byte_changed(folder: Path, place: int) -> list[Said]:
    file = segment(folder, place)
    body = bytearray(file.read_bytes())
    body[len(body) // 3] ^= 0xFF
    file.write_bytes(body)
    return [Said(path_of(RANGES[place]), ("[^\n]+",), RANGES[place])]


TYPE_OF_TIME_CHANGED = b"\x15\x04\x25\x00\x18\x04time", b"\x15\x0c\x25\x00\x18\x04time"
"""Thrift in a Parquet footer: the physical type of the column, int64, becomes byte array."""


def replace_bytes(file: Path, old: bytes, new: bytes) -> None:
    """Replace the first place of some bytes in a file by as many others."""
    body = file.read_bytes()
    assert (old in body, len(old)) == (True, len(new))
    file.write_bytes(body.replace(old, new, 1))


def side_changed(folder: Path, place: int) -> list[Said]:
    """One byte in the dictionary of a column."""
    file = segment(folder, place)
    replace_bytes(file, b"sell", b"sel9")
    text = f"{re.escape(str(file))} can't be read: side has the unknown value 'sel9'"
    return [Said(path_of(RANGES[place]), (text,), RANGES[place])]


def type_changed(folder: Path, place: int) -> list[Said]:
    """One byte in the Parquet footer: the type of the column `time`."""
    replace_bytes(segment(folder, place), *TYPE_OF_TIME_CHANGED)
    return [Said(path_of(RANGES[place]), ("[^\n]+",), RANGES[place])]


def footer_swapped(folder: Path, place: int) -> list[Said]:
    """For that of a neighbour, which may have as many rows or not."""
    other = {0: 1, 1: 2, 2: 1, 3: 2}[place]
    rows, stated = (pq.read_metadata(segment(folder, at)).num_rows for at in (place, other))
    rewrite(segment(folder, place), lambda table: table, segment(folder, other))
    ids = "its first and last trade ids are not those of its footer"
    texts = [_other_name(RANGES[other]), CHECKSUM, ids]
    if rows != stated:
        texts = [f"has {rows} rows, but its footer says {stated}"]
    return [Said(path_of(RANGES[place]), tuple(texts), RANGES[place])]


HARMS: tuple[Harm, ...] = (
    row_taken_out,
    digit_changed,
    rows_swapped,
    file_lost,
    file_doubled,
    file_renamed_wider,
    bytes_cut_off,
    byte_changed,
    side_changed,
    type_changed,
    footer_swapped,
)
