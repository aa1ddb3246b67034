"""The explorer's web server: its page and the service as JSON, for this machine's browser only.

A page of another site may send requests to any port of this machine. So the server listens on
127.0.0.1, refuses any other `Host` (a name that was rebound to this address), sends no CORS
headers, and asks for a token that only the printed address has.
"""

from __future__ import annotations

import asyncio
import atexit
import secrets
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from html import escape
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from harvester.errors import BAD_JSON, HarvesterError, NothingStored, UnknownPair, UsageError
from harvester.exporters.formats import WRITERS, write_rows
from harvester.query.read_only_sql import MAX_TEXT, LimitedRows
from harvester.query.sql import translate_sql_errors
from harvester.server.app import run_forever, serve_in_thread
from harvester.server.explorer.service import MAX_QUERIES, ArchiveExplorer, ReadableArchive

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"

MAX_BODY = 4 * MAX_TEXT + 1_000
"""Most bytes of a request: a query of four-byte characters, and the JSON around it."""

MAX_ANSWERS = 3
"""Answers computed at once; waiting requests whose client has gone are dropped."""

LONGEST_WRAPPER = 2_000
"""Most bytes before the body of plotly.js."""

POLL_S = 0.1
"""Seconds between checks that the client of a running query is still connected."""

# Whatever the page contains, the browser itself sends nothing to others and runs no other script.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
REFUSAL = (
    "The token in this address is missing or belongs to an earlier start: open the address that "
    "`harvester explore` printed.\n"
)


# --- safety ---------------------------------------------------------------------------------------


