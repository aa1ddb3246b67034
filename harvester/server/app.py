"""The API server: Kraken's public endpoints as a Starlette app, run in a thread or a process.

It answers only what its archive covers: a page that would cross a gap is refused, and its clock
stops where coverage ends. So a copy never claims coverage that the archive does not have.
"""

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
from harvester.server.kraken_endpoints import (
    PREFER,
    ApiResponder,
    ImportedTrades,
    InvalidParameter,
    NotCovered,
    QueryParams,
    UnknownAsset,
)
from harvester.server.kraken_json import SideUnknown
from harvester.server.kraken_trade_pages import Clock
from harvester.storage.trade_store import TradeStore


def kraken_api_app(
    archive: TradeStore, clock: Clock = time.monotonic, *, guess_sides: bool = False
) -> Starlette:
    """Create the app with Kraken's public endpoints about trades, candles and markets.

    Errors are answered like Kraken's: HTTP 200 and a list of errors.

    Args:
        archive: the archive to serve. Changes to it are noticed within a second.
        clock: a monotonic clock in seconds, by which the archive is listed again.
        guess_sides: answer trades without a side with one by the tick rule; otherwise they are
            refused.
    """
    responder = ApiResponder(archive, clock, guess_sides=guess_sides)
    endpoints: dict[str, Callable[[QueryParams], bytes | Callable[[], bytes]]] = {
        "Trades": responder.trades,
        "OHLC": responder.ohlc,
        "Ticker": responder.ticker,
        "AssetPairs": responder.asset_pairs,
        "Assets": responder.assets,
        "Time": responder.time,
        "SystemStatus": responder.system_status,
    }
    return Starlette(
        routes=[
            Route(f"/0/public/{name}", _endpoint(answer), methods=["GET"])
            for name, answer in endpoints.items()
        ],
        exception_handlers={404: _unknown_method},
    )


IMPORTED = (
    "EQuery:Imported, not downloaded:the trades of {} come from CSV files; copy the folder of the "
    "archive, or import the files there, too"
)
SIDE_UNKNOWN = (
    "EQuery:Side not stored:the trade of {} was imported without its side; "
    "`harvester serve --guess-sides` answers with a guess"
)


def _endpoint(
    answer: Callable[[QueryParams], bytes | Callable[[], bytes]],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            preferred = {PREFER: request.headers.get(PREFER, "")}
            body = answer(dict(request.query_params) | preferred)
            # A slow answer runs in a thread, so that other requests do not wait for it.
            return _json(body if isinstance(body, bytes) else await asyncio.to_thread(body))
        except UnknownPair:
            return _error("EQuery:Unknown asset pair")
        except UnknownAsset:
            return _error("EQuery:Unknown asset")
        except InvalidParameter as invalid:
            return _error(f"EGeneral:Invalid arguments:{invalid}")
        except NotCovered as gap:
            return _error(f"EQuery:Not covered by this archive:{gap}")
        except ImportedTrades as imported:
            return _error(IMPORTED.format(imported))
        except SideUnknown as unknown:
            return _error(SIDE_UNKNOWN.format(unknown))
        except HarvesterError as error:
            # Kraken's text for its own failures: clients wait, retry and show the reason.
            return _error(f"EGeneral:Internal error:{error}")

    return endpoint


async def _unknown_method(_request: Request, _error_404: Exception) -> Response:
    return _error("EGeneral:Unknown method")


def _error(text: str) -> Response:
    return _json(msgspec.json.encode({"error": [text]}))


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"Vary": PREFER})


# --- Running the server ---------------------------------------------------------------------------

GRACE_S = 2
"""Time for answers in progress once the server is stopped."""


@contextmanager
def serve_in_thread(application: Starlette, host: str, port: int) -> Iterator[str]:
    """Run an app in a thread while the block runs; yields the URL, without a slash at the end.

    Args:
        application: what answers.
        host: the host name or address to listen on.
        port: the port; 0 for any free one.

    Raises:
        HarvesterError: listening on the address failed.
    """
    with _listening_socket(host, port) as listener:
        server = _server(application)
        thread = threading.Thread(target=server.run, args=([listener],), name="server", daemon=True)
        thread.start()
        try:
            yield _url(host, listener)
        finally:
            server.should_exit = True
            thread.join()


def run_forever(application: Starlette, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Run an app until Ctrl-C or SIGTERM, which then have their usual effect.

    Args:
        application: what answers.
        host: the host name or address to listen on.
        port: the port; 0 for any free one.
        ready: called with the URL, without a slash at the end, once clients can connect.

    Raises:
        HarvesterError: listening on the address failed.
        KeyboardInterrupt: Ctrl-C.
    """
    with _listening_socket(host, port) as listener:
        ready(_url(host, listener))
        _server(application).run([listener])


@contextmanager
def _listening_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Open a listening socket. Clients can connect at once: they queue until the server runs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        # Python appends the address to the system's message; ours already names it.
        text = getattr(error, "strerror", None) or str(error)
        words = text.partition(" (while attempting")[0]
        raise HarvesterError(
            f"can't listen at {host}:{port}: {words}; choose another address or port"
        ) from error
    # asyncio disables Nagle's algorithm only if the socket's protocol is explicitly TCP, and
    # accepted sockets inherit it. Otherwise a body waits 40 ms for the acknowledgement of its head.
    with socket.socket(family, proto=socket.IPPROTO_TCP, fileno=listener.detach()) as tcp_listener:
        yield tcp_listener


def _server(application: Starlette) -> uvicorn.Server:
    """A server that runs an app until its `should_exit` is set; it logs nothing."""
    return uvicorn.Server(
        uvicorn.Config(
            application,
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )


def _url(host: str, listener: socket.socket) -> str:
    """The address of a listening socket, without a slash at the end."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"
