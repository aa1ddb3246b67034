"""Runs the client over an exchange with odd answers, and records its waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import sample_trades
from kraken_server import Exchange
from kraken_socket import Reply

from harvester.config import ExchangeSettings
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair

T = TypeVar("T")


PAIR = Pair(altname="XBTUSD", key="XXBTZUSD")


MARKET = sample_trades.market(sample_trades.xbtusd_like(60, 3))


GOOD = b'{"error":[],"result":{"XXBTZUSD":[],"last":"5"}}'


class Odd(Exchange):
    """An exchange that answers with given bodies first, and remembers who asked."""

    def __init__(self, *bodies: bytes | Reply) -> None:
        super().__init__([MARKET])
        self.bodies = deque(bodies)
        self.agents: list[str | None] = []

    def answer(self, path: str, params: dict[str, str], agent: str | None) -> Reply:
        self.agents.append(agent)
        if self.bodies:
            body = self.bodies.popleft()
            return body if isinstance(body, Reply) else Reply(body)
        return super().answer(path, params, agent)


class ClientLog:
    """The client's reports of its waits, and the client of the last run."""

    def __init__(self) -> None:
        self.waits: list[tuple[str, str]] = []
        self.client: Client | None = None


def settings(url: str, **changes: float | str) -> ExchangeSettings:
    """Settings with short waits."""
    values: dict[str, float | str] = {
        "user_agent": "tests/1.0",
        "rate": 0,
        "jobs": 2,
        "timeout_s": 5.0,
        "retry_wait_s": 0.01,
        "give_up_s": 5.0,
        "ca_file": "",
        **changes,
    }
    return ExchangeSettings(url=url, **values)  # type: ignore[arg-type]


def run(
    url: str,
    ask: Callable[[Client], Awaitable[T]],
    log: ClientLog | None = None,
    **changes: float | str,
) -> T:
    """What a client gets when it asks."""
    log = log or ClientLog()

    async def session() -> T:
        wait = lambda what, why: log.waits.append((what, why))  # noqa: E731
        async with Client(settings(url, **changes), on_wait=wait) as client:
            log.client = client
            return await ask(client)

    return asyncio.run(session())


async def newest(client: Client) -> int:
    """How many rows the newest page has."""
    return len((await client.page(PAIR, None)).rows)
