"""A chart of candles: asked of an archive, looked at in a notebook, kept as one file."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from harvester.argument_types import check_types
from harvester.charts.candle_arrays import Drawn, arranged, drawable
from harvester.charts.figure import frame_of, note
from harvester.errors import NothingHeld, UsageError
from harvester.kraken.pairs import Pair
from harvester.query.candle_query import CandleQuery
from harvester.query.candles import candle_batches
from harvester.query.connection import MEMORY_LIMIT
from harvester.query.plan import gap_notes, gaps_in, refuse_gaps
from harvester.storage.export import file_sink
from harvester.storage.trade_store import TradeStore

if TYPE_CHECKING:
    import plotly.graph_objects as go

IMAGES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """A chart: shown by a notebook, kept by `save`.

    Attributes:
        figure: plotly's, to be changed as one likes before it is shown or saved.
        title: what it shows, as plain text.
        notes: what is to be known of it: an interval made coarser, ranges that are not downloaded.
        file_name: a name for its file, such as XBTUSD-1h.html, by the pair and the interval that
            was asked for.
    """

    figure: go.Figure
    title: str
    notes: tuple[str, ...]
    file_name: str

    def html(self) -> str:
        """One page that needs no network: plotly.js is in it, some 5 MB.

        Example:
            >>> page = archive.chart("XBT/USD", "1h").html()
            >>> "XBT/USD, 1h candles" in page, "src=" in page.partition("<script")[0]
            (True, False)
        """
        from harvester.charts.save import page_of

        return page_of(self.figure, self.title)

    @check_types
    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep it as a file, which stands there whole or not at all.

        Args:
            path: ends in .html, or (with the extra `png`, and a Chrome or Chromium) in .png, .svg
                or .pdf.

        Raises:
            UsageError: it ends in something else, or the extra is not installed.
            ArchiveUnwritable: the machine refused to write.
            HarvesterError: no browser was found, or it made no image.

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
    """See that a chart can be kept as such a file.

    Raises:
        UsageError: it can't.
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
    question: CandleQuery,
    now_ns: int,
    *,
    memory_limit: str = MEMORY_LIMIT,
    strict: bool = False,
) -> Chart:
    """Candles and volume of a pair to look at; an interval too fine for a screen is made coarser.

    Args:
        archive: where the tape is.
        pair: its names.
        question: what is asked; nothing is filled in.
        now_ns: what is yet to come is no gap.
        memory_limit: what DuckDB may use.
        strict: raise where a part of the requested range is not downloaded.

    Raises:
        ArchiveHasGaps: with `strict`, there are gaps.
        NothingHeld: no trade of the pair is held in the span.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """
    from harvester.charts.figure import Words, figure_of

    if strict:
        refuse_gaps(pair.altname, gaps_in(archive, pair.altname, question.span, now_ns))
    name = pair.wsname or pair.altname
    whole = replace(question, fill="none", all_columns=True)
    drawn = drawable(archive, whole)
    interval = drawn.question.interval
    table = pa.Table.from_batches(
        list(candle_batches(archive, drawn.question, memory_limit=memory_limit))
    )
    if not table.num_rows:
        raise NothingHeld(
            f"no trade of {name} is held from {question.span}: `harvester status` tells "
            "what is covered"
        )
    candles = arranged(table, interval, pair)
    frame = frame_of(archive, drawn.question, candles.range, now_ns)
    title = f"{name}, {interval.text} candles, {frame.told} (UTC)"
    remarks = _notes(question, drawn)
    shown = [*remarks, *([note(frame.gaps)] if frame.gaps else [])]
    base, _, quote = pair.wsname.partition("/")
    words = Words(title, shown, base if quote else "", quote, interval.text)
    notes = (*remarks, *gap_notes(frame.gaps))
    file_name = f"{pair.altname}-{question.interval.name}.html"
    return Chart(figure_of(candles, frame, words), title, notes, file_name)


def _notes(asked: CandleQuery, drawn: Drawn) -> list[str]:
    notes = []
    interval = drawn.question.interval
    if interval is not asked.interval:
        notes.append(
            f"{asked.interval.text} would be up to {drawn.asked:,} candles, more than a screen "
            f"shows: {interval.text} instead"
        )
    if asked.tz is not None:
        notes.append(f"candles follow the clock of {asked.tz}")
    return notes
