"""HTTP over real sockets: whole answers, each to its request."""

from __future__ import annotations

import asyncio
import base64
import gc
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from client_runs import settings

from harvester.errors import BadSetting
from harvester.kraken import transport as module
from harvester.kraken.answers import Transient
from harvester.kraken.transport import HttpAnswer, HttpClient

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
        yield f"http{'s' if context else ''}://127.0.0.1:{port}"
    finally:
        running.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*tasks)
        for writer in writers:
            with suppress(OSError):
                await writer.wait_closed()
        # What was accepted, and is not yet known to `handle`.
        for transport in list(getattr(asyncio.get_running_loop(), "_transports", {}).values()):
            transport.abort()
        await asyncio.sleep(0)


async def _to_its_end(work: Awaitable[None]) -> None:
    with suppress(asyncio.IncompleteReadError, OSError):
        await work


@asynccontextmanager
async def client(url: str, **changes: float | str) -> AsyncIterator[HttpClient]:
    http = HttpClient(settings(url, **changes))
    try:
        yield http
    finally:
        await http.close()


async def bodies(server: Server, count: int) -> list[bytes]:
    async with serving(server) as url, client(url) as http:
        return [(await http.get("/")).body for _ in range(count)]


def refused(answer: bytes | None) -> str:
    with pytest.raises(Transient) as caught:
        asyncio.run(bodies(Server(answer), 1))
    return caught.value.reason


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
def test_an_answer_is_whole_for_every_form_of_its_length(answer: bytes) -> None:
    assert asyncio.run(bodies(Server(answer), 1)) == [b"body"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (HEAD + b"Content-Length: 9\r\n\r\nbody", "peer closed connection without "),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
            "peer closed connection without ",
        ),
        (HEAD[:12], "Server disconnected without sending a response"),
        (None, "Server disconnected without sending a response"),
        (HEAD + b"no header at all\r\n\r\n", "illegal header line"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "illegal status line"),
    ],
    ids=["length", "chunks", "head", "nothing", "no header", "no HTTP"],
)
def test_less_than_a_whole_answer_is_none(answer: bytes | None, reason: str) -> None:
    assert refused(answer).startswith(f"no complete HTTP answer: {reason}")


@pytest.mark.parametrize(
    "head",
    [b"X: " + b"x" * 200_000, b"X: y\r\n" * 40_000],
    ids=["one long header", "many headers"],
)
def test_headers_without_an_end_are_given_up(head: bytes) -> None:
    assert refused(HEAD + head) == "no complete HTTP answer: Receive buffer too long"


def test_a_body_that_is_too_large_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_BODY", 1000)
    answer = HEAD + b"Content-Length: 9000000\r\n\r\n" + bytes(2000)
    assert refused(answer) == "the body has more than 32 MB"


@pytest.mark.parametrize(
    "answer", [b"", HEAD + b"Content-Length: 4\r\n\r\nbo"], ids=["silence", "half an answer"]
)
def test_a_request_ends_at_its_time_limit(answer: bytes) -> None:
    async def ask() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            await reader.read()

        async with serving(serve) as url, client(url, timeout_s=0.1) as http:
            await http.get("/")

    with pytest.raises(Transient) as caught:
        asyncio.run(ask())
    assert caught.value.reason == "no answer within 0.1 s"


def test_the_connection_of_a_tls_handshake_without_an_answer_is_closed() -> None:
    async def ask() -> None:
        left = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await reader.read()
            left.set()

        async with serving(serve) as url, client(url.replace("http", "https"), timeout_s=0.1) as h:
            with pytest.raises(Transient, match=r"no connection within 0\.05 s"):
                await h.get("/")
            await left.wait()

    asyncio.run(ask())


def test_a_field_behind_the_body_is_no_header() -> None:
    async def ask() -> HttpAnswer:
        trailed = b"4\r\nbody\r\n0\r\nContent-Encoding: gzip\r\n\r\n"
        answer = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + trailed
        async with serving(Server(answer)) as url, client(url) as http:
            return await http.get("/")

    assert asyncio.run(ask()) == HttpAnswer(200, [], b"body")


