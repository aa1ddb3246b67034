"""HTTP for httpx's client: a transport for many short requests to one host."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohappyeyeballs
import httptools
import httpx

from harvester.config import ExchangeSettings
from harvester.errors import BadSetting
from harvester.escaping import printable, shortened, without_credentials
from harvester.kraken.decode import ACCEPTED
from harvester.kraken.rate_limit import SPANS_A_PAIR

# --- connection -----------------------------------------------------------------------------------

LARGEST_ANSWER = 32 * 1024 * 1024
"""Bytes as they are sent; a page has some 70,000, or 15,000 of them gzipped."""
LONGEST_HEAD = 64 * 1024


@dataclass(slots=True)
class HttpResponse:
    """A whole answer: its body as it was sent, gzipped or not."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)

    @property
    def has_length(self) -> bool:
        """Whether the answer itself tells where it ends; else the end of the connection does."""
        return any(
            name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers
        )


class Connection(asyncio.Protocol):
    """Speaks HTTP/1.1, read by llhttp; for one request at a time."""

    def __init__(self) -> None:
        """Not open yet."""
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[HttpResponse] | None = None
        self._answer = HttpResponse()
        self._size = 0
        self._in_body = False

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> HttpResponse:
        """Send a request, and wait for all of its answer.

        Raises:
            httpx.ReadError: the connection broke.
            httpx.RemoteProtocolError: it ended before the answer did, or that is no HTTP.
        """
        if self._transport is None or self._waiter is not None:
            raise AssertionError("a connection is asked once it is open, one thing at a time")
        self._answer, self._size, self._in_body = HttpResponse(), 0, False
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiter
        except BaseException:
            # Whatever ended the wait: what may still come would be taken for the next answer.
            self.abort()
            raise
        finally:
            self._waiter = None

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # --- what asyncio tells ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"{transport!r} is no stream")
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Some of an answer."""
        if self._is_idle:
            self.abort()
            return
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(httpx.RemoteProtocolError(f"the answer is no HTTP/1.1: {error}"))
        if self._size > (LARGEST_ANSWER if self._in_body else LONGEST_HEAD):
            self._fail(httpx.RemoteProtocolError("the answer does not end"))

    def eof_received(self) -> None:
        """Nothing more will come: an answer that told no length is whole by that."""
        if self._in_body and not self._answer.has_length:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        """It is closed, by whomever."""
        if error is not None:
            self._fail(httpx.ReadError(str(error) or type(error).__name__))
        elif self._size:
            self._fail(httpx.RemoteProtocolError("the answer was cut short"))
        else:
            self._fail(httpx.RemoteProtocolError("the connection was closed without an answer"))

    # --- what llhttp tells -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Another answer begins: where none is due, it must not be taken for the next one."""
        if self._is_idle:
            self._answer = HttpResponse()
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header's field; one that trails the body belongs to no header any more."""
        if not self._in_body:
            self._answer.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head has ended."""
        self._answer.status = self._parser.get_status_code()
        self._in_body = True

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self._answer.body.append(data)

    def on_message_complete(self) -> None:
        """The answer has ended; one that only says that there is more to come does not count."""
        if self._answer.status < 200:
            self._answer, self._in_body = HttpResponse(), False
            return
        self._finish()
        if not self._parser.should_keep_alive():
            self.abort()

    @property
    def _is_idle(self) -> bool:
        """Whether no answer is due."""
        return self._waiter is None or self._waiter.done()

    def _finish(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._answer)

    def _fail(self, error: httpx.TransportError) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
        self.abort()


# --- transport ------------------------------------------------------------------------------------

# httpx's own, httpcore, takes two thirds of what a request costs, and more with every connection
# that is open: it looks at all of them at each request. Here whoever asks takes the connection
# that rested last, and gives it back. docs/performance.md has the figures.

RESTS_S = 15.0
"""A connection that has rested longer is not used again: servers close theirs, some after 20 s."""
HAPPY_EYEBALLS_S = 0.25
"""After so long the next address of a name is tried beside the first, as RFC 8305 has it."""

PIECE_BYTES = 1 << 14
"""A page gzipped is seldom longer."""

_CAN_END_A_LINE = (b"\r", b"\n", b"\0")


class HttpOrigin(NamedTuple):
    """Where connections lead."""

    scheme: str
    host: str
    port: int


def http_client(settings: ExchangeSettings) -> httpx.AsyncClient:
    """The client that asks the exchange; it goes by proxies where the environment names some.

    Raises:
        BadSetting: the address, or the file of certificates, can't be used.
    """
    verify = _certificates(settings.ca_file)
    proxies = getproxies()
    # httpx's own transport knows how to speak to proxies.
    for kind in ("http", "https", "all"):
        _check_proxy(kind, proxies.get(kind, ""))
    is_direct = not any(proxies.get(one) for one in ("http", "https", "all"))
    most = SPANS_A_PAIR * settings.jobs + 2
    try:
        return httpx.AsyncClient(
            base_url=settings.url,
            headers={
                "User-Agent": settings.user_agent,
                "Accept": "application/json",
                "Accept-Encoding": ACCEPTED,
            },
            timeout=settings.timeout_s,
            # However many are asked at once, no call waits for a connection.
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
            verify=verify,
            transport=DirectTransport(verify) if is_direct else None,
        )
    except httpx.InvalidURL as error:
        raise BadSetting(f"[exchange] url {settings.shown_url!r} is no address: {error}") from error


def _check_proxy(kind: str, address: str) -> None:
    """Refuse a proxy that httpx can't speak to; its name and password are not shown."""
    scheme, mark, _ = address.partition("://")
    try:
        port = urlsplit(address if mark else f"http://{address}").port
    except ValueError:
        port = 0
    if address and ((mark and scheme.lower() not in ("http", "https")) or port == 0):
        shown = printable(shortened(without_credentials(address if mark else f"http://{address}")))
        raise BadSetting(
            f"the proxy that {kind.upper()}_PROXY names, {shown!r}, can't be used: give one that "
            "begins with http:// or https://, or unset the variable"
        )


