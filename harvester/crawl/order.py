"""The tape's order, and two views of the same trades as one: pure, without I/O."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from harvester.columns import Int64s, joined, times, trade_ids


def joined_rows(first: pa.RecordBatch, second: pa.RecordBatch) -> pa.RecordBatch:
    """Two batches as one, without a copy where one of them is empty."""
    return joined([batch for batch in (first, second) if batch.num_rows])


def in_order(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows in the tape's order: by time, then trade id, then place; repeats of an id dropped.

    A row without an id keeps its place behind the row that it followed.
    """
    stamps, ids = times(rows), trade_ids(rows)
    ascends = bool((stamps[1:] >= stamps[:-1]).all())
    if ascends and (ids[1:] > ids[:-1]).all() and (ids[:1] > 0).all():
        # As nearly every page comes: each row with an id above the one before.
        return rows
    if not ascends:
        rows = rows.take(pa.array(np.argsort(stamps, kind="stable")))
        stamps = times(rows)
    keys = _carried(trade_ids(rows), stamps)
    later, equal = stamps[1:] > stamps[:-1], stamps[1:] == stamps[:-1]
    if not (later | (equal & (keys[1:] >= keys[:-1]))).all():
        rows = rows.take(pa.array(np.lexsort((keys, stamps))))
        stamps = times(rows)
        equal = stamps[1:] == stamps[:-1]
    ids = trade_ids(rows)
    repeats = equal & (ids[1:] == ids[:-1]) & (ids[1:] != 0)
    if repeats.any():
        keep = np.concatenate(([True], ~repeats))
        rows = rows.filter(pa.array(keep))
    return rows


def unite(held: pa.RecordBatch, new: pa.RecordBatch) -> pa.RecordBatch:
    """Two views of the trades of one stamp as one: the fuller, and what only the other has by id.

    Both are beginnings of the same group, so of rows without ids the longer run is right.
    """
    if held.num_rows == 0 or new.num_rows == 0:
        return new if held.num_rows == 0 else held
    base, other = (new, held) if new.num_rows >= held.num_rows else (held, new)
    have, ids = trade_ids(base), trade_ids(other)
    if (have[: len(ids)] == ids).all():
        return base
    more = (ids != 0) & ~np.isin(ids, have)
    if not more.any():
        return base
    return in_order(joined([base, other.filter(pa.array(more))]))


def _carried(ids: Int64s, stamps: Int64s) -> Int64s:
    """Each row's id, or where it has none that of the nearest row before it of the same stamp."""
    if ids.all():
        return ids
    anchored = ids != 0
    anchored[0] = True
    anchored[1:] |= stamps[1:] != stamps[:-1]
    carried: Int64s = ids[np.maximum.accumulate(np.where(anchored, np.arange(len(ids)), 0))]
    return carried
