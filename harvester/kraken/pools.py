"""Connections to the exchange, in several pools.

httpcore looks at every connection of a pool at each request: with two hundred of them in one pool
that is a fifth of all time. Pairs are spread over pools of few, which share what TLS needs.
"""

from __future__ import annotations

import ssl

import httpx

from harvester.config import ExchangeSettings
from harvester.errors import BadSetting

PAIRS_A_POOL = 8
SPANS_A_PAIR = 2
"""So many calls of one pair may be in flight at once: see `crawl/split.py`."""


class Pools:
    """The pools of one client; each pair, and what is no pair, keeps to one of them."""

    def __init__(self, settings: ExchangeSettings) -> None:
        """Connects to nothing yet.

        Raises:
            BadSetting: the address, or the file of certificates, can't be used.
        """
        # However the pairs that run fall on the pools, no call waits for a connection.
        most = SPANS_A_PAIR * settings.jobs + 2
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        verify = _certificates(settings.ca_file)
        try:
            self._pools = [
                httpx.AsyncClient(
                    base_url=settings.url,
                    headers={"User-Agent": settings.user_agent, "Accept": "application/json"},
                    timeout=settings.timeout_s,
                    limits=limits,
                    verify=verify,
                )
                for _ in range(-(-settings.jobs // PAIRS_A_POOL))
            ]
        except httpx.InvalidURL as error:
            raise BadSetting(f"[exchange] url {settings.url!r} is no address: {error}") from error
        self._places: dict[str, int] = {}

    def of(self, name: str) -> httpx.AsyncClient:
        """The pool of a pair, or of an endpoint."""
        place = self._places.setdefault(name, len(self._places))
        return self._pools[place % len(self._pools)]

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.aclose()


def _certificates(ca_file: str) -> ssl.SSLContext:
    try:
        # Read once: it takes 25 ms.
        return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise BadSetting(f"[exchange] ca_file {ca_file!r} can't be used: {error}") from error
