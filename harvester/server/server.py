"""The mirror on a socket: in a thread beside other work, or as all that a process does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from harvester.errors import HarvesterError
from harvester.server.app import app
from harvester.storage.trade_store import Archive

GRACE_S = 2
"""What answers on their way may take once the end was asked for."""


@contextmanager
def serving(archive: Archive, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve an archive in a thread while the block runs; gives the URL.

    Args:
        archive: what is served.
        host: the name or address to listen at.
        port: 0 for any that is free.

    Raises:
        HarvesterError: the address can't be listened at.
    """
    with _listening(host, port) as listener:
        server = _server(archive)
        thread = threading.Thread(target=server.run, args=([listener],), name="mirror", daemon=True)
        thread.start()
        try:
            yield _url(host, listener)
        finally:
            server.should_exit = True
            thread.join()


def serve_forever(
    archive: Archive,
    host: str,
    port: int,
    ready: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serve an archive until Ctrl-C or SIGTERM, which then take their usual course.

    Args:
        archive: what is served.
        host: the name or address to listen at.
        port: 0 for any that is free.
        ready: told the URL once callers can connect.

    Raises:
        HarvesterError: the address can't be listened at.
        KeyboardInterrupt: Ctrl-C.
    """
    with _listening(host, port) as listener:
        ready(_url(host, listener))
        _server(archive).run([listener])


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket: from here on callers wait in its queue, so no start is waited for."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise HarvesterError(
            f"can't serve at {host}:{port}: {_reason(error)}; choose another --host or --port"
        ) from error
    # asyncio sends small writes at once only where a socket says that it is TCP, and this one's
    # heirs say what it says: a body would else wait 40 ms for the acknowledgement of its head.
    with socket.socket(family, proto=socket.IPPROTO_TCP, fileno=listener.detach()) as outspoken:
        yield outspoken


def _reason(error: OSError | OverflowError) -> str:
    words = getattr(error, "strerror", None) or str(error)
    # Python says the address behind the system's words; ours stands before them.
    return words.partition(" (while attempting")[0]


def _server(archive: Archive) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app(archive),
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )


def _url(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"
