"""What is not answered unless it is asked for in so many words."""

from __future__ import annotations

from harvester.errors import UsageError
from harvester.query.plan import Plan, clipped
from harvester.query.question import Question
from harvester.query.session import Session
from harvester.storage.trade_store import Archive
from harvester.times import END_OF_TIME

EMPTY_CANDLES = 1_000_000
"""Empty candles beyond the number of trades that an answer without a named end may come to."""


def check_empty(archive: Archive, question: Question) -> None:
    """Refuse to fill in a great many empty intervals where nobody said up to when.

    Candles that saw trades are no more than the trades, so an answer without a named end has at
    most that many and `EMPTY_CANDLES`.

    Raises:
        UsageError: there are too many.
        NothingHeld: the archive holds nothing of the pair.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """
    if question.fill == "none" or question.span.through < END_OF_TIME:
        return

    def count(one: Plan) -> int:
        return _empty(archive, one)

    empty = Session(archive).whoever_writes(question, count)
    if empty > EMPTY_CANDLES:
        raise UsageError(
            f"{question.title}: --fill {question.fill} would add some {empty:,} empty ones, and "
            "no --until says where to end: give --until (now means all of them), a longer "
            "interval, or --fill none"
        )


def _empty(archive: Archive, one: Plan) -> int:
    """How many intervals are filled at least, but for those between a hole and the next trade."""
    if one.opening is None:
        return 0
    lengths = (run.whole.last - max(run.whole.first, one.opening) + 1 for run in one.runs)
    pieces = clipped(one.held, one.question.span)
    trades = sum(archive.footer(piece.segment).rows for piece in pieces)
    return sum(max(length, 0) for length in lengths) - trades
