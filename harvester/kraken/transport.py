"""HTTP for the exchange, by httpx: requests and their answers, limited in time and in size."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import NamedTuple
from urllib.request import getproxies

import httpx

from harvester.config import KRAKEN_URL, ExchangeSettings
from harvester.errors import BadSetting, brief, without_user
from harvester.kraken.answers import (
    ACCEPT_ENCODING,
    LARGEST_BODY,
    PREFER_STORED_ROWS,
    Transient,
    too_large,
)

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

    It uses the proxies that the environment names, follows no redirect, keeps no cookie, and sends
    no request twice.
    """

    def __init__(self, settings: ExchangeSettings) -> None:
        """Prepare the client; connections are opened as needed.

        Raises:
            BadSetting: a proxy or the certificate file can't be used.
        """
        self._settings = settings
        for kind in ("http", "https", "all"):
            if address := getproxies().get(kind):
                _check_proxy(kind, address)
        headers = {
            "User-Agent": settings.user_agent,
            "Accept": "application/json",
            "Accept-Encoding": ACCEPT_ENCODING,
        }
        if settings.url != KRAKEN_URL:
            headers["Prefer"] = PREFER_STORED_ROWS
        # A file that is named is read even so, as it may be wrong.
        uses_tls = bool(settings.ca_file) or not settings.url.lower().startswith("http:")
        self._client = httpx.AsyncClient(
            headers=headers,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            # `get` limits the whole request. A handshake of TLS must end before: httpcore does not
            # close the connection of one that is cancelled.
            timeout=httpx.Timeout(None, connect=settings.timeout_s / 2),
            # No number: the rate limiter bounds how many requests are in flight.
            limits=httpx.Limits(keepalive_expiry=MAX_IDLE_S),
            # Without TLS there is no certificate, and loading the authorities takes 20 ms or more.
            verify=_certificates(settings.ca_file) if uses_tls else False,
        )
        self.close = self._client.aclose
        """Closes all connections."""

    async def get(self, target: str) -> HttpAnswer:
        """Send one request and return its complete answer.

        Args:
            target: path and query, to be appended to the exchange's address.

        Raises:
            Transient: there is no complete answer within the time limit, or it is too large.
            BadSetting: the exchange's address can't be used.
        """
        try:
            async with (
                asyncio.timeout(self._settings.timeout_s),
                self._client.stream("GET", self._settings.url + target) as response,
            ):
                # As it was sent: `answers.decompress` limits what it unpacks to.
                body = bytearray()
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > LARGEST_BODY:
                        raise too_large()
        except TimeoutError as error:
            raise Transient(f"no answer within {self._settings.timeout_s:g} s") from error
        except httpx.ConnectTimeout as error:
            raise Transient(f"no connection within {self._settings.timeout_s / 2:g} s") from error
        except httpx.InvalidURL as error:
            raise BadSetting(
                f"[exchange] url {self._settings.shown_url!r} is not an address: {error}"
            ) from error
        except httpx.TransportError as error:
            raise Transient(_failure_reason(error)) from error
        codings = response.headers.get_list("content-encoding")
        return HttpAnswer(response.status_code, codings, bytes(body))


def _failure_reason(error: httpx.TransportError) -> str:
    """Why a request has no complete answer, in a few words without the exchange's address."""
    match error:
        case httpx.ConnectError():
            reason = f"no connection: {_system_message(error)}"
        case httpx.ProxyError():
            reason = f"the proxy answered {error}"
        case httpx.RemoteProtocolError():
            reason = f"no complete HTTP answer: {error}"
        case _:
            reason = f"the connection broke: {_system_message(error)}"
    return brief(" ".join(reason.split()))


def _system_message(error: BaseException) -> str:
    """The system's message behind an error of httpx, whose own says less or shows the address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            if isinstance(cause, (ssl.SSLError, socket.gaierror)):
                return cause.strerror or str(cause)
            return os.strerror(cause.errno)
        if isinstance(cause, BaseExceptionGroup):  # one error for each of the host's addresses
            cause = cause.exceptions[0]
        else:
            cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _check_proxy(kind: str, address: str) -> None:
    """Refuse a proxy that httpx can't use; its user name and password are not shown.

    Args:
        kind: http, https or all, as in the variable's name.
        address: the variable's value.
    """
    try:
        url = httpx.Proxy(address if "://" in address else f"http://{address}").url
        is_usable = url.scheme in ("http", "https") and (url.port is None or 0 < url.port < 65536)
    except (httpx.InvalidURL, ValueError):
        is_usable = False
    if not is_usable:
        shown = brief(without_user(address))
        raise BadSetting(
            f"the proxy that {kind.upper()}_PROXY names, {shown!r}, can't be used: give one that "
            "begins with http:// or https://, or unset the variable"
        )


@cache  # Reading them takes about 40 ms.
def _certificates(ca_file: str) -> ssl.SSLContext:
    """The authorities whose certificates are trusted: of a file, or those that httpx trusts."""
    if ca_file and Path(ca_file).exists() and not Path(ca_file).is_file():
        raise BadSetting(f"[exchange] ca_file {ca_file!r} can't be used: it is not a regular file")
    try:
        return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise BadSetting(f"[exchange] ca_file {ca_file!r} can't be used: {error}") from error
