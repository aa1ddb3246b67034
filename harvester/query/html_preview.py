"""HTML for notebooks: a table, and the first rows of a DuckDB relation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

STYLE = "border-collapse:collapse;font-variant-numeric:tabular-nums"
FAINT = "opacity:.65;font-weight:normal"
"""Nothing but opacity is set, so that the notebook's own colours, light or dark, stay."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table of cells that are HTML already; the first `left` columns stand to the left."""
    sides = ["left" if place < left else "right" for place in range(len(header))]
    cells = [
        "".join(
            f'<{kind} style="text-align:{side};vertical-align:top">{text}</{kind}>'
            for side, text in zip(sides, row, strict=True)
        )
        for kind, row in [("th", header), *(("td", row) for row in rows)]
    ]
    return f'<table style="{STYLE}">{"".join(f"<tr>{row}</tr>" for row in cells)}</table>'


def preview(title: str, whole: duckdb.DuckDBPyRelation, units: Mapping[str, str], rows: int) -> str:
    """The first rows, exact, under names, types and units; all text of others is escaped."""
    kinds = [str(kind) for kind in whole.types]
    header = [
        f'{escape(name)}<br><small style="{FAINT}">{escape(units.get(name, kind.lower()))}</small>'
        for name, kind in zip(whole.columns, kinds, strict=True)
    ]
    found = whole.limit(rows + 1).project("COLUMNS(*)::VARCHAR").fetchall()
    cells = [
        [_cell(value, kind) for value, kind in zip(row, kinds, strict=True)] for row in found[:rows]
    ]
    more = "and more" if len(found) > rows else f"{len(found):,} rows"
    note = f'<small style="{FAINT}">{more}</small>'
    return f"<div><strong>{escape(title)}</strong>{table(header, cells)}{note}</div>"


def _cell(value: str | None, kind: str) -> str:
    if value is None:
        return f'<span style="{FAINT}">null</span>'
    if kind.startswith("DECIMAL") and "." in value:
        value = value.rstrip("0").rstrip(".")
    return escape(value)
