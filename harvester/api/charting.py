"""What an open archive is asked for to look at."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harvester.api.moments import Moment, span_between
from harvester.api.opened import Opened
from harvester.argument_types import check_types
from harvester.times import parse_interval, parse_offset

if TYPE_CHECKING:
    from harvester.charts.chart import Chart


class Charting(Opened):
    """Candles as pictures."""

    @check_types
    def chart(  # noqa: PLR0913 - the options of the command
        self,
        pair: str,
        interval: str | int,
        *,
        since: Moment = "start",
        until: Moment | None = None,
        tz: str | None = None,
        offset: str = "0",
        strict: bool = False,
        complete_only: bool = False,
    ) -> Chart:
        """Candles, vwap and volume by the taker's side, to look at; what is not fetched is shaded.

        A notebook shows it. It needs no network.

        Args:
            pair: which.
            interval: as of `ohlc`. Where that would be more candles than a screen can show (3,000),
                the next coarser one is taken that is not, and the chart says so.
            since: only trades from it on count.
            until: only trades before it count.
            tz: whose clock candles follow; times are shown in UTC all the same.
            offset: opens all later, such as `30m`, or earlier, such as `-7h`.
            strict: raise where a part of the requested range is not downloaded.
            complete_only: leave out candles that are running, cut by `since` or `until`, or touch
                a gap.

        Returns:
            A chart: `.figure` is plotly's, to be changed as one likes; `.save("chart.html")` keeps
            it, as .png, .svg or .pdf with the extra `png`; `.notes` tells what is to be known of
            it, such as ranges that are not downloaded.

        Raises:
            NothingHeld: the archive holds no trades of the pair, or none in that span.
            ArchiveHasHoles: with `strict`, there are gaps.
            BadInterval: the interval, or the offset, is none.
            BadTime: `since` or `until` is no moment, or they are not in order.
            BadSetting: there is no such time zone.
            ArchiveDamaged: a file can't be read, or files keep vanishing.
            HarvesterError: the memory allowed does not suffice.

        Example:
            >>> chart = archive.chart("XBT/USD", "1h", since="2026-01-30")
            >>> chart.title
            'XBT/USD, 1h candles, 2026-01-30 to 2026-01-31 (UTC)'
            >>> len(chart.figure.data[0].x)
            24
        """
        from harvester.charts.chart import chart
        from harvester.query.candle_query import Question

        one = self._held(pair)
        question = Question(
            one.altname,
            parse_interval(str(interval)),
            span_between(since, until),
            offset_ns=parse_offset(offset),
            tz=tz,
            complete_only=complete_only,
        )
        limit = self._settings.candles.memory_limit
        return chart(self._disk, one, question, time.time_ns(), memory_limit=limit, strict=strict)
