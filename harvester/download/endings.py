"""How one pair's work ended, when many pairs are at work."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable

from harvester.errors import HarvesterError


async def error_of(work: Awaitable[None]) -> HarvesterError | None:
    """Do one pair's work, and return what ended it, if anything did: the others go on."""
    try:
        await work
    except HarvesterError as reason:
        _let_go(reason)
        return reason
    except Exception as fault:  # noqa: BLE001 - one pair's fault must not end the others
        _let_go(fault)
        error = HarvesterError(f"a fault of harvester itself: {type(fault).__name__}: {fault}")
        error.__cause__ = fault
        return error
    return None


def _let_go(error: BaseException) -> None:
    """Keep the lines of a traceback, and not the trades that its frames hold on to."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
