"""A candle chart of a pair: drawn from an archive, shown in a notebook, saved as a file."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from harvester.argument_types import check_types
from harvester.charts.candle_arrays import DrawableQuery, arranged, drawable
from harvester.charts.figure import frame_of, note
from harvester.errors import NothingHeld, UsageError
from harvester.kraken.pairs import Pair
from harvester.query.candles import candle_batches
from harvester.query.connection import MEMORY_LIMIT
from harvester.query.plan import CandleQuery, gap_notes, gaps_in, refuse_gaps
from harvester.storage.output_files import file_sink
from harvester.storage.trade_store import TradeStore

if TYPE_CHECKING:
    import plotly.graph_objects as go

IMAGES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """A chart, which a notebook shows and `save` writes to a file.

    Attributes:
        figure: of plotly; change it as you like before it is shown or saved.
        title: what it shows, as plain text.
        notes: remarks: a coarser interval, ranges that are not downloaded.
        notes: what is to be known of it: an interval made coarser, ranges that are not downloaded.
        file_name: a name for its file, such as XBTUSD-1h.html, by the pair and the interval that
            was asked for.
    """

    figure: go.Figure
    title: str
    notes: tuple[str, ...]
    file_name: str

    def html(self) -> str:
        """An HTML page that needs no network: it contains plotly.js, some 5 MB.

        Example:
            >>> page = archive.chart("XBT/USD", "1h").html()
            >>> "XBT/USD, 1h candles" in page, "src=" in page.partition("<script")[0]
            (True, False)
        """
        from harvester.charts.save import page_of

        return page_of(self.figure, self.title)

    @check_types
    def save(self, path: str | os.PathLike[str]) -> None:
        """Save it as a file, completely or not at all.

        Args:
            path: ends in .html, or (with the extra `png`, and a Chrome or Chromium) in .png, .svg
                or .pdf.

        Raises:
            UsageError: it has another ending, or the extra is not installed.
            ArchiveUnwritable: the machine refused to write.
            HarvesterError: no browser was found, or it produced no image.

        Example:
            >>> archive.chart("XBT/USD", "4h").save("chart.html")
        """
        file = Path(path)
        check_ending(file)
        content = self._content(file.suffix.lower())
        with file_sink(file) as sink:
            sink.write(content)

    def _content(self, ending: str) -> bytes:
        if ending in IMAGES:
            from harvester.charts.save import image_of

            return image_of(self.figure, ending.removeprefix("."))
        return self.html().encode()

    def _repr_html_(self) -> str:
        from harvester.charts.save import frame_in_notebook

        return frame_in_notebook(self.html())


def check_ending(file: Path) -> None:
    """Check that a chart can be saved as such a file.

    Raises:
        UsageError: the ending is not supported.
    """
    ending = file.suffix.lower()
    if ending not in (".html", ".htm", *IMAGES):
        raise UsageError(
            f"{file}: a chart is kept as .html, .png, .svg or .pdf, and not as "
            f"{ending or 'a file without an ending'}"
        )


def chart(
    archive: TradeStore,
    pair: Pair,
    query: CandleQuery,
    now_ns: int,
    *,
    memory_limit: str = MEMORY_LIMIT,
    strict: bool = False,
) -> Chart:
    """Draw candles and volume of a pair, with a coarser interval if there are too many candles.

    Args:
        archive: where the trades are.
        pair: its names.
        query: the candles to draw; empty intervals are not filled.
        now_ns: the current time in nanoseconds; later times are no gap.
        memory_limit: of DuckDB.
        strict: raise an error if a part of the requested range is not downloaded.

    Raises:
        ArchiveHasGaps: with `strict`, there are gaps.
        NothingHeld: no trade of the pair is stored in the requested range.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """
    from harvester.charts.figure import ChartTexts, figure_of

    if strict:
        refuse_gaps(pair.altname, gaps_in(archive, pair.altname, query.range, now_ns))
    name = pair.wsname or pair.altname
    drawn = drawable(archive, replace(query, fill="none", all_columns=True))
    interval = drawn.query.interval
    table = pa.Table.from_batches(
        list(candle_batches(archive, drawn.query, memory_limit=memory_limit))
    )
    if not table.num_rows:
        raise NothingHeld(
            f"no trade of {name} is stored from {query.range}: `harvester status` shows "
            "what is covered"
        )
    candles = arranged(table, interval, pair)
    frame = frame_of(archive, drawn.query, candles.range, now_ns)
    title = f"{name}, {interval.text} candles, {frame.title_range} (UTC)"
    remarks = _notes(query, drawn)
    shown = [*remarks, *([note(frame.gaps)] if frame.gaps else [])]
    base, _, quote = pair.wsname.partition("/")
    texts = ChartTexts(title, shown, base if quote else "", quote, interval.text)
    notes = (*remarks, *gap_notes(frame.gaps))
    file_name = f"{pair.altname}-{query.interval.name}.html"
    return Chart(figure_of(candles, frame, texts), title, notes, file_name)


def _notes(query: CandleQuery, drawn: DrawableQuery) -> list[str]:
    notes = []
    interval = drawn.query.interval
    if interval is not query.interval:
        notes.append(
            f"{query.interval.text} would be up to {drawn.requested_candles:,} candles, more than "
            f"a screen shows: {interval.text} instead"
        )
    if query.tz is not None:
        notes.append(f"candles follow the clock of {query.tz}")
    return notes
