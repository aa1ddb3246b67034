"""The wish to stop, and what it may cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from harvester.errors import Interrupted

T = TypeVar("T")


class Stop:
    """The wish to stop: what is being waited for is dropped, what was fetched is kept.

    Only what stands under `guard` is ever cut short; a commit on its way to disk never is.
    """

    def __init__(self) -> None:
        """Nobody wishes so yet."""
        self._wished = False
        self._waiting: set[asyncio.Task[Any]] = set()

    @property
    def is_wished(self) -> bool:
        """Whether everything is to come to an end."""
        return self._wished

    def wish(self) -> None:
        """Ask everything to come to an end."""
        self._wished = True
        for task in self._waiting:
            task.cancel()

    async def guard(self, work: Awaitable[T]) -> T:
        """Wait for `work`.

        Raises:
            Interrupted: the wish came first.
        """
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a coroutine always runs in a task")
        self._waiting.add(task)
        try:
            if self._wished:
                task.cancel()
            answer = await work
            # A wish that came with the answer lands here, and nowhere later.
            await asyncio.sleep(0) if self._wished else None
        except asyncio.CancelledError:
            if not self._wished:
                raise
            task.uncancel()
            raise Interrupted("interrupted; the same command goes on where it stopped") from None
        finally:
            self._waiting.discard(task)
        return answer
