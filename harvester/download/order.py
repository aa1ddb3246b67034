"""The tape's order, and two views of the same trades as one: pure, without I/O."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.columns import Int64s, joined, times, trade_ids


def joined_rows(first: pa.RecordBatch, second: pa.RecordBatch) -> pa.RecordBatch:
    """Two batches as one, without a copy where one of them is empty."""
    return joined([batch for batch in (first, second) if batch.num_rows])


def in_order(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows in the tape's order: by time, then trade id, then place; repeats dropped.

    A row repeats another one if they have an id and are equal in every field: two trades of one
    id and time that differ in another field are two trades. A row without an id keeps its place
    behind the row that it followed.
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
    repeats = _repeats(rows, trade_ids(rows), stamps)
    return rows.filter(pa.array(~repeats)) if repeats.any() else rows


def unite(held: pa.RecordBatch, new: pa.RecordBatch) -> pa.RecordBatch:
    """Two views of the same trades as one: of each distinct row as many as the view with more has.

    Uniting with the same view again changes nothing. Rows without an id that look alike are
    several trades; where one view shows fewer of them, it shows less of the group.

    Args:
        held: one view, as `in_order` gives it.
        new: the other one, likewise.
    """
    if held.num_rows == 0 or new.num_rows == 0:
        return new if held.num_rows == 0 else held
    base, other = (new, held) if new.num_rows >= held.num_rows else (held, new)
    if base.slice(0, other.num_rows).equals(other):
        return base
    surplus = Counter(_values(base, np.arange(base.num_rows)))
    added = []
    for place, values in enumerate(_values(other, np.arange(other.num_rows))):
        if surplus[values]:
            surplus[values] -= 1
        else:
            added.append(place)
    if not added:
        return base
    more = np.array(added)
    stamps = np.concatenate((times(base), times(other)[more]))
    # Keys of each view by itself: a row without an id stays behind the row it followed there.
    keys = np.concatenate(
        [
            _carried(trade_ids(base), times(base)),
            _carried(trade_ids(other), times(other))[more],
        ]
    )
    rows = joined([base, other.take(pa.array(more))])
    return rows.take(pa.array(np.lexsort((keys, stamps))))


def _repeats(rows: pa.RecordBatch, ids: Int64s, stamps: Int64s) -> NDArray[np.bool_]:
    """Which rows have an id and equal a row before them in every field."""
    repeats = np.zeros(len(ids), dtype=np.bool_)
    order = np.lexsort((ids, stamps))
    ids, stamps = ids[order], stamps[order]
    twins = (ids[1:] == ids[:-1]) & (stamps[1:] == stamps[:-1]) & (ids[1:] != 0)
    if not twins.any():
        return repeats
    # In their order: a repeat is the later one.
    places = np.unique(order[np.concatenate((twins, [False])) | np.concatenate(([False], twins))])
    seen = set()
    for place, values in zip(places, _values(rows, places), strict=True):
        repeats[place] = values in seen
        seen.add(values)
    return repeats


def _values(rows: pa.RecordBatch, places: Int64s) -> list[tuple[object, ...]]:
    """All fields of some rows, to be compared."""
    some = rows.take(pa.array(places))
    rest = (column.to_pylist() for column in some.drop_columns(["trade_id", "time"]).columns)
    return list(zip(trade_ids(some).tolist(), times(some).tolist(), *rest, strict=True))


def _carried(ids: Int64s, stamps: Int64s) -> Int64s:
    """Each row's id, or where it has none that of the nearest row before it of the same stamp."""
    if ids.all():
        return ids
    anchored = ids != 0
    anchored[0] = True
    anchored[1:] |= stamps[1:] != stamps[:-1]
    carried: Int64s = ids[np.maximum.accumulate(np.where(anchored, np.arange(len(ids)), 0))]
    return carried
