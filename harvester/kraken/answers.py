"""What an answer means: a good one, one to wait and ask again for, or one to stop at.

Source: the errors documented by Kraken and seen in captures (docs/kraken.md).
"""

from __future__ import annotations

import logging
import re
import time

import msgspec

from harvester.errors import BAD_JSON, ExchangeRefused

logger = logging.getLogger("harvester.kraken")

LONGEST_THROTTLE_S = 3600.0

_REFUSALS = (
    "EAPI:Rate limit exceeded",
    "EGeneral:Too many requests",
    "EService:Throttled",
)
_PASSING = (
    "EService:Unavailable",
    "EService:Busy",
    "EService:Deadline elapsed",
    "EGeneral:Internal error",
)
_THROTTLED_UNTIL = re.compile(r"Throttled:\s*(\d{10})")


class Transient(Exception):
    """Wait and ask again, with the same request."""

    def __init__(self, reason: str, *, refusal: bool = False, wait_s: float | None = None) -> None:
        """`refusal`: we ask too fast. `wait_s`: the exchange's own word for how long to wait."""
        super().__init__(reason)
        self.reason = reason
        self.refusal = refusal
        self.wait_s = wait_s


class OtherMarket(Transient):
    """An answer is about another market than the one that was asked for."""


_ABSENT = msgspec.Raw(b"")


class _Envelope(msgspec.Struct):
    error: list[str]
    result: msgspec.Raw = _ABSENT


class _Result(msgspec.Struct):
    result: dict[str, msgspec.Raw]


_envelopes = msgspec.json.Decoder(_Envelope)
_results = msgspec.json.Decoder(_Result)


def check_status(status: int, url: str, body: bytes) -> None:
    """Judge the HTTP status.

    Raises:
        Transient: 429 and 5xx.
        ExchangeRefused: any other but 200.
    """
    if status == 200:
        return
    if status == 429 or status >= 500:
        raise Transient(f"HTTP {status}", refusal=status == 429)
    if status == 403:
        raise ExchangeRefused(
            f"{url} answered HTTP 403: its browser check refused the request; "
            "set [exchange] user_agent to a name of your own"
        )
    raise ExchangeRefused(
        f"{url} answered HTTP {status}: {body[:80].decode(errors='replace')!r}; "
        "is [exchange] url right?"
    )


def check_errors(body: bytes, what: str) -> None:
    """Judge the `error` list of an answer; warnings (`W...`) are logged and passed over.

    Raises:
        Transient: the body is no JSON, is cut short, or names a passing fault.
        ExchangeRefused: it names a fault that asking again would not mend.
    """
    if body.startswith(b'{"error":[],"result":{'):
        return
    try:
        envelope = _envelopes.decode(body)
    except BAD_JSON as error:
        raise Transient(f"the body is no answer of the API ({error})") from error
    errors = [text for text in envelope.error if not text.startswith("W")]
    for text in envelope.error:
        if text.startswith("W"):
            logger.warning("%s: the exchange warns: %s", what, text)
    if errors:
        raise _judge(errors, what)
    if bytes(envelope.result) in (b"", b"null"):
        raise Transient("the answer holds neither a result nor an error")


def read_result(body: bytes) -> dict[str, msgspec.Raw]:
    """The entries of an answer's `result`, each still to be read.

    Raises:
        Transient: the body is no JSON, or is cut short.
    """
    try:
        # Entries are not looked into yet: bytes spoilt on the way would show much later.
        body.decode()
        return _results.decode(body).result
    except BAD_JSON as error:
        raise Transient(f"the body is no whole answer ({error})") from error


def _judge(errors: list[str], what: str) -> Exception:
    text = "; ".join(errors)
    for one in errors:
        plain = one.replace(": ", ":", 1)
        if plain.startswith(_REFUSALS):
            until = _THROTTLED_UNTIL.search(one)
            # A stamp that has passed, by whose clock ever, must not become a call at once.
            wait = int(until[1]) - time.time() if until else 0.0
            return Transient(
                one, refusal=True, wait_s=min(wait, LONGEST_THROTTLE_S) if wait > 0 else None
            )
        if plain.startswith(_PASSING):
            return Transient(one)
    return ExchangeRefused(f"{what}: the exchange refused: {text}")
