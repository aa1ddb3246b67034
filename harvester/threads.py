"""Wait for work in threads in such a way that Ctrl-C works, and produce items ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import NamedTuple, TypeVar

T = TypeVar("T")

SIGNAL_POLL_S = 0.2


def result_of(future: Future[T]) -> T:
    """Wait for a future, and return its result or raise its exception."""
    wait_until_done(future)
    return future.result()


def wait_until_done(future: Future[T]) -> None:
    """Wait for a future in such a way that no signal is missed.

    A signal that arrives just before the main thread begins to wait for a lock, or in another
    thread, does not wake it. Its handler would run only when the work ends.
    """
    while not wait([future], timeout=SIGNAL_POLL_S).done:
        pass


DEPTH = 4
"""Number of blocks that are read while earlier ones are written."""


class _End(NamedTuple):
    error: BaseException | None = None


def iterate_ahead(items: Iterator[T], depth: int = DEPTH) -> Generator[T, None, None]:
    """Produce items in a thread of their own, while earlier items are used.

    Args:
        items: runs in the thread.
        depth: how many items are produced in advance.
    """
    produced: queue.Queue[T | _End] = queue.Queue(depth)
    closed = threading.Event()

    def put(item: T | _End) -> None:
        while not closed.is_set():
            with suppress(queue.Full):
                produced.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that uses items
            put(_End(error))
        else:
            put(_End())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while not isinstance(item := produced.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        closed.set()
        thread.join()
