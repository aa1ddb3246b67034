"""A program of a user who checks types strictly. `make types` checks it; nothing runs it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, assert_type

import pandas as pd

import harvester


def closes(archive: harvester.Archive, pair: str) -> harvester.Result:
    candles = archive.ohlc(pair, "4h", since=datetime(2024, 1, 1), fill="previous")  # noqa: DTZ001
    assert_type(candles.df(), pd.DataFrame)
    assert_type(candles.filter("volume > 0"), harvester.Result)
    return candles.select("time, close")


with harvester.open("data", settings={"exchange.rate": 0.5}) as archive:
    outcomes = archive.backfill("XBT/USD", since="7d", progress=print)
    assert_type(outcomes[0].error, harvester.HarvesterError | None)
    more: list[harvester.BackfillResult] = asyncio.run(archive.abackfill("XBT/USD"))
    rows: list[tuple[object, ...]] = closes(archive, "XBT/USD").fetchall()
    assert_type(archive.status()[0].first_ns, int | None)
    assert_type(archive.coverage("XBT/USD")[0].after, int)
    assert_type(archive.verify()[0].rows, int)
    assert_type(archive.sql("FROM trades").to_arrow_reader(), Any)
