"""Reading ahead: what comes next is made while what came before is still being used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import NamedTuple, TypeVar

T = TypeVar("T")

DEPTH = 4
"""Blocks that are read while earlier ones are written."""


class _End(NamedTuple):
    error: BaseException | None = None


def ahead(items: Iterator[T], depth: int = DEPTH) -> Generator[T, None, None]:
    """The same items, made by a thread of their own, up to `depth` of them ahead."""
    made: queue.Queue[T | _End] = queue.Queue(depth)
    gone = threading.Event()

    def hand_on(item: T | _End) -> None:
        while not gone.is_set():
            with suppress(queue.Full):
                made.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                hand_on(item)
                if gone.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised anew where items are taken
            hand_on(_End(error))
        else:
            hand_on(_End())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while not isinstance(item := made.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        gone.set()
        thread.join()
