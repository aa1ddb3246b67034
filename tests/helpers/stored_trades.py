"""Rows of given times, and segments of them that are written past the writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from segment_rows import batch

from harvester.storage.parquet_files import stage_segment
from harvester.storage.segment import Footer, segment_path
from harvester.storage.trade_store import TradeStore
from harvester.times import Range

PAIR = "XBTUSD"


REST = ("buy", "limit", "")


def made_rows(stamps: list[int], ids: list[int | None] | None = None) -> list[Any]:
    """Rows of these times, with their ties; ids count from 1 unless given."""
    rows: list[Any] = []
    for at, stamp in enumerate(stamps):
        tie = rows[-1][2] + 1 if at and stamps[at - 1] == stamp else 0
        number = at + 1 if ids is None else ids[at]
        rows.append((number, stamp, tie, 1, 2, *REST))
    return rows


def put(
    archive: TradeStore,
    span: Range,
    rows: list[Any],
    *,
    is_imported: bool = False,
    pair_json: str = "{}",
) -> None:
    """Commit the rows that lie in a range, past the writer."""
    inside = [row for row in rows if span.after < row[1] <= span.through]
    footer = Footer(span, pair_json, source="csv" if is_imported else "api")
    batches = [batch(inside)] if inside else []
    staged, _ = stage_segment(archive.store, PAIR, batches, footer)
    last = inside[-1][1] if inside else None
    archive.store.commit(staged, segment_path(PAIR, span, last, is_imported=is_imported))


@pytest.fixture
def archive(tmp_path: Path) -> TradeStore:
    """An archive that has nothing on disk yet."""
    return TradeStore(tmp_path / "data")
