"""HTTP transport for httpx's client, made for many short requests to one host."""

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
from harvester.escaping import printable, shortened, without_user
from harvester.kraken.decode import ACCEPTED
from harvester.kraken.rate_limit import CALLS_PER_PAIR

# --- Connection -----------------------------------------------------------------------------------

LARGEST_ANSWER = 32 * 1024 * 1024
"""Bytes as they are sent. A page has about 70,000, or 15,000 gzipped."""
LONGEST_HEAD = 64 * 1024


@dataclass(slots=True)
class HttpResponse:
    """A complete answer, its body as it was sent, compressed or not."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)

    @property
    def has_length(self) -> bool:
        """Whether headers give the end of the body; else it ends with the connection."""
        return any(
            name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers
        )


class Connection(asyncio.Protocol):
    """An HTTP/1.1 connection for one request at a time; llhttp parses the answers."""

    def __init__(self) -> None:
        """Create a connection that asyncio is about to open."""
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

    async def send(self, request: bytes) -> HttpResponse:
        """Send a request, and wait for its complete answer.

        Raises:
            httpx.ReadError: the connection broke.
            httpx.RemoteProtocolError: the connection ended before the answer did, or the answer is
                not HTTP.
        """
        if self._transport is None or self._waiter is not None:
            raise AssertionError("a connection must be open, and sends one request at a time")
        self._answer, self._size, self._in_body = HttpResponse(), 0, False
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiter
        except BaseException:
            # Bytes that still arrive must not be read as the answer to the next request.
            self.abort()
            raise
        finally:
            self._waiter = None

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # Callbacks of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of the connection, which is open now."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"{transport!r} is not a stream")
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Parse a part of an answer."""
        if self._is_idle:
            self.abort()
            return
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(httpx.RemoteProtocolError(f"the answer is not HTTP/1.1: {error}"))
        if self._size > (LARGEST_ANSWER if self._in_body else LONGEST_HEAD):
            self._fail(httpx.RemoteProtocolError("the answer does not end"))

    def eof_received(self) -> None:
        """Complete an answer without a length: the end of the stream is its end."""
        if self._in_body and not self._answer.has_length:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request in progress, as the connection is closed."""
        if error is not None:
            self._fail(httpx.ReadError(str(error) or type(error).__name__))
        elif self._size:
            self._fail(httpx.RemoteProtocolError("the answer was cut short"))
        else:
            self._fail(httpx.RemoteProtocolError("the connection was closed without an answer"))

    # Callbacks of llhttp.

    def on_message_begin(self) -> None:
        """Drop an answer that no request is waiting for, and close the connection."""
        if self._is_idle:
            self._answer = HttpResponse()
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field; trailers behind the body are ignored."""
        if not self._in_body:
            self._answer.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Keep the status: the headers are complete."""
        self._answer.status = self._parser.get_status_code()
        self._in_body = True

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        self._answer.body.append(data)

    def on_message_complete(self) -> None:
        """Complete the answer; interim ones (1xx) are dropped."""
        if self._answer.status < 200:
            self._answer, self._in_body = HttpResponse(), False
            return
        self._finish()
        if not self._parser.should_keep_alive():
            self.abort()

    @property
    def _is_idle(self) -> bool:
        """Whether no request waits for an answer."""
        return self._waiter is None or self._waiter.done()

    def _finish(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._answer)

    def _fail(self, error: httpx.TransportError) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
        self.abort()


# --- Client and transport -------------------------------------------------------------------------

# httpx's own transport, httpcore, takes two thirds of a request's cost, and more with every open
# connection, because it examines all of them at each request. Here a request takes the connection
# that became idle last, and returns it. docs/performance.md has the figures.

MAX_IDLE_S = 15.0
"""A connection idle for longer is not used again: servers close theirs, some after 20 s."""
HAPPY_EYEBALLS_S = 0.25
"""If an address does not answer within this time, the next one is tried in parallel (RFC 8305)."""

CHUNK_BYTES = 1 << 14
"""A gzipped page is seldom longer."""

_LINE_ENDS = (b"\r", b"\n", b"\0")


class HttpOrigin(NamedTuple):
    """Scheme, host and port that connections lead to."""

    scheme: str
    host: str
    port: int


def http_client(settings: ExchangeSettings) -> httpx.AsyncClient:
    """Create the HTTP client for the exchange; it uses proxies that the environment names.

    Raises:
        BadSetting: the address, a proxy or the certificate file can't be used.
    """
    verify = _certificates(settings.ca_file)
    proxies = getproxies()
    # Only httpx's own transport can use proxies.
    for kind in ("http", "https", "all"):
        _check_proxy(kind, proxies.get(kind, ""))
    is_direct = not any(proxies.get(kind) for kind in ("http", "https", "all"))
    max_connections = CALLS_PER_PAIR * settings.jobs + 2
    try:
        return httpx.AsyncClient(
            base_url=settings.url,
            headers={
                "User-Agent": settings.user_agent,
                "Accept": "application/json",
                "Accept-Encoding": ACCEPTED,
            },
            timeout=settings.timeout_s,
            # No call has to wait for a connection, however many pairs are requested at once.
            limits=httpx.Limits(
                max_connections=max_connections, max_keepalive_connections=max_connections
            ),
            verify=verify,
            transport=DirectTransport(verify) if is_direct else None,
        )
    except httpx.InvalidURL as error:
        raise BadSetting(
            f"[exchange] url {settings.shown_url!r} is not an address: {error}"
        ) from error


def _check_proxy(kind: str, address: str) -> None:
    """Refuse a proxy that httpx can't use; its user name and password are not shown.

    Args:
        kind: http, https or all, as in the variable's name.
        address: the variable's value.
    """
    scheme, separator, _ = address.partition("://")
    try:
        port = urlsplit(address if separator else f"http://{address}").port
    except ValueError:
        port = 0
    if address and ((separator and scheme.lower() not in ("http", "https")) or port == 0):
        shown = printable(shortened(without_user(address)))
        raise BadSetting(
            f"the proxy that {kind.upper()}_PROXY names, {shown!r}, can't be used: give one that "
            "begins with http:// or https://, or unset the variable"
        )


@cache  # Reading them takes about 40 ms.
def _certificates(ca_file: str) -> ssl.SSLContext:
    if ca_file and Path(ca_file).exists() and not Path(ca_file).is_file():
        raise BadSetting(f"[exchange] ca_file {ca_file!r} can't be used: it is not a regular file")
    try:
        return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise BadSetting(f"[exchange] ca_file {ca_file!r} can't be used: {error}") from error


class DirectTransport(httpx.AsyncBaseTransport):
    """Send requests over connections that are kept open: HTTP/1.1 with or without TLS.

    A response is returned once it is complete. Only connecting has a time limit here; the caller
    limits the whole request.
    """

    def __init__(self, verify: ssl.SSLContext) -> None:
        """Create a transport without connections; `verify` checks the exchange's certificate."""
        self._verify = verify
        self._idle: dict[HttpOrigin, list[tuple[Connection, float]]] = {}
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            httpx.TransportError: no complete answer arrived.
        """
        origin = _origin(request.url)
        data = _request_bytes(request)
        connection = self._idle_connection(origin) or await self._connect(origin, request)
        answer = await connection.send(data)
        if connection.is_open and not self._closed:
            self._idle.setdefault(origin, []).append((connection, time.monotonic()))
        else:
            connection.abort()
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Chunks(b"".join(answer.body)),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        """Close all connections."""
        self._closed = True
        for idle in self._idle.values():
            for connection, _ in idle:
                connection.abort()
        self._idle.clear()

    def _idle_connection(self, origin: HttpOrigin) -> Connection | None:
        """The usable connection that became idle last, if any; unusable ones are closed."""
        idle = self._idle.get(origin, [])
        while idle:
            connection, since_s = idle.pop()
            if connection.is_open and time.monotonic() - since_s < MAX_IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: HttpOrigin, request: httpx.Request) -> Connection:
        limit_s = request.extensions.get("timeout", {}).get("connect")
        is_secure = origin.scheme == "https"
        try:
            async with asyncio.timeout(limit_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection,
                    sock=await _open_socket(origin),
                    ssl=self._verify if is_secure else None,
                    server_hostname=origin.host if is_secure else None,
                )
        except UnicodeError as error:
            raise httpx.UnsupportedProtocol(f"its host name is invalid ({error})") from error
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                raise httpx.ConnectTimeout(f"no connection within {limit_s} s") from error
            raise httpx.ConnectError(f"no connection: {_system_message(error)}") from error
        return connection


class _Chunks(httpx.AsyncByteStream):
    """A body in chunks, so that its size is checked while it is decompressed."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), CHUNK_BYTES):
            yield self._body[start : start + CHUNK_BYTES]


async def _open_socket(origin: HttpOrigin) -> socket.socket:
    """Open a socket to the first address that answers; all others are closed in any case."""
    addresses = await asyncio.get_running_loop().getaddrinfo(
        origin.host, origin.port, type=socket.SOCK_STREAM
    )
    return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_S)


def _system_message(error: OSError) -> str:
    """The system's message: asyncio's repeats the address, which the caller already shows."""
    if error.errno is None or isinstance(error, (ssl.SSLError, socket.gaierror)):
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _origin(url: httpx.URL) -> HttpOrigin:
    if url.scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol("it must begin with http:// or https://")
    port = url.port or (443 if url.scheme == "https" else 80)
    return HttpOrigin(url.scheme, url.raw_host.decode(), port)


def _request_bytes(request: httpx.Request) -> bytes:
    """The bytes of a request's head, as they are sent.

    Raises:
        httpx.LocalProtocolError: a header contains a line end.
    """
    lines = [b"%b %b HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)]
    for name, value in request.headers.raw:
        if any(mark in value or mark in name for mark in _LINE_ENDS):
            raise httpx.LocalProtocolError(f"the header {name!r} can't be sent: {value!r}")
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join([*lines, b"\r\n"])
