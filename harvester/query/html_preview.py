"""HTML for notebooks: tables, and a preview of a DuckDB relation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

STYLE = "border-collapse:collapse;font-variant-numeric:tabular-nums"
FAINT = "opacity:.65;font-weight:normal"
"""Only opacity is set, so that the notebook keeps its own colours, light or dark."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return an HTML table.

    Args:
        header: the cells of the header, as HTML.
        rows: the cells of each row, as HTML.
        left: how many columns are aligned left; the others are aligned right.
    """
    sides = ["left" if index < left else "right" for index in range(len(header))]
    cells = [
        "".join(
            f'<{kind} style="text-align:{side};vertical-align:top">{text}</{kind}>'
            for side, text in zip(sides, row, strict=True)
        )
        for kind, row in [("th", header), *(("td", row) for row in rows)]
    ]
    return f'<table style="{STYLE}">{"".join(f"<tr>{row}</tr>" for row in cells)}</table>'


def preview(
    title: str, relation: duckdb.DuckDBPyRelation, units: Mapping[str, str], rows: int
) -> str:
    """Return the first rows of a relation as an HTML table, with exact values.

    The header shows names and units or types. All text is escaped.

    Args:
        title: stands above the table.
        relation: the rows.
        units: the unit of a column, by its name.
        rows: how many rows are shown.
    """
    kinds = [str(kind) for kind in relation.types]
    header = [
        f'{escape(name)}<br><small style="{FAINT}">{escape(units.get(name, kind.lower()))}</small>'
        for name, kind in zip(relation.columns, kinds, strict=True)
    ]
    first_rows = relation.limit(rows + 1).project("COLUMNS(*)::VARCHAR").fetchall()
    cells = [
        [_cell(value, kind) for value, kind in zip(row, kinds, strict=True)]
        for row in first_rows[:rows]
    ]
    more = "and more" if len(first_rows) > rows else f"{len(first_rows):,} rows"
    note = f'<small style="{FAINT}">{more}</small>'
    return f"<div><strong>{escape(title)}</strong>{table(header, cells)}{note}</div>"


def _cell(value: str | None, kind: str) -> str:
    if value is None:
        return f'<span style="{FAINT}">null</span>'
    if kind.startswith("DECIMAL") and "." in value:
        value = value.rstrip("0").rstrip(".")
    return escape(value)