def test_a_redirect_is_not_followed() -> None:
    async def ask() -> int:
        moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
        async with serving(Server(moved)) as url, client(url) as http:
            return (await http.get("/")).status

    assert asyncio.run(ask()) == 302


def test_a_request_is_json_in_a_coding_that_is_read_and_names_its_user_agent() -> None:
    server = Server(WHOLE)
    asyncio.run(bodies(server, 1))
    line, *fields = server.requests[0].decode().split("\r\n")
    headers = dict(field.split(": ") for field in fields if field)
    assert line == "GET / HTTP/1.1"
    assert headers["Accept-Encoding"] == "gzip, deflate"
    assert (headers["User-Agent"], headers["Accept"]) == ("tests/1.0", "application/json")
    # The last one asks an API server for rows as they are stored; Kraken is not sent it.
    names = {"Host", "Accept-Encoding", "User-Agent", "Accept", "Connection", "Prefer"}
    assert set(headers) == names


def test_cookies_are_not_kept() -> None:
    cookie = WHOLE.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n")
    server = Server(cookie, WHOLE)
    asyncio.run(bodies(server, 2))
    assert b"Cookie" not in server.requests[1]


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
        async with serving(server) as url, client(url) as http:
            await http.get("/")
            await server.left.wait()
            await asyncio.sleep(0)
            server.answers.append(WHOLE)
            return (await http.get("/")).body, server.connections

    assert asyncio.run(ask()) == (b"body", 2)


def test_a_request_without_an_answer_is_sent_once() -> None:
    server = Server(WHOLE, None, WHOLE)
    with pytest.raises(Transient):
        asyncio.run(bodies(server, 2))
    assert len(server.requests) == 2


def test_bytes_that_come_without_a_request_are_no_answer() -> None:
    async def ask() -> tuple[bytes, int]:
        writers: list[asyncio.StreamWriter] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            while await reader.read(4096):
                writer.write(WHOLE)
            writer.close()

        async with serving(answer) as url, client(url) as http:
            await http.get("/")
            writers[0].write(HEAD + b"Content-Length: 5\r\n\r\nstray")
            return (await http.get("/")).body, len(writers)

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

        async with serving(answer) as url, client(url) as http:
            first = asyncio.create_task(http.get("/"))
            await asked.wait()
            first.cancel()
            await asyncio.wait([first])
            return (await http.get("/")).body, connections

    assert asyncio.run(ask()) == (b"body", 2)


@pytest.mark.parametrize("refusing", [0, 1], ids=["one address", "behind one that refuses"])
def test_a_request_cancelled_at_any_moment_leaves_no_socket_open(
    refusing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)

    async def give_up() -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(WHOLE)

        async with serving(answer) as url:
            with socket.create_server(("127.0.0.1", 0)) as closed:
                dead = closed.getsockname()[1]
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            answers.extend([(*kind, ("127.0.0.1", dead))] * refusing)
            answers.append((*kind, ("127.0.0.1", int(url.rpartition(":")[2]))))
            given_up = 0
            while True:
                async with client(url.replace("127.0.0.1", "exchange.example")) as http:
                    pending = asyncio.create_task(http.get("/"))
                    for _ in range(given_up):
                        await asyncio.sleep(0)
                    if pending.done():
                        assert pending.result().body == b"body"
                        return given_up
                    pending.cancel()
                    await asyncio.wait([pending])
                    given_up += 1

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        turns = asyncio.run(give_up())
        gc.collect()
    assert turns > 10
    assert [str(warning.message) for warning in seen] == []


def test_many_requests_at_once_each_have_their_own_answer() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(4096):
            wanted = request.split(b" ")[1]
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(wanted), wanted))
        writer.close()

    async def ask() -> list[bytes]:
        # 200 connections at once: a busy machine needs longer than usual for the last ones.
        async with serving(answer) as url, client(url, timeout_s=60) as http:
            paths = [f"/{number}" for number in range(50)]
            answers = await asyncio.gather(*(http.get(path) for path in paths * 4))
            return [answer.body for answer in answers]

    assert asyncio.run(ask()) == [b"/%d" % number for number in range(50)] * 4


# --- Settings and the environment -----------------------------------------------------------------


