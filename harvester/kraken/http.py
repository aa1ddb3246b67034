"""HTTP for the exchange, by aiohttp: requests and their answers, limited in time and in size."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import certifi

from harvester.config import ExchangeSettings
from harvester.errors import BadSetting
from harvester.escaping import printable, shortened, without_user
from harvester.kraken.decode import ACCEPTED, LARGEST_BODY, Transient, too_large

MAX_IDLE_S = 15.0
"""A connection idle for longer is not used again: servers close theirs, some after 20 s."""


class HttpAnswer(NamedTuple):
    """A complete answer; its body is as it was sent, compressed or not."""

    status: int
    codings: list[str]
    """The values of its `Content-Encoding` headers."""
    body: bytes


class HttpClient:
    """Sends GET requests to the exchange over connections that are kept open.

    It uses the proxy that the environment names for the exchange.
    """

    def __init__(self, settings: ExchangeSettings) -> None:
        """Prepare the client; connections are opened as needed.

        Raises:
            BadSetting: a proxy or the certificate file can't be used.
        """
        self._settings = settings
        self._certificates = _certificates(settings.ca_file)
        self._proxy = _proxy_for(settings.url)
        self._session: aiohttp.ClientSession | None = None

    async def get(self, target: str) -> HttpAnswer:
        """Send one request and return its complete answer.

        Args:
            target: path and query, to be appended to the exchange's address.

        Raises:
            Transient: there is no complete answer within the time limit, or it is too large.
            BadSetting: the exchange's address can't be used.
        """
        self._session = self._session or self._open_session()
        try:
            # aiohttp's own limits are per step: a body that trickles in would never end.
            async with (
                asyncio.timeout(self._settings.timeout_s),
                self._session.get(self._settings.url + target, allow_redirects=False) as response,
            ):
                body = await _read_body(response.content)
        except TimeoutError as error:
            raise Transient(f"no answer within {self._settings.timeout_s:g} s") from error
        except (aiohttp.InvalidURL, UnicodeError) as error:
            raise BadSetting(
                f"[exchange] url {self._settings.shown_url!r} is not an address: its host name is "
                f"invalid ({error})"
            ) from error
        except aiohttp.ClientError as error:
            raise Transient(_failure_reason(error)) from error
        return HttpAnswer(response.status, response.headers.getall("Content-Encoding", []), body)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # No limit here: the rate limiter bounds how many requests are in flight.
            connector=aiohttp.TCPConnector(
                ssl=self._certificates, limit=0, keepalive_timeout=MAX_IDLE_S
            ),
            headers={
                "User-Agent": self._settings.user_agent,
                "Accept": "application/json",
                "Accept-Encoding": ACCEPTED,
            },
            # Decompressed by `decode.decompress`, which limits the size of the result.
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_send_once,),
            proxy=self._proxy,
        )


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request, and raise an error that aiohttp does not retry if the connection fails.

    aiohttp would send the request again at once: neither counted nor within the rate.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise Transient(_failure_reason(error)) from error


async def _read_body(content: aiohttp.StreamReader) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in content.iter_any():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise too_large()
        chunks.append(chunk)
    return b"".join(chunks)


def _failure_reason(error: aiohttp.ClientError) -> str:
    """Why a request has no complete answer, in a few words without the exchange's address."""
    match error:
        case aiohttp.ClientProxyConnectionError():
            return f"no connection to the proxy: {_system_message(error.os_error)}"
        case aiohttp.ClientConnectorCertificateError():
            return f"no connection: {error.certificate_error}"
        case aiohttp.ClientConnectorError():
            return f"no connection: {_system_message(error.os_error)}"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed without an answer"
        case aiohttp.ClientPayloadError():
            return "the answer was cut short"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered HTTP {error.status}"
        case aiohttp.ClientResponseError():
            reason = f"the answer is not HTTP/1.1: {error.message}"
        case _:
            reason = str(error) or type(error).__name__
    return printable(shortened(" ".join(reason.split())))


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address, if any."""
    proxies = getproxies()
    for kind in ("http", "https", "all"):
        _check_proxy(kind, proxies.get(kind, ""))
    parts = urlsplit(url)
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _check_proxy(kind: str, address: str) -> None:
    """Refuse a proxy that aiohttp can't use; its user name and password are not shown.

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
    """The authorities whose certificates are trusted: of a file, or those that certifi lists."""
    if ca_file and Path(ca_file).exists() and not Path(ca_file).is_file():
        raise BadSetting(f"[exchange] ca_file {ca_file!r} can't be used: it is not a regular file")
    # OpenSSL reads the environment's authorities itself.
    is_set = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    try:
        return ssl.create_default_context(cafile=ca_file or (None if is_set else certifi.where()))
    except (OSError, ssl.SSLError) as error:
        raise BadSetting(f"[exchange] ca_file {ca_file!r} can't be used: {error}") from error


def _system_message(error: OSError) -> str:
    """The system's message: asyncio's repeats the address, which the caller already shows."""
    if error.errno is None or isinstance(error, (ssl.SSLError, socket.gaierror)):
        return error.strerror or str(error)
    return os.strerror(error.errno)