class Guard:
    """Middleware: refuses the page and the data without the token, and sets safe headers."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        """Wrap an app.

        Args:
            app: what answers.
            token: what the page's address, and the header `X-Token` of its requests, must have.
        """
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        # The scripts and styles of the page are in every installation: they need no token.
        is_public = scope["path"].startswith(("/page/", "/plotly/"))

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers["Cache-Control"] = "no-cache" if is_public else "no-store"
            await send(message)

        given = request.headers.get("x-token") or request.query_params.get("token") or ""
        app: ASGIApp = self._app
        if not is_public and not secrets.compare_digest(given.encode(), self._token.encode()):
            app = PlainTextResponse(REFUSAL, 403)
        await app(scope, receive, send_safely)


def _failure(error: HarvesterError) -> Response:
    if isinstance(error, NothingStored | UnknownPair):
        status = 404
    elif isinstance(error, UsageError):
        status = 400
    else:
        status = 503
    return _json({"error": str(error)}, status)


def _json(content: object, status: int = 200) -> Response:
    body = content if isinstance(content, bytes) else msgspec.json.encode(content)
    return Response(body, status, media_type="application/json")


# --- endpoints ------------------------------------------------------------------------------------

Query = dict[str, str]


def explorer_app(archive: ReadableArchive, token: str) -> Starlette:
    """Create the explorer's app.

    Args:
        archive: what is explored.
        token: see `Guard`.
    """
    explorer = ArchiveExplorer(archive)
    places = asyncio.Semaphore(MAX_ANSWERS)
    answers: dict[str, Callable[[Query], object]] = {
        "pairs": lambda _query: explorer.pairs(),
        "coverage": lambda query: explorer.coverage(_pair(query)),
        "version": lambda query: explorer.version(_pair(query)),
        "candles": lambda query: explorer.candles(
            _pair(query),
            query.get("since", ""),
            query.get("until", ""),
            query.get("interval", "auto"),
        ).encoded(),
        "trades": lambda query: explorer.trades(
            _pair(query), query.get("place", "newest"), _count(query.get("count", "100"))
        ),
    }
    return Starlette(
        routes=[
            Route("/", _page),
            Route("/plotly/plotly.min.js", _plotly),
            *(Route(f"/api/{name}", _endpoint(answer, places)) for name, answer in answers.items()),
            Route("/api/sql", SqlEndpoint(explorer).answer, methods=["POST"]),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(Guard, token=token),
        ],
    )


def _page(_request: Request) -> Response:
    return FileResponse(PAGE / "index.html")


async def _plotly(request: Request) -> Response:
    """plotly.js of plotly's package, which would take long to import."""
    spec = find_spec("plotly")
    folders = spec.submodule_search_locations if spec is not None else None
    file = Path((folders or ["."])[0]) / "package_data" / "plotly.min.js"
    headers = {"ETag": f'"{file.stat().st_mtime_ns:x}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    script = without_wrapper(await asyncio.to_thread(file.read_bytes))
    return Response(script, headers=headers, media_type="text/javascript")


def without_wrapper(script: bytes) -> bytes:
    """Return plotly.js without the function that lets other programs load it as a module.

    A browser reads the body of a function twice, first to find its end and then to run it. Of
    these 5 MB, that takes a quarter of the time until the page is drawn. A script in another form
    is returned as it is.

    Args:
        script: plotly.min.js.
    """
    head, start, rest = script.partition(b'"use strict";var Plotly=')
    body, end, _ = rest.rpartition(b"window.Plotly = Plotly;")
    if not (start and end and len(head) < LONGEST_WRAPPER):
        return script
    license_text, mark, _ = head.rpartition(b"*/")
    return b"".join([license_text, mark, b"\n", start, body, end, b"\n"])


def _endpoint(
    answer: Callable[[Query], object], places: asyncio.Semaphore
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that runs in a thread; errors become a status and a text.

    Args:
        answer: computes the answer.
        places: limits how many answers are computed at once: a turning wheel sends many requests.
    """

    async def endpoint(request: Request) -> Response:
        async with places:
            if await request.is_disconnected():
                return Response(status_code=204)
            try:
                return _json(await asyncio.to_thread(answer, dict(request.query_params)))
            except HarvesterError as error:
                return _failure(error)

    return endpoint


def _pair(query: Query) -> str:
    pair = query.get("pair", "")
    if not pair.strip():
        raise UsageError("no pair is given: add pair=XBTUSD")
    return pair


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise UsageError("count must be a whole number of at most four digits")
    return int(text)


class SqlRequest(msgspec.Struct):
    """A query of the page, and the form of the answer."""

    query: str
    format: Literal["json", "csv", "parquet"] = "json"


class SqlEndpoint:
    """Runs queries, a few at a time, and cancels one whose reader is gone."""

    def __init__(self, explorer: ArchiveExplorer) -> None:
        self._explorer = explorer
        self._places = asyncio.Semaphore(MAX_QUERIES)

    async def answer(self, request: Request) -> Response:
        """Answer a query as JSON, CSV or Parquet."""
        try:
            asked = await _sql_request(request)
            async with self._places:
                rows = await self._run(asked.query, request)
            # In a thread, as ten thousand rows take a while.
            if asked.format == "json":
                return await asyncio.to_thread(
                    lambda: _json(self._explorer.sql_answer(asked.query, rows))
                )
            return await asyncio.to_thread(_file, rows, asked.format)
        except HarvesterError as error:
            return _failure(error)

    async def _run(self, text: str, request: Request) -> LimitedRows:
        query = await asyncio.to_thread(self._explorer.query)
        running = asyncio.create_task(asyncio.to_thread(query.run, text))
        try:
            while not running.done():
                await asyncio.wait([running], timeout=POLL_S)
                if not running.done() and await request.is_disconnected():
                    query.cancel()
        finally:
            # Where the server stops, its process ends when its threads have; also `running` may be
            # cancelled then, which does not end its thread. A query that has ended stays as it is.
            query.cancel()
        return await running


async def _sql_request(request: Request) -> SqlRequest:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise UsageError(f"the query is too long: give at most {MAX_TEXT:,} characters")
    try:
        return msgspec.json.decode(body, type=SqlRequest)
    except BAD_JSON as error:
        raise UsageError(f"the request is no JSON with a query: {error}") from error


def _file(rows: LimitedRows, form: str) -> Response:
    """The rows of a query as a file to download; its name says so if some are left out.

    What is missing also stands in the header `X-Notes`, and in the metadata of Parquet.
    """
    sink = BytesIO()
    table = rows.table
    with translate_sql_errors():
        write_rows(table.to_batches(), table.schema, WRITERS[form], sink, rows.notes)
    name = f"query-first-{table.num_rows}-rows.{form}" if rows.is_cut else f"query.{form}"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Notes": "; ".join(rows.notes),
    }
    return Response(sink.getvalue(), headers=headers, media_type="application/octet-stream")


# --- running --------------------------------------------------------------------------------------


def explore_forever(
    archive: ReadableArchive, port: int, ready: Callable[[str], Any] = lambda _url: None
) -> None:
    """Serve the explorer until Ctrl-C or SIGTERM, which then have their usual effect.

    Args:
        archive: what is explored.
        port: the port on 127.0.0.1; 0 for any free one.
        ready: called with the page's address, which has the token, once a browser can open it.

    Raises:
        HarvesterError: listening on the port failed.
        KeyboardInterrupt: Ctrl-C.
    """
    token = secrets.token_urlsafe(24)
    run_forever(
        explorer_app(archive, token), HOST, port, lambda url: ready(f"{url}/?token={token}")
    )


class ExplorerServer:
    """An explorer that runs in a thread; a notebook shows its page in a frame.

    Attributes:
        url: the page's address, with its token.
    """

    url: str

    def __init__(self, archive: ReadableArchive, port: int = 0) -> None:
        """Start the server.

        Args:
            archive: what is explored.
            port: the port on 127.0.0.1; 0 for any free one.

        Raises:
            HarvesterError: listening on the port failed.
        """
        token = secrets.token_urlsafe(24)
        self._running = ExitStack()
        url = self._running.enter_context(serve_in_thread(explorer_app(archive, token), HOST, port))
        self.url = f"{url}/?token={token}"
        # A notebook shows the page of an object that nobody keeps: it runs until the process ends.
        atexit.register(self.close)

    def close(self) -> None:
        """Stop the server. Closing it twice is no error."""
        atexit.unregister(self.close)
        self._running.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<harvester.ExplorerServer at {self.url}>"

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{escape(self.url)}" width="100%" height="720" style="border:0" '
            'title="archive explorer"></iframe>'
        )
