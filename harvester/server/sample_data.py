"""A made-up sample market, served on this machine like Kraken's API: for demos and tests."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import pyarrow as pa

from harvester.argument_types import check_types
from harvester.errors import UsageError
from harvester.kraken.pairs import Pair
from harvester.schema import ORDER_TYPES, PAGE_SCHEMA, PRICE, SIDES, VOLUME, Int64s, decimal_array
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, Range

# --- Sample trades --------------------------------------------------------------------------------

SAMPLE_PAIR = Pair(
    altname="XBTUSD",
    key="XXBTZUSD",
    wsname="XBT/USD",
    base="XXBT",
    quote="ZUSD",
    pair_decimals=1,
    lot_decimals=8,
    cost_decimals=5,
    tick_size="0.1",
    status="online",
)
END_NS = 1_769_817_600_000_000_000
"""2026-01-31T00:00Z: the end of the ten days that contain all sample trades."""

UNIT_NS = 100
"""Times are multiples of this: Kraken prints seven decimals of a second today."""

LARGEST_GROUP = 17
"""Most trades of equal time: so many were in one captured page."""

_SPAN_UNITS = 10 * DAY // UNIT_NS
_FIRST_TICKS = 600_000
_TICK = 10 ** (PRICE.scale - 1)
_TICKS_PER_DAY = 12_000.0
"""Standard deviation of the price change in a day, in ticks of 0.1: two percent."""


def sample_trades(trades: int, seed: int) -> pa.RecordBatch:
    """Generate made-up trades in the ten days before `END_NS`.

    Prices are a random walk near 60,000 with one decimal. Up to 17 trades have equal time,
    volumes range from tiny to very large, and ids count from 1.

    Args:
        trades: their number.
        seed: the same seed gives the same trades.

    Returns a batch of `schema.PAGE_SCHEMA` in the trade history's order.
    """
    random = np.random.default_rng(seed)
    group = _groups(random, trades)
    groups = int(group[-1]) + 1 if trades else 0
    waits = _waits(random, groups)
    taker = random.integers(0, 2, groups)
    kind = (random.random(groups) < 0.4).astype(np.int32)
    ticks = _mid_price(random, waits)[group] + _distance(random, group) * (1 - 2 * taker[group])
    stamps = END_NS - _SPAN_UNITS * UNIT_NS + np.cumsum(waits)[group] * UNIT_NS
    columns = [
        pa.array(np.arange(1, trades + 1)),
        pa.array(stamps).cast(pa.timestamp("ns")),
        decimal_array(PRICE, np.maximum(ticks, 1) * _TICK),
        decimal_array(VOLUME, _volumes(random, trades)),
        pa.DictionaryArray.from_arrays(pa.array(taker[group].astype(np.int32)), SIDES),
        pa.DictionaryArray.from_arrays(pa.array(kind[group]), ORDER_TYPES),
        pa.array(np.full(trades, "", dtype=object), pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=PAGE_SCHEMA)


def create_sample_archive(path: str | os.PathLike[str], trades: int, seed: int) -> TradeStore:
    """Create an archive with sample trades of `SAMPLE_PAIR`, covered from 1970 to `END_NS`.

    Args:
        path: its folder.
        trades: the number of trades.
        seed: the same seed gives the same trades.

    Raises:
        UsageError: the folder is an archive with trades already.
        ArchiveUnwritable: writing failed.
    """
    archive = TradeStore(path)
    if stored := archive.stored_pairs():
        raise UsageError(
            f"the archive at {archive.path} has trades already ({', '.join(stored[:3])}): "
            "give another folder for the sample market"
        )
    # Another key than Kraken's: a copy never takes Kraken's trades, but refuses them as those of
    # another market.
    pair = msgspec.structs.replace(SAMPLE_PAIR, key="MADE-UP-XBTUSD")
    store_pairs(archive.store, msgspec.json.encode({pair.altname: pair}))
    covered = Range(0, END_NS)
    pair_json = msgspec.json.encode(pair).decode()
    with open_writer(archive, pair.altname) as pair_writer:
        pair_writer.record_requested(covered)
        pair_writer.commit(
            covered, sample_trades(trades, seed), Footer(covered, pair_json, source="made")
        )
    return archive


def _groups(random: np.random.Generator, trades: int) -> Int64s:
    """The number of each trade's group of equal times, from 0; most have one; shape (trades,)."""
    sizes = np.where(
        random.random(trades) < 0.72, 1, np.minimum(random.geometric(0.28, trades), LARGEST_GROUP)
    )
    group: Int64s = np.repeat(np.arange(trades), sizes)[:trades]
    return group


