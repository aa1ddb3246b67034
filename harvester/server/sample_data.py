"""A made-up market, served on this machine as Kraken would serve it: for demos and tests."""

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
from harvester.schema import ORDER_TYPES, PRICE, ROWS, SIDES, VOLUME, Int64s
from harvester.storage.footer import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import keep_pairs, writer
from harvester.times import DAY, Range

# --- made -----------------------------------------------------------------------------------------

MADE_PAIR = Pair(
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
"""2026-01-31T00:00Z: all made trades were published before it, in the ten days that end there."""

UNIT_NS = 100
"""Kraken prints seven decimals of a second today."""

LARGEST_GROUP = 17
"""So many trades of one stamp were seen in one captured page."""

_SPAN_UNITS = 10 * DAY // UNIT_NS
_FIRST_TICKS = 600_000
_TICK = 10 ** (PRICE.scale - 1)
_TICKS_A_DAY = 12_000.0
"""How far the price strays in a day, as one standard deviation: two percent, in ticks of 0.1."""


def made_tape(trades: int, seed: int) -> pa.RecordBatch:
    """Trades that nobody made: the same ones for the same seed.

    A random walk near 60,000 in tenths, bursts with up to 17 trades of one stamp, volumes from
    dust to whales, ids from 1 by one, in the ten days before `END_NS`.

    Returns a batch of `columns.ROWS` in the tape's order.
    """
    random = np.random.default_rng(seed)
    group = _groups(random, trades)
    groups = int(group[-1]) + 1 if trades else 0
    gaps = _gaps(random, groups)
    taker = random.integers(0, 2, groups)
    kind = (random.random(groups) < 0.4).astype(np.int32)
    ticks = _middle(random, gaps)[group] + _reach(random, group) * (1 - 2 * taker[group])
    stamps = END_NS - _SPAN_UNITS * UNIT_NS + np.cumsum(gaps)[group] * UNIT_NS
    columns = [
        pa.array(np.arange(1, trades + 1)),
        pa.array(stamps).cast(pa.timestamp("ns")),
        _decimals(np.maximum(ticks, 1) * _TICK, PRICE),
        _decimals(_volumes(random, trades), VOLUME),
        pa.DictionaryArray.from_arrays(pa.array(taker[group].astype(np.int32)), SIDES),
        pa.DictionaryArray.from_arrays(pa.array(kind[group]), ORDER_TYPES),
        pa.array(np.full(trades, "", dtype=object), pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS)


def made_archive(path: str | os.PathLike[str], trades: int, seed: int) -> TradeStore:
    """A new archive at `path` that holds a made tape of `MADE_PAIR`, covered from 1970 to its end.

    Raises:
        UsageError: an archive with trades stands there already.
        ArchiveUnwritable: the machine refused.
    """
    archive = TradeStore(path)
    if held := archive.held():
        raise UsageError(
            f"the archive at {archive.path} holds trades already ({', '.join(held[:3])}): "
            "give a folder of its own for the made-up market"
        )
    keep_pairs(archive, msgspec.json.encode({MADE_PAIR.altname: MADE_PAIR}))
    span = Range(0, END_NS)
    spelled = msgspec.json.encode(MADE_PAIR).decode()
    with writer(archive, MADE_PAIR.altname) as one:
        one.want(span)
        one.commit(span, made_tape(trades, seed), Footer(span, spelled, source="made"))
    return archive


def _groups(random: np.random.Generator, trades: int) -> Int64s:
    """The group of equal stamps that each trade is of, from 0: most are alone; shape (trades,)."""
    sizes = np.where(
        random.random(trades) < 0.72, 1, np.minimum(random.geometric(0.28, trades), LARGEST_GROUP)
    )
    group: Int64s = np.repeat(np.arange(trades), sizes)[:trades]
    return group


def _gaps(random: np.random.Generator, groups: int) -> Int64s:
    """From the stamp before to each group's, in units of `UNIT_NS`, 1 or more; shape (groups,)."""
    long = random.random(groups) < 0.25
    quick = 1 + random.exponential(30_000, groups).astype(np.int64)
    # A quiet night and a busy afternoon are some dozens of waits that are long together.
    mood = np.repeat(random.lognormal(0.0, 0.4, groups // 256 + 1), 256)[:groups]
    waits = np.where(long, random.exponential(1.0, groups) * mood, 0.0)
    last = random.exponential(1.0)
    left = _SPAN_UNITS - int(quick.sum()) - groups
    gaps: Int64s = quick + (waits / (waits.sum() + last) * max(left, 0)).astype(np.int64)
    return gaps


def _middle(random: np.random.Generator, gaps: Int64s) -> Int64s:
    """The walk between bid and ask at each group, in ticks; it strays by the time that passes."""
    days = gaps * (UNIT_NS / DAY)
    steps = random.standard_t(4, len(gaps)) * np.sqrt(days / 2) * _TICKS_A_DAY
    walk: Int64s = _FIRST_TICKS + np.cumsum(np.rint(steps).astype(np.int64))
    return walk


def _reach(random: np.random.Generator, group: Int64s) -> Int64s:
    """How many ticks from the middle a trade is made: an order eats its way; shape (trades,)."""
    eaten = np.cumsum(random.poisson(0.4, len(group)))
    first = np.searchsorted(group, group)
    reach: Int64s = 1 + eaten - eaten[first] if len(group) else eaten
    return reach


def _volumes(random: np.random.Generator, trades: int) -> Int64s:
    """Heavy-tailed, in units of 1e-8: much dust, some round lots, now and then a whale."""
    drawn = random.lognormal(-4.5, 2.2, trades).clip(1e-8, 900.0)
    units = np.rint(drawn * 1e8).astype(np.int64)
    lots = random.choice(np.array([10**5, 10**6, 10**7, 10**8]), trades)
    volumes: Int64s = np.where(random.random(trades) < 0.12, lots, units)
    return volumes


def _decimals(units: Int64s, kind: pa.DataType) -> pa.Array:
    """Whole units as decimals of that kind; none is negative."""
    words = np.zeros((len(units), 2), dtype=np.int64)
    words[:, 0] = units
    return pa.Array.from_buffers(kind, len(units), [None, pa.py_buffer(words)])


# --- standin --------------------------------------------------------------------------------------

TRADES = 200_000
SEED = 7


class SampleExchange:
    """An exchange on this machine that serves made-up trades. Made by `harvester.sample_exchange`.

    Attributes:
        url: where it answers as Kraken does.
        settings: what `harvester.open` takes to ask it, and as fast as it can answer.
        path: the archive that it serves.
    """

    url: str
    settings: dict[str, Any]
    path: Path

    def __init__(self, trades: int, seed: int, folder: str | os.PathLike[str] | None) -> None:
        from harvester.server.app import serving

        with ExitStack() as open_yet:
            if folder is None:
                folder = tempfile.mkdtemp(prefix="harvester-stand-in-")
                open_yet.callback(shutil.rmtree, folder, ignore_errors=True)
            self.path = Path(folder)
            self.url = open_yet.enter_context(serving(made_archive(folder, trades, seed)))
            self._open = open_yet.pop_all()
        self.settings = {"exchange.url": self.url, "exchange.rate": 0, "refresh.settle_s": 0}
        # Who keeps nothing but the settings of it is served until the process ends.
        atexit.register(self.close)

    def close(self) -> None:
        """End the serving, and remove what it made unless a folder was named."""
        atexit.unregister(self.close)
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<harvester.SampleExchange at {self.url}: made-up trades of XBT/USD>"


@check_types
def sample_exchange(
    trades: int = TRADES, seed: int = SEED, *, folder: str | os.PathLike[str] | None = None
) -> SampleExchange:
    """Serve a market that never was, on this machine, as Kraken would serve it.

    Its trades of XBT/USD are made up, and lie in the ten days before 2026-01-31. It answers Trades,
    OHLC, AssetPairs, Time and SystemStatus until it is closed or the process ends.

    Args:
        trades: how many are made up.
        seed: the same seed gives the same trades.
        folder: where they are kept, and stay; without it in a temporary folder, which goes at the
            end.

    Raises:
        UsageError: `folder` holds trades already, or a number is negative.
        ArchiveUnwritable: the machine refused.

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
