"""Made histories, candles of them from the archive, and their comparison with the oracle."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import candle_oracle
import duckdb
import pyarrow as pa
import sample_trades
import segment_rows
from kraken_market import expected

from harvester import schema
from harvester.query.candles import BATCH_ROWS, QuerySession
from harvester.query.plan import CandleQuery
from harvester.query.sql import read_statements, run_statements
from harvester.storage.segment import Footer
from harvester.storage.trade_store import EVERYTHING, Piece, TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range, parse_interval, union

PAIR = "XBTUSD"


SECOND = 1_000_000_000


MINUTE = 60 * SECOND


START = 1_600_000_020 * SECOND


PLAIN = ("time", "open", "high", "low", "close", "vwap", "volume", "count")


Part = tuple[Range, "Sequence[candle_oracle.Row]"]


def batch(rows: Sequence[candle_oracle.Row]) -> pa.RecordBatch:
    """Rows as the archive takes them."""
    return segment_rows.batch(rows, schema.PAGE_SCHEMA)


def hold(archive: TradeStore, parts: Sequence[Part], pair: str = PAIR) -> TradeStore:
    """Commit each part as a segment; overlapping ones stay, as after a crash in a compaction."""
    with open_writer(archive, pair) as pair_writer:
        for span, rows in parts:
            pair_writer.commit(span, batch(rows), Footer(range=span, pair_json="{}"))
    return archive


def cut(rows: Sequence[candle_oracle.Row], bounds: Sequence[int]) -> list[Part]:
    """Rows in parts that touch, the first from `bounds[0]`, the last through `bounds[-1]`."""
    stamps = [row[1] for row in rows]
    return [
        (Range(a, b), rows[bisect_right(stamps, a) : bisect_right(stamps, b)])
        for a, b in pairwise(bounds)
    ]


def trade(
    after_s: float, price: str = "5", volume: str = "1", side: str | None = "buy"
) -> candle_oracle.Row:
    """A trade without an id, some seconds after START."""
    stamp = START + int(after_s * SECOND)
    return (None, stamp, 0, Decimal(price), Decimal(volume), side, "market", "")


def ohlc(archive: TradeStore, query: CandleQuery, **settings: Any) -> duckdb.DuckDBPyRelation:
    """The candles of a query as a relation; `settings` are those of a session."""
    return QuerySession(archive, **settings).relation(query)


def candle_batches(
    archive: TradeStore, query: CandleQuery, batch_rows: int = BATCH_ROWS, **settings: Any
) -> Iterator[pa.RecordBatch]:
    """The candles of a query as batches; `settings` are those of a session."""
    return QuerySession(archive, **settings).batches(query, batch_rows)


def run_sql(
    archive: TradeStore, query: str, params: Any = None, **settings: Any
) -> duckdb.DuckDBPyRelation:
    """The rows of a query on the views; `settings` are those of `run_statements`."""
    return run_statements(archive, read_statements(query), params, **settings)


def ask(interval: str = "1m", span: Range = EVERYTHING, **more: Any) -> CandleQuery:
    return CandleQuery(PAIR, parse_interval(interval), span, **more)


def answer(relation: duckdb.DuckDBPyRelation) -> list[candle_oracle.Candle]:
    """Candles as the oracle writes them: times are nanoseconds."""
    table = relation.to_arrow_table()
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.int64()))
    return [dict(row) for row in table.to_pylist()]


def is_equal(
    made: Sequence[candle_oracle.Candle], truth: Sequence[candle_oracle.Candle], names: Any
) -> bool:
    """All columns equal to the last digit; the vwap, a double, in twelve."""
    for candle, true in zip(made, truth, strict=True):
        assert {n: candle[n] for n in names if n != "vwap"} == {
            n: true[n] for n in names if n != "vwap"
        }
        if true["vwap"]:
            assert abs(float(candle["vwap"]) / float(true["vwap"]) - 1) < 1e-12
        else:
            assert candle["vwap"] == true["vwap"]
    return True


MADE_HISTORIES = {
    "busy": expected(sample_trades.market(sample_trades.xbtusd_like(900))),
    "without ids": expected(sample_trades.old_style(900)),
    "zero ids": expected(sample_trades.market(sample_trades.zero_ids(900))),
    "look-alikes": expected(sample_trades.market(sample_trades.look_alikes(900))),
    "one stamp": expected(sample_trades.market(sample_trades.one_stamp(500))),
    "new years": expected(sample_trades.market(sample_trades.new_years())),
    "tiny coin": expected(sample_trades.tiny_coin(900)),
    "sparse": expected(sample_trades.market(sample_trades.sparse(300))),
}


def overlapping(rows: Sequence[candle_oracle.Row]) -> list[list[Part]]:
    """Ways in which segments overlap: a merger beside its parts, and one that reaches halfway."""
    a, b, c, d = (rows[i][1] for i in (100, 300, 500, 700))
    end = rows[-1][1]
    bounds = [0, a, b, c, d, end]
    merged = cut(rows, [a, d])
    return [cut(rows, bounds) + merged, cut(rows, [0, c]) + cut(rows, [a, d]) + cut(rows, [b, end])]


def model(
    rows: list[candle_oracle.Row], covered: list[Range], question: CandleQuery, times: Sequence[int]
) -> list[candle_oracle.Candle]:
    """Fill interval by interval, from first principles; `times` are openings around all rows."""
    after, through = question.range
    inside = [row for row in rows if after < row[1] <= through]
    made = {candle["time"]: candle for candle in candle_oracle.candles_between(inside, times)}
    shown = []
    for time, closes in pairwise(times):
        last = closes - 1
        run = next(
            (span for span in union(covered) if span.after < time and last <= span.through), None
        )
        whole = run is not None and after < time and last <= through
        if time in made:
            shown.append(made[time] | {"is_complete": whole})
        elif whole and run is not None:
            before = [row for row in rows if row[1] < time]
            prior = before[-1] if before and before[-1][1] > run.after else None
            shown += [
                candle | {"is_complete": True} for candle in _filling(time, prior, before, question)
            ]
    if question.fill == "kraken":
        for candle in shown:
            candle["vwap"] = candle_oracle.truncated(candle["vwap"], question.pair_decimals)
    return shown


def _filling(
    time: int,
    prior: candle_oracle.Row | None,
    before: list[candle_oracle.Row],
    question: CandleQuery,
) -> list[candle_oracle.Candle]:
    empty = {**candle_oracle.NOTHING, "time": time}
    if question.fill == "null" and before:
        return [empty]
    if question.fill in {"previous", "kraken"} and prior:
        prices = dict.fromkeys(("open", "high", "low", "close"), prior[3])
        return [empty | prices | {"vwap": Decimal(0) if question.fill == "kraken" else None}]
    return []


def closes(archive: TradeStore, **more: Any) -> dict[int, Decimal | None]:
    """The closes by their second after START."""
    found = answer(ohlc(archive, ask("1s", **more)))
    return {(candle["time"] - START) // SECOND: candle["close"] for candle in found}


class Compacting(TradeStore):
    """An archive whose segments are merged right after they were listed to be read."""

    def pieces(self, pair: str, span: Range = EVERYTHING) -> list[Piece]:
        found = super().pieces(pair, span)
        if len(self.segments(pair)) > 1:
            with open_writer(TradeStore(self.path), pair) as pair_writer:
                pair_writer.compact(merge_all=True)
        return found