def _waits(random: np.random.Generator, groups: int) -> Int64s:
    """Time between each group and the one before, in units of `UNIT_NS`; shape (groups,)."""
    long = random.random(groups) < 0.25
    quick = 1 + random.exponential(30_000, groups).astype(np.int64)
    # Quiet and busy hours: 256 consecutive waits share a random factor.
    activity = np.repeat(random.lognormal(0.0, 0.4, groups // 256 + 1), 256)[:groups]
    shares = np.where(long, random.exponential(1.0, groups) * activity, 0.0)
    last = random.exponential(1.0)
    left = _SPAN_UNITS - int(quick.sum()) - groups
    waits: Int64s = quick + (shares / (shares.sum() + last) * max(left, 0)).astype(np.int64)
    return waits


def _mid_price(random: np.random.Generator, waits: Int64s) -> Int64s:
    """The mid price at each group, in ticks: a random walk in time; shape (groups,)."""
    days = waits * (UNIT_NS / DAY)
    steps = random.standard_t(4, len(waits)) * np.sqrt(days / 2) * _TICKS_PER_DAY
    walk: Int64s = _FIRST_TICKS + np.cumsum(np.rint(steps).astype(np.int64))
    return walk


def _distance(random: np.random.Generator, group: Int64s) -> Int64s:
    """Each trade's distance from the mid price, in ticks: an order moves it; shape (trades,)."""
    moved = np.cumsum(random.poisson(0.4, len(group)))
    first = np.searchsorted(group, group)
    distance: Int64s = 1 + moved - moved[first] if len(group) else moved
    return distance


def _volumes(random: np.random.Generator, trades: int) -> Int64s:
    """Heavy-tailed volumes in units of 1e-8: many tiny, some round, a few very large ones."""
    drawn = random.lognormal(-4.5, 2.2, trades).clip(1e-8, 900.0)
    units = np.rint(drawn * 1e8).astype(np.int64)
    lots = random.choice(np.array([10**5, 10**6, 10**7, 10**8]), trades)
    volumes: Int64s = np.where(random.random(trades) < 0.12, lots, units)
    return volumes


# --- Sample exchange ------------------------------------------------------------------------------

DEFAULT_TRADES, DEFAULT_SEED = 200_000, 7
"""What `harvester.sample_exchange` and `harvester demo` use unless others are given."""


class SampleExchange:
    """An API server on this machine with made-up trades; `harvester.sample_exchange` creates it.

    Attributes:
        url: its address.
        settings: settings for `harvester.open` that use it, without a rate limit.
        path: the archive that it serves.
    """

    url: str
    settings: dict[str, Any]
    path: Path

    def __init__(self, trades: int, seed: int, folder: str | os.PathLike[str] | None) -> None:
        from harvester.server.app import kraken_api_app, serve_in_thread

        with ExitStack() as resources:
            if folder is None:
                folder = tempfile.mkdtemp(prefix="harvester-sample-")
                resources.callback(shutil.rmtree, folder, ignore_errors=True)
            self.path = Path(folder)
            archive = create_sample_archive(folder, trades, seed)
            self.url = resources.enter_context(
                serve_in_thread(kraken_api_app(archive), "127.0.0.1", 0)
            )
            self._resources = resources.pop_all()
        self.settings = {"exchange.url": self.url, "exchange.rate": 0, "refresh.settle_s": 0}
        # A caller may keep only its settings, so it runs until the process ends.
        atexit.register(self.close)

    def close(self) -> None:
        """Stop the server, and remove its archive unless a folder was named."""
        atexit.unregister(self.close)
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<harvester.SampleExchange at {self.url}: made-up trades of XBT/USD>"


@check_types
def sample_exchange(
    trades: int = DEFAULT_TRADES,
    seed: int = DEFAULT_SEED,
    *,
    folder: str | os.PathLike[str] | None = None,
) -> SampleExchange:
    """Serve made-up trades of XBT/USD on this machine, like Kraken's API.

    The trades are in the ten days before 2026-01-31. The server answers like Kraken's public
    API, see `harvester serve`, until it is closed or the process ends.

    Args:
        trades: the number of trades.
        seed: the same seed gives the same trades.
        folder: where the trades are stored, and remain; without it, a temporary folder that is
            removed at the end.

    Raises:
        UsageError: `folder` has trades already, or a number is negative.
        ArchiveUnwritable: writing failed.

    Example:
        >>> with harvester.sample_exchange(1_000) as exchange:
        ...     copy = harvester.open("copy", settings=exchange.settings)
        ...     [outcome] = copy.backfill("XBT/USD")
        >>> outcome.trades
        1000
    """
    for name, number in (("trades", trades), ("seed", seed)):
        if number < 0:
            raise UsageError(f"{name} is {number}: give 0 or more")
    return SampleExchange(trades, seed, folder)
