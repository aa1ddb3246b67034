"""The transport beneath httpx's client, over real sockets: whole answers, each to its request."""

from __future__ import annotations

import asyncio
import gc
import gzip
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from harvester import config
from harvester.kraken import http as limits
from harvester.kraken.http import DirectTransport, http_client

HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = HEAD + b"Content-Length: 4\r\n\r\nbody"


class Server:
    """Answers each request with the next of some bytes; None closes the connection."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.left: asyncio.Event = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                answer = self.answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if b"until the end" in answer or not self.answers:
                    break
        finally:
            writer.close()
            self.left.set()


@asynccontextmanager
async def serving(
    server: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    writers: list[asyncio.StreamWriter] = []
    tasks: list[asyncio.Task[Any]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        tasks.append(asyncio.create_task(_to_its_end(server(reader, writer))))
        await tasks[-1]
        writer.close()

    running = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    port = running.sockets[0].getsockname()[1]
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{port}/"
    finally:
        running.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*tasks)
        for writer in writers:
            with suppress(OSError):
                await writer.wait_closed()


async def _to_its_end(work: Awaitable[None]) -> None:
    with suppress(asyncio.IncompleteReadError, OSError):
        await work


def client(verify: ssl.SSLContext | None = None) -> httpx.AsyncClient:
    trusted = verify or ssl.create_default_context()
    return httpx.AsyncClient(transport=DirectTransport(trusted), timeout=5)


async def bodies(server: Server, count: int) -> list[bytes]:
    async with serving(server) as url, client() as one:
        return [(await one.get(url)).content for _ in range(count)]


def refused(answer: bytes | None) -> str:
    with pytest.raises(httpx.RemoteProtocolError) as caught:
        asyncio.run(bodies(Server(answer), 1))
    return str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
        HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nContent-Encoding: gzip\r\n\r\n",
        HEAD + b"X-Why: until the end\r\n\r\nbody",
        b"HTTP/1.1 103 Early Hints\r\nLink: </style>\r\n\r\n" + WHOLE,
    ],
    ids=["of a length", "in chunks", "with a trailer", "until the end", "behind a hint"],
)
def test_an_answer_is_whole_however_its_end_is_told(answer: bytes) -> None:
    assert asyncio.run(bodies(Server(answer), 1)) == [b"body"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (HEAD + b"Content-Length: 9\r\n\r\nbody", "the answer was cut short"),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
            "the answer was cut short",
        ),
        (HEAD[:12], "the answer was cut short"),
        (None, "the connection was closed without an answer"),
        (HEAD + b"no header at all\r\n\r\n", "the answer is not HTTP/1.1: Invalid header token"),
    ],
    ids=["length", "chunks", "head", "nothing", "no HTTP"],
)
def test_less_than_a_whole_answer_is_none(answer: bytes | None, reason: str) -> None:
    assert refused(answer).startswith(reason)


@pytest.mark.parametrize("name", ["LONGEST_HEAD", "LARGEST_ANSWER"])
def test_an_answer_without_an_end_is_given_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, name, 1000)
    filler = b"x" * 2000
    is_head = name == "LONGEST_HEAD"
    answer = HEAD + b"X: " + filler if is_head else HEAD + b"Content-Length: 9000\r\n\r\n" + filler
    assert refused(answer) == "the answer does not end"


def test_a_field_behind_the_body_is_no_header() -> None:
    async def headers() -> httpx.Headers:
        trailed = b"4\r\nbody\r\n0\r\nContent-Encoding: gzip\r\n\r\n"
        answer = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + trailed
        async with serving(Server(answer)) as url, client() as one:
            return (await one.get(url)).headers

    assert dict(asyncio.run(headers())) == {"transfer-encoding": "chunked"}


def test_a_body_that_unpacks_to_a_thousand_times_its_size_comes_in_pieces() -> None:
    packed = gzip.compress(bytes(60_000_000))
    head = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)

    async def sizes() -> list[int]:
        async with (
            serving(Server(HEAD + head + packed)) as url,
            client() as one,
            one.stream("GET", url) as response,
        ):
            return [len(piece) async for piece in response.aiter_bytes()]

    found = asyncio.run(sizes())
    assert (sum(found), max(found) < 20_000_000) == (60_000_000, True)


def test_a_connection_is_used_again() -> None:
    server = Server(WHOLE, WHOLE, WHOLE)
    assert asyncio.run(bodies(server, 3)) == [b"body"] * 3
    assert server.connections == 1


def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    server = Server(HEAD + b"Connection: close\r\nContent-Length: 4\r\n\r\nbody", WHOLE)
    assert asyncio.run(bodies(server, 2)) == [b"body"] * 2
    assert server.connections == 2


def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again() -> None:
    async def ask() -> tuple[bytes, int]:
        server = Server(WHOLE)
        async with serving(server) as url, client() as one:
            await one.get(url)
            await server.left.wait()
            await asyncio.sleep(0)
            server.answers.append(WHOLE)
            return (await one.get(url)).content, server.connections

    assert asyncio.run(ask()) == (b"body", 2)


def test_what_stands_behind_an_answer_is_never_taken_for_the_next() -> None:
    stray = HEAD + b"Content-Length: 5\r\n\r\nstray"
    server = Server(WHOLE + stray, WHOLE)
    assert asyncio.run(bodies(server, 2)) == [b"body"] * 2
    assert server.connections == 2


def test_what_comes_while_nothing_was_asked_is_never_taken_for_an_answer() -> None:
    async def ask() -> tuple[bytes, int]:
        writers: list[asyncio.StreamWriter] = []
        closed = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            while await reader.read(4096):
                writer.write(WHOLE)
            closed.set()
            writer.close()

        async with serving(answer) as url, client() as one:
            await one.get(url)
            writers[0].write(HEAD + b"Content-Length: 5\r\n\r\nstray")
            await closed.wait()
            return (await one.get(url)).content, len(writers)

    assert asyncio.run(ask()) == (b"body", 2)


def test_the_connection_of_a_request_that_was_given_up_is_not_used_again() -> None:
    async def ask() -> tuple[bytes, int]:
        asked = asyncio.Event()
        connections = 0

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await reader.readuntil(b"\r\n\r\n")
            if connections == 1:
                asked.set()
                await reader.read()
                writer.write(HEAD + b"Content-Length: 4\r\n\r\nlate")
            else:
                writer.write(WHOLE)
            writer.close()

        async with serving(answer) as url, client() as one:
            first = asyncio.create_task(one.get(url))
            await asked.wait()
            first.cancel()
            await asyncio.wait([first])
            return (await one.get(url)).content, connections

    assert asyncio.run(ask()) == (b"body", 2)


@pytest.mark.parametrize("refusing", [0, 1], ids=["one address", "behind one that refuses"])
def test_connecting_given_up_at_any_moment_leaves_no_socket_open(
    refusing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)

    async def give_up() -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(WHOLE)

        async with serving(answer) as url, client() as one:
            port = httpx.URL(url).port
            with socket.create_server(("127.0.0.1", 0)) as closed:
                dead = closed.getsockname()[1]
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            answers.extend([(*kind, ("127.0.0.1", dead))] * refusing)
            answers.append((*kind, ("127.0.0.1", port)))
            given_up = 0
            while True:
                asking = asyncio.create_task(one.get(url))
                for _ in range(given_up):
                    await asyncio.sleep(0)
                if asking.done():
                    return given_up
                asking.cancel()
                await asyncio.wait([asking])
                given_up += 1

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        turns = asyncio.run(give_up())
        gc.collect()
    assert turns > 10
    assert [str(one.message) for one in seen] == []


def test_many_requests_at_once_each_have_their_own_answer() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(4096):
            wanted = request.split(b" ")[1]
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(wanted), wanted))
        writer.close()

    async def ask() -> list[bytes]:
        async with serving(answer) as url, client() as one:
            paths = [f"{url}{number}" for number in range(50)]
            answers = await asyncio.gather(*(one.get(path) for path in paths * 4))
            return [answer.content for answer in answers]

    assert asyncio.run(ask()) == [b"/%d" % number for number in range(50)] * 4


def test_a_header_that_would_end_its_line_is_not_sent() -> None:
    async def ask() -> None:
        async with client() as one:
            await one.get("http://127.0.0.1:1/", headers={b"User-Agent": b"a\r\nHost: b"})

    with pytest.raises(httpx.LocalProtocolError) as caught:
        asyncio.run(ask())
    assert str(caught.value) == "the header b'User-Agent' can't be sent: b'a\\r\\nHost: b'"


def test_with_a_proxy_in_the_environment_it_is_the_proxy_that_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ask() -> list[bytes]:
        server = Server(WHOLE)
        async with serving(server) as url:
            monkeypatch.setenv("http_proxy", url)
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            settings = config.load({"exchange.url": "http://exchange.example"}, environment={})
            async with http_client(settings.exchange) as one:
                assert (await one.get("/0/public/Time")).content == b"body"
        return server.requests

    [request] = asyncio.run(ask())
    assert request.startswith(b"GET http://exchange.example/0/public/Time HTTP/1.1\r\n")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_is_held_against_what_is_trusted(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=exchange", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(certificate, key)

    async def ask(trusted: ssl.SSLContext) -> bytes:
        async with serving(Server(WHOLE), served) as url, client(trusted) as one:
            return (await one.get(url)).content

    assert asyncio.run(ask(ssl.create_default_context(cafile=str(certificate)))) == b"body"
    with pytest.raises(httpx.ConnectError) as caught:
        asyncio.run(ask(ssl.create_default_context()))
    assert "certificate" in str(caught.value).lower()
