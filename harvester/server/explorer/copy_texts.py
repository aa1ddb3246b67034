"""What is on the screen as a command, as Python and as SQL, to be copied."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from harvester.query.source_choice import text_literal
from harvester.times import parse_moment, show


class CopyTexts(NamedTuple):
    """Three ways to get the same rows.

    Attributes:
        command: a command line for a shell.
        python: one expression; `harvester` is imported.
        sql: a query for `harvester sql` or `Archive.sql`.
    """

    command: str
    python: str
    sql: str


def candle_texts(path: str, pair: str, interval: str, since: str, until: str) -> CopyTexts:
    """Return how to get candles.

    Args:
        path: the archive's folder.
        pair: its name.
        interval: their length.
        since: start time.
        until: end time.
    """
    words = ["harvester", "ohlc", pair, "-i", interval, "--since", since, "--until", until]
    return CopyTexts(
        shlex.join([*words, "--data", path]),
        f"harvester.open({path!r}).ohlc({pair!r}, {interval!r}, since={since!r}, until={until!r})",
        f"FROM ohlc({text_literal(pair)}, {text_literal(interval)}, "
        f"since := {_sql_time(since)}, until := {_sql_time(until)})",
    )


def trade_texts(path: str, pair: str, since: str, last: str) -> CopyTexts:
    """Return how to get trades.

    Args:
        path: the archive's folder.
        pair: its name.
        since: the time of the first one.
        last: the time of the last one.
    """
    until = _next_instant(last)
    words = ["harvester", "trades", pair, "--since", since, "--until", until, "--data", path]
    return CopyTexts(
        shlex.join(words),
        f"harvester.open({path!r}).trades({pair!r}, since={since!r}, until={until!r})",
        f"FROM tape({text_literal(pair)}) "
        f"WHERE time >= {_sql_time(since)} AND time <= {_sql_time(last)}",
    )


def sql_texts(path: str, query: str) -> CopyTexts:
    """Return how to run a query, without the explorer's limits.

    Args:
        path: the archive's folder.
        query: the SQL.
    """
    return CopyTexts(
        shlex.join(["harvester", "sql", query, "--data", path]),
        f"harvester.open({path!r}).sql({query!r})",
        query,
    )


def _next_instant(moment: str) -> str:
    """The nanosecond after a time as `show` writes it: `until` is exclusive."""
    return show(parse_moment(moment, 0) + 1) if moment else ""


def _sql_time(moment: str) -> str:
    return f"TIMESTAMP_NS {text_literal(moment.removesuffix('Z').replace('T', ' '))}"
