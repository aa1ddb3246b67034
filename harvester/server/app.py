"""Kraken's public endpoints as a web application, answered from an archive.

A mirror knows what its archive covers and no more: a page that would reach over a hole is refused,
and its clock stands still where coverage ends, so that a copy never claims more than there is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from harvester.errors import HarvesterError, UnknownPair
from harvester.server.answers import Answers, Invalid, NotCovered, Question
from harvester.server.tape import Clock
from harvester.storage.trade_store import Archive


def app(archive: Archive, clock: Clock = time.monotonic) -> Starlette:
    """The mirror of an archive: `/0/public/` Trades, OHLC, AssetPairs, Time and SystemStatus.

    Errors are answered as Kraken does, with HTTP 200 and a list of them.

    Args:
        archive: what is served, as it is at any time; it is looked at once a second at most.
        clock: tells the seconds between looks.
    """
    answers = Answers(archive, clock)
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
        except NotCovered as hole:
            return _error(f"EQuery:Not covered by this mirror:{hole}")
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
