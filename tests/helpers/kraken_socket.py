"""The socket of the test exchange: HTTP on 127.0.0.1, served by asyncio in a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from kraken_faults import Fault

if TYPE_CHECKING:
    from kraken_server import Exchange


@dataclass(frozen=True, slots=True)
class Call:
    """One call that arrived; `at_s` is monotonic time, `rows` those of a Trades page."""

    at_s: float
    path: str
    params: dict[str, str]
    outcome: str
    pair: str | None = None
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, and how the socket is to deliver it."""

    body: bytes
    status: int = 200
    content_type: str = "application/json; charset=utf-8"
    headers: str = ""
    delivery: Fault | None = None


def _html(status: int, title: str, headers: str = "") -> Reply:
    """Give a page as Cloudflare makes it: HTML that is no answer of the exchange."""
    body = (
        f'<!DOCTYPE html>\n<html lang="en-US"><head><title>api.kraken.com | {status}: {title}'
        f"</title></head><body><h1>{title}</h1><p>Error code {status}</p>"
        "<p>Cloudflare Ray ID: 4870683c6e79a338</p></body></html>\n"
    )
    return Reply(body.encode(), status, "text/html; charset=UTF-8", headers)


TITLES = {
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Temporarily Unavailable",
    504: "Gateway time-out",
    520: "Web server is returning an unknown error",
    522: "Connection timed out",
}


class _Server:
    """The event loop of an exchange, in a thread of its own."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.connections: set[_Connection] = set()
        self._thread: threading.Thread | None = None
        self._halt: Callable[[], None] = lambda: None

    def start(self, port: int) -> int:
        ready: concurrent.futures.Future[int] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(port, ready)), name="exchange", daemon=True
        )
        self._thread.start()
        return ready.result(timeout=10)

    def stop(self) -> None:
        if self._thread is not None:
            self._halt()
            self._thread.join(timeout=10)
            self._thread = None

    async def _main(self, port: int, ready: concurrent.futures.Future[int]) -> None:
        loop = asyncio.get_running_loop()
        halted = asyncio.Event()

        def halt() -> None:
            loop.call_soon_threadsafe(halted.set)

        self._halt = halt
        try:
            server = await loop.create_server(
                lambda: _Connection(self), "127.0.0.1", port, backlog=1024
            )
        except OSError as error:
            ready.set_exception(error)
            return
        ready.set_result(server.sockets[0].getsockname()[1])
        await halted.wait()
        # A connection that the loop has accepted would be dropped and never closed if the server
        # were closed before it is handed over.
        while accepting := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.gather(*accepting, return_exceptions=True)
        server.close()
        while self.connections:
            for connection in list(self.connections):
                connection.abort()
            await asyncio.sleep(0)
        # Of these the loop knows alone: they are new to this program, or about to end.
        for transport in list(getattr(loop, "_transports", {}).values()):
            transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection; a protocol and not streams, as benchmarks count on it."""

    transport: asyncio.Transport

    def __init__(self, server: _Server) -> None:
        self.server = server
        self.exchange = server.exchange
        self.received = bytearray()
        self.waiting = False
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections.add(self)
        self.exchange.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.server.connections.discard(self)
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.serve()

    def abort(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.transport.abort()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self.timer = asyncio.get_running_loop().call_later(seconds, action)

    def serve(self) -> None:
        """Answer what has arrived whole, one call after the other."""
        while not self.waiting and (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.received[:end]).decode("latin-1")
            del self.received[: end + 4]
            line, *fields = head.split("\r\n")
            headers = {}
            for text in fields:
                name, _, value = text.partition(":")
                headers[name.strip().lower()] = value.strip()
            self.call(line, headers)

    def call(self, line: str, headers: Mapping[str, str]) -> None:
        method, _, rest = line.partition(" ")
        target = rest.rpartition(" ")[0]
        if method != "GET":
            self.waiting = True
            self.send(_html(405, TITLES[405]), zipped=False, closing=True)
            return
        path, _, query = target.partition("?")
        params = dict(parse_qsl(query, keep_blank_values=True))
        reply = self.exchange.answer(path, params, headers.get("user-agent"))
        zipped = self.exchange.gzip and "gzip" in headers.get("accept-encoding", "")
        closing = headers.get("connection", "").lower() == "close"
        self.waiting = True
        if self.exchange.latency_s > 0:
            self.later(
                self.exchange.latency_s, lambda: self.send(reply, zipped=zipped, closing=closing)
            )
        else:
            self.send(reply, zipped=zipped, closing=closing)

    def send(self, reply: Reply, *, zipped: bool, closing: bool) -> None:
        delivery = reply.delivery or Fault("")
        if delivery.kind in {"hang", "reset", "close"}:
            self.keep_silent(delivery)
            return
        head, body = self.packed(reply, zipped=zipped, closing=closing)
        if delivery.kind == "cut":
            self.transport.write(head + body[: len(body) // 2])
        elif delivery.kind == "dribble":
            self.transport.write(head)
            self.dribble(body, 0, time.monotonic() + (delivery.amount or 0))
            return
        else:
            self.transport.write(head + body)
        if closing or delivery.kind in {"cut", "drop_after"}:
            self.transport.close()
            return
        self.done()

    def done(self) -> None:
        self.waiting = False
        if self.received:
            asyncio.get_running_loop().call_soon(self.serve)

    def packed(self, reply: Reply, *, zipped: bool, closing: bool) -> tuple[bytes, bytes]:
        """Give head and body as they go over the wire."""
        body, encoding = reply.body, ""
        if zipped and len(body) > 400:
            body, encoding = self.exchange.zipped(body), "Content-Encoding: gzip\r\n"
        head = (
            f"HTTP/1.1 {reply.status} {TITLES.get(reply.status, 'OK')}\r\n"
            f"Server: cloudflare\r\nContent-Type: {reply.content_type}\r\n"
            f"Content-Length: {len(body)}\r\n{encoding}{reply.headers}"
            f"Connection: {'close' if closing else 'keep-alive'}\r\n\r\n"
        )
        return head.encode(), body

    def keep_silent(self, delivery: Fault) -> None:
        """Never answer: hang a while and close, close at once, or reset."""
        if delivery.kind == "hang":
            self.later(delivery.amount or 0, self.transport.close)
            return
        if delivery.kind == "reset":
            plug = self.transport.get_extra_info("socket")
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
            return
        self.transport.close()

    def dribble(self, body: bytes, place: int, until_s: float) -> None:
        """Send a byte now and then; the patience ends after a while, body whole or not."""
        if place >= len(body):
            self.done()
        elif time.monotonic() >= until_s:
            self.transport.close()
        else:
            self.transport.write(body[place : place + 1])
            self.later(0.05, lambda: self.dribble(body, place + 1, until_s))