def test_user_name_and_password_of_the_address_are_sent_as_a_header() -> None:
    async def ask() -> list[bytes]:
        server = Server(WHOLE)
        async with serving(server) as url, client(url.replace("//", "//me:secret@")) as http:
            await http.get("/")
        return server.requests

    [request] = asyncio.run(ask())
    assert b"\r\nAuthorization: Basic " + base64.b64encode(b"me:secret") in request


def test_an_address_whose_host_is_no_name_is_a_bad_setting() -> None:
    async def ask() -> None:
        async with client("https://☃.kraken.com") as http:
            await http.get("/")

    with pytest.raises(BadSetting) as caught:
        asyncio.run(ask())
    assert str(caught.value).startswith("[exchange] url 'https://☃.kraken.com' is not an address: ")


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no proxy and no exception from one."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def asked_of_proxy(no_proxy: pytest.MonkeyPatch, variable: str, prefix: str) -> bytes:
    """The request that a proxy receives for an exchange of another name."""

    async def ask() -> list[bytes]:
        proxy = Server(WHOLE)
        async with serving(proxy) as url:
            no_proxy.setenv(variable, url.replace("http://", prefix))
            async with client("http://exchange.example") as http:
                assert (await http.get("/0/public/Time")).body == b"body"
        return proxy.requests

    [request] = asyncio.run(ask())
    return request


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
@pytest.mark.parametrize("prefix", ["http://", ""])
def test_a_proxy_in_the_environment_gets_the_request(
    no_proxy: pytest.MonkeyPatch, variable: str, prefix: str
) -> None:
    request = asked_of_proxy(no_proxy, variable, prefix)
    assert request.startswith(b"GET http://exchange.example/0/public/Time HTTP/1.1\r\n")


def test_a_proxy_is_given_its_user_name_and_password(no_proxy: pytest.MonkeyPatch) -> None:
    request = asked_of_proxy(no_proxy, "http_proxy", "http://me:secret@")
    assert b"\r\nProxy-Authorization: Basic " + base64.b64encode(b"me:secret") in request


@pytest.mark.parametrize("listed", ["127.0.0.1", "*"])
def test_an_exchange_in_no_proxy_is_requested_directly(
    no_proxy: pytest.MonkeyPatch, listed: str
) -> None:
    no_proxy.setenv("http_proxy", "http://127.0.0.1:1")
    no_proxy.setenv("no_proxy", listed)
    assert asyncio.run(bodies(Server(WHOLE), 1)) == [b"body"]


@pytest.mark.parametrize(
    "address", ["http://☃..example:1", "http://[::1:3", "http://proxy:0", "http://proxy:65536"]
)
def test_a_proxy_whose_address_is_none_is_a_bad_setting(
    no_proxy: pytest.MonkeyPatch, address: str
) -> None:
    no_proxy.setenv("https_proxy", address)
    with pytest.raises(BadSetting) as caught:
        HttpClient(settings("http://exchange.example"))
    assert str(caught.value).startswith(f"the proxy that HTTPS_PROXY names, {address!r}, can't be ")


def test_the_error_of_a_proxy_that_refuses_or_is_missing_hides_its_password(
    no_proxy: pytest.MonkeyPatch,
) -> None:
    async def ask(proxy: str) -> str:
        no_proxy.setenv("https_proxy", proxy.replace("//", "//me:secret@"))
        with pytest.raises(Transient) as caught:
            async with client("https://exchange.example") as http:
                await http.get("/")
        return caught.value.reason

    async def refuse() -> str:
        denied = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
        async with serving(Server(denied)) as proxy:
            return await ask(proxy)

    assert asyncio.run(refuse()) == "the proxy answered 407 Proxy Authentication Required"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    assert asyncio.run(ask(f"http://127.0.0.1:{dead}")) == "no connection: Connection refused"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_is_held_against_what_is_trusted(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=exchange", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(certificate, key)

    async def ask(ca_file: str) -> bytes:
        async with serving(Server(WHOLE), served) as url, client(url, ca_file=ca_file) as http:
            return (await http.get("/")).body

    assert asyncio.run(ask(str(certificate))) == b"body"
    with pytest.raises(Transient) as caught:
        asyncio.run(ask(""))
    assert caught.value.reason.startswith("no connection: ")
    assert "certificate" in caught.value.reason.lower()
