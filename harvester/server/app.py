"""The API server: Kraken's public endpoints as a Starlette app, in a thread or a process."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from harvester.errors import HarvesterError, UnknownPair
from harvester.server.pages import Clock
from harvester.server.responses import ApiResponder, Invalid, NotCovered, Question
from harvester.storage.trade_store import TradeStore

# --- app ------------------------------------------------------------------------------------------

# A mirror knows what its archive covers and no more: a page that would reach over a gap is
# refused, and its clock stands still where coverage ends, so that a copy never claims more than
# there is.


def app(archive: TradeStore, clock: Clock = time.monotonic) -> Starlette:
    """The mirror of an archive: `/0/public/` Trades, OHLC, AssetPairs, Time and SystemStatus.

    Errors are answered as Kraken does, with HTTP 200 and a list of them.

    Args:
        archive: what is served, as it is at any time; it is looked at once a second at most.
        clock: tells the seconds between looks.
    """
    answers = ApiResponder(archive, clock)
    endpoints: dict[str, Callable[[Question], bytes | Callable[[], bytes]]] = {
        "Trades": answers.trades,
        "OHLC": answers.ohlc,
        "AssetPairs": answers.asset_pairs,
        "Time": answers.time,
        "SystemStatus": answers.system_status,
    }
    return Starlette(
        routes=[
            Route(f"/0/public/{name}", _endpoint(answer), methods=["GET"])
            for name, answer in endpoints.items()
        ],
        exception_handlers={404: _unknown_method},
    )


def _endpoint(
    answer: Callable[[Question], bytes | Callable[[], bytes]],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            body = answer(request.query_params)
            # What takes long must not keep the pages of others waiting.
            return _json(body if isinstance(body, bytes) else await asyncio.to_thread(body))
        except UnknownPair:
            return _error("EQuery:Unknown asset pair")
        except Invalid as invalid:
            return _error(f"EGeneral:Invalid arguments:{invalid}")
        except NotCovered as gap:
            return _error(f"EQuery:Not covered by this mirror:{gap}")
        except HarvesterError as error:
            # What Kraken says of its own faults; clients wait, ask again and show the reason.
            return _error(f"EGeneral:Internal error:{error}")

    return endpoint


async def _unknown_method(_request: Request, _error_404: Exception) -> Response:
    return _error("EGeneral:Unknown method")


def _error(text: str) -> Response:
    return _json(msgspec.json.encode({"error": [text]}))


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


# --- server ---------------------------------------------------------------------------------------

GRACE_S = 2
"""What answers on their way may take once the end was asked for."""


@contextmanager
def serving(archive: TradeStore, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
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
    archive: TradeStore,
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


def _server(archive: TradeStore) -> uvicorn.Server:
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