@cache  # reading them takes some 40 ms
def _certificates(ca_file: str) -> ssl.SSLContext:
    if ca_file and Path(ca_file).exists() and not Path(ca_file).is_file():
        raise BadSetting(f"[exchange] ca_file {ca_file!r} can't be used: it is no regular file")
    try:
        return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise BadSetting(f"[exchange] ca_file {ca_file!r} can't be used: {error}") from error


class DirectTransport(httpx.AsyncBaseTransport):
    """Sends requests over connections that are kept open, HTTP/1.1 with or without TLS.

    Answers are whole before they are handed on. Only connecting is limited in time here: whoever
    asks limits the whole.
    """

    def __init__(self, verify: ssl.SSLContext) -> None:
        """`verify`: how the exchange's certificate is held against what is trusted."""
        self._verify = verify
        self._resting: dict[HttpOrigin, list[tuple[Connection, float]]] = {}
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            httpx.TransportError: no whole answer came.
        """
        origin = _origin(request.url)
        data = _written(request)
        connection = self._rested(origin) or await self._opened(origin, request)
        answer = await connection.ask(data)
        if connection.is_open and not self._closed:
            self._resting.setdefault(origin, []).append((connection, time.monotonic()))
        else:
            connection.abort()
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Pieces(b"".join(answer.body)),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        """Close all connections."""
        self._closed = True
        for resting in self._resting.values():
            for connection, _ in resting:
                connection.abort()
        self._resting.clear()

    def _rested(self, origin: HttpOrigin) -> Connection | None:
        """The connection that rested last, if one is still good; those that are not are closed."""
        resting = self._resting.get(origin, [])
        while resting:
            connection, since_s = resting.pop()
            if connection.is_open and time.monotonic() - since_s < RESTS_S:
                return connection
            connection.abort()
        return None

    async def _opened(self, origin: HttpOrigin, request: httpx.Request) -> Connection:
        limit_s = request.extensions.get("timeout", {}).get("connect")
        is_secure = origin.scheme == "https"
        try:
            async with asyncio.timeout(limit_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection,
                    sock=await _connected(origin),
                    ssl=self._verify if is_secure else None,
                    server_hostname=origin.host if is_secure else None,
                )
        except UnicodeError as error:
            raise httpx.UnsupportedProtocol(f"its host is no name of one ({error})") from error
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                raise httpx.ConnectTimeout(f"no connection within {limit_s} s") from error
            raise httpx.ConnectError(f"no connection: {_reason(error)}") from error
        return connection


class _Pieces(httpx.AsyncByteStream):
    """A body in pieces: unpacked, one may be a thousand times as long, and is counted then."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), PIECE_BYTES):
            yield self._body[start : start + PIECE_BYTES]


async def _connected(origin: HttpOrigin) -> socket.socket:
    """A socket to the first address that answers; whatever ends the wait, no other is left open."""
    addresses = await asyncio.get_running_loop().getaddrinfo(
        origin.host, origin.port, type=socket.SOCK_STREAM
    )
    return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_S)


def _reason(error: OSError) -> str:
    """In the system's own words: asyncio's name the address, which the caller names, too."""
    if error.errno is None or isinstance(error, (ssl.SSLError, socket.gaierror)):
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _origin(url: httpx.URL) -> HttpOrigin:
    if url.scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol("it must begin with http:// or https://")
    port = url.port or (443 if url.scheme == "https" else 80)
    return HttpOrigin(url.scheme, url.raw_host.decode(), port)


def _written(request: httpx.Request) -> bytes:
    """A request as it is sent.

    Raises:
        httpx.LocalProtocolError: a header would end its line.
    """
    lines = [b"%b %b HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)]
    for name, value in request.headers.raw:
        if any(mark in value or mark in name for mark in _CAN_END_A_LINE):
            raise httpx.LocalProtocolError(f"the header {name!r} can't be sent: {value!r}")
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join([*lines, b"\r\n"])
