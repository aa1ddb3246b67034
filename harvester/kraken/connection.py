"""One connection to the exchange: a request at a time, and its whole answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httptools
import httpx

LARGEST_ANSWER = 32 * 1024 * 1024
"""Bytes as they are sent; a page has some 70,000, or 15,000 of them gzipped."""
LONGEST_HEAD = 64 * 1024


@dataclass(slots=True)
class Answer:
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
        self._waiter: asyncio.Future[Answer] | None = None
        self._answer = Answer()
        self._size = 0
        self._in_body = False

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Answer:
        """Send a request, and wait for all of its answer.

        Raises:
            httpx.ReadError: the connection broke.
            httpx.RemoteProtocolError: it ended before the answer did, or that is no HTTP.
        """
        if self._transport is None or self._waiter is not None:
            raise AssertionError("a connection is asked once it is open, one thing at a time")
        self._answer, self._size, self._in_body = Answer(), 0, False
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
            self._answer = Answer()
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
            self._answer, self._in_body = Answer(), False
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
