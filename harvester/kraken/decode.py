"""Read answers of the exchange, limited in size, and classify them: good, retry, or final."""

from __future__ import annotations

import logging
import re
import time
import zlib
from typing import TYPE_CHECKING

import msgspec

from harvester.errors import BAD_JSON, ExchangeRefused
from harvester.escaping import LONGEST_TEXT, printable, shortened

if TYPE_CHECKING:
    import httpx

# --- answers --------------------------------------------------------------------------------------

# Source: the errors documented by Kraken and seen in captures (docs/kraken.md).

logger = logging.getLogger("harvester.kraken")

LONGEST_THROTTLE_S = 3600.0

MOST_TEXTS = 5
"""So many different errors or warnings of one answer are shown."""

_TOO_FAST = ("EAPI:Rate limit exceeded", "EGeneral:Too many requests")
_THROTTLED = "EService:Throttled"
_PASSING = ("EService:", "EDatabase:", "EGeneral:Internal error", "EGeneral:No data")
_LASTING = (
    "EQuery:Unknown asset pair",
    "EGeneral:Invalid arguments",
    "EGeneral:Permission denied",
    "EGeneral:Temporary lockout",
    "EGeneral:Unknown method",
)
"""What waiting does not mend. An error that is in neither list is asked again for."""
_THROTTLED_UNTIL = re.compile(r"Throttled:\s*(\d{10})")


class Transient(Exception):
    """Wait and ask again, with the same request."""

    def __init__(
        self,
        reason: str,
        *,
        refusal: bool = False,
        throttled: bool = False,
        wait_s: float | None = None,
    ) -> None:
        """With what the exchange said.

        Args:
            reason: its words.
            refusal: it asks for fewer calls.
            throttled: of a refusal, that too many calls are in flight at once, by all pairs.
            wait_s: the exchange's own word for how long to wait.
        """
        super().__init__(reason)
        self.reason = reason
        self.refusal = refusal
        self.throttled = throttled
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
        Transient: the body is no JSON, is cut short, or names any fault that may pass.
        ExchangeRefused: it names a fault that waiting does not mend.
    """
    if body.startswith(b'{"error":[],"result":{'):
        return
    try:
        envelope = _envelopes.decode(body)
    except BAD_JSON as error:
        raise Transient(f"the body is no answer of the API ({error})") from error
    # Equal ones are one: an answer can hold a hundred thousand.
    texts = list(dict.fromkeys(envelope.error))
    errors = [text for text in texts if not text.startswith("W")]
    for text in _shown([text for text in texts if text.startswith("W")]):
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
    """What to do about the errors of one answer.

    One that is known to pass decides, then one that is known to last; what is unknown may pass.
    """
    plain = [text.replace(": ", ":", 1) for text in errors]
    for text, form in zip(errors, plain, strict=True):
        if form.startswith(_THROTTLED):
            return Transient(
                _brief(text), refusal=True, throttled=True, wait_s=_throttled_wait_s(text)
            )
        if form.startswith(_TOO_FAST):
            return Transient(_brief(text), refusal=True)
        if form.startswith(_PASSING):
            return Transient(_brief(text))
    reason = "; ".join(_shown(errors))
    if any(form.startswith(_LASTING) for form in plain):
        return ExchangeRefused(f"{what}: the exchange refused: {reason}")
    return Transient(reason)


def _throttled_wait_s(text: str) -> float | None:
    until = _THROTTLED_UNTIL.search(text[:LONGEST_TEXT])
    # A stamp that has passed, by whose clock ever, must not become a call at once.
    wait_s = int(until[1]) - time.time() if until else 0.0
    return min(wait_s, LONGEST_THROTTLE_S) if wait_s > 0 else None


def _shown(texts: list[str]) -> list[str]:
    """The first of some texts of the exchange's, each short and in one line."""
    more = [f"and {len(texts) - MOST_TEXTS:,} more"] if len(texts) > MOST_TEXTS else []
    return [_brief(text) for text in texts[:MOST_TEXTS]] + more


def _brief(text: str) -> str:
    return printable(shortened(text))


# --- bodies ---------------------------------------------------------------------------------------

# httpx's decompression has no limit: it follows any number of codings, and four kilobytes that
# were compressed twice become gigabytes. Here one coding is followed, and its output is counted.

LARGEST_BODY = 32 * 1024 * 1024
"""Bytes, compressed or not; a page has some 70,000, the list of pairs a million."""

ACCEPTED = "gzip, deflate"
"""What a request says that it can decompress."""

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
# "deflate" is zlib's format; some servers send it without zlib's header.
_FORMATS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (_ZLIB, _RAW)}


async def read_raw(response: httpx.Response) -> bytes:
    """Read the bytes of a body as they were sent.

    Raises:
        Transient: there are more than `LARGEST_BODY`.
        httpx.TransportError: not all of them came.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise _too_large()
        chunks.append(chunk)
    return b"".join(chunks)


def unpacked(raw: bytes, response: httpx.Response) -> bytes:
    """Decompress a body, as its `Content-Encoding` says.

    Of an answer with an HTTP status other than 200, what can't be decompressed is empty: the status
    says enough.

    Raises:
        Transient: it is compressed more than once or in a way that was not asked for, it is
            damaged, or it has more than `LARGEST_BODY` bytes.
    """
    listed = response.headers.get_list("content-encoding", split_commas=True)
    names = (name.strip().lower() for name in listed)
    codings = [name for name in names if name not in ("", "identity")]
    try:
        return _decompressed(raw, codings) if codings else raw
    except Transient:
        if response.status_code != 200:
            return b""
        raise


def _decompressed(raw: bytes, codings: list[str]) -> bytes:
    formats = _FORMATS.get(codings[0], ())
    if len(codings) > 1 or not formats:
        how = printable(shortened(", ".join(codings)))
        raise Transient(f"a body compressed as {how!r}, where {ACCEPTED} can be read, one of them")
    for window in formats[:-1]:
        try:
            return _inflated(raw, window)
        except zlib.error:
            continue
    try:
        return _inflated(raw, formats[-1])
    except zlib.error as error:
        raise Transient(f"the body can't be decompressed: {error}") from error


def _inflated(raw: bytes, window: int) -> bytes:
    inflater = zlib.decompressobj(window)
    body = inflater.decompress(raw, LARGEST_BODY + 1)
    if len(body) > LARGEST_BODY:
        raise _too_large()
    if not inflater.eof:
        raise Transient("the body is cut short: its compressed data does not end")
    return body


def _too_large() -> Transient:
    return Transient(f"a body of more than {LARGEST_BODY >> 20} MB")
