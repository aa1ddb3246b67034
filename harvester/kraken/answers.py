"""Read the exchange's answers, limited in size, and sort them: valid, to be retried, or final."""

from __future__ import annotations

import logging
import re
import time
import zlib
from typing import NoReturn

import msgspec

from harvester.errors import BAD_JSON, LONGEST_TEXT, ExchangeRefused, brief

# --- HTTP status and errors -----------------------------------------------------------------------

# Source: the errors that Kraken documents, and those in captured answers (docs/kraken.md).

logger = logging.getLogger("harvester.kraken")

LONGEST_THROTTLE_S = 3600.0

MAX_LISTED = 5
"""How many different errors or warnings of one answer are shown."""

_RATE_ERRORS = ("EAPI:Rate limit exceeded", "EGeneral:Too many requests")
_THROTTLED = "EService:Throttled"
_TRANSIENT_ERRORS = ("EService:", "EDatabase:", "EGeneral:Internal error", "EGeneral:No data")
_NOT_COVERED = ("EQuery:Not covered by this archive", "EQuery:Imported, not downloaded")
_UNKNOWN_PAIR = "Unknown asset pair"
_PERMANENT_ERRORS = (
    f"EQuery:{_UNKNOWN_PAIR}",
    *_NOT_COVERED,
    "EGeneral:Invalid arguments",
    "EGeneral:Permission denied",
    "EGeneral:Temporary lockout",
    "EGeneral:Unknown method",
)
"""Errors that retrying does not resolve; two are harvester's API server's.

An error in neither list is retried.
"""
_THROTTLED_UNTIL = re.compile(r"Throttled:\s*(\d{10})")


class Transient(Exception):
    """A failure that may pass: the same request is sent again after a wait."""

    def __init__(
        self,
        reason: str,
        *,
        is_refusal: bool = False,
        is_throttled: bool = False,
        wait_s: float | None = None,
    ) -> None:
        """Describe the failure.

        Args:
            reason: the exchange's words, or what is wrong with its answer.
            is_refusal: whether the exchange refused because of too many calls.
            is_throttled: for a refusal, whether too many calls of all pairs are in flight at once.
            wait_s: seconds to wait, if the exchange names them.
        """
        super().__init__(reason)
        self.reason = reason
        self.is_refusal = is_refusal
        self.is_throttled = is_throttled
        self.wait_s = wait_s


class OtherMarket(Transient):
    """An answer is about another market than the requested one."""


class PageNotCovered(ExchangeRefused):
    """An API server refuses a page that would cross a gap, or have imported trades."""


_ABSENT = msgspec.Raw(b"")


class _Envelope(msgspec.Struct):
    error: list[str]
    result: msgspec.Raw = _ABSENT


class _Result(msgspec.Struct):
    result: dict[str, msgspec.Raw]


_envelopes = msgspec.json.Decoder(_Envelope)
_results = msgspec.json.Decoder(_Result)


def check_status(status: int, url: str, body: bytes) -> NoReturn:
    """Raise the error that an HTTP status other than 200 stands for.

    Args:
        status: the HTTP status of the answer.
        url: the address without its query, for the message.
        body: the answer's body, for the message.

    Raises:
        Transient: 429 and 5xx.
        ExchangeRefused: any other.
    """
    if status == 429 or status >= 500:
        raise Transient(f"HTTP {status}", is_refusal=status == 429)
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
    """Raise the error that an answer's `error` list names; warnings (`W...`) are logged only.

    Args:
        body: the answer's body.
        what: the pair or endpoint, for messages.

    Raises:
        Transient: the body is not JSON, is cut short, or names any error that may pass.
        ExchangeRefused: it names only errors that retrying does not resolve.
    """
    if body.startswith(b'{"error":[],"result":{'):
        return
    try:
        envelope = _envelopes.decode(body)
    except BAD_JSON as error:
        raise Transient(f"the body is not an answer of the API ({error})") from error
    # Duplicates are dropped: an answer can contain a hundred thousand errors.
    texts = list(dict.fromkeys(envelope.error))
    errors = [text for text in texts if not text.startswith("W")]
    for text in _brief_list([text for text in texts if text.startswith("W")]):
        logger.warning("%s: the exchange warns: %s", what, text)
    if errors:
        raise _error_of(errors, what)
    if bytes(envelope.result) in (b"", b"null"):
        raise Transient("the answer has neither a result nor an error")


def read_result(body: bytes) -> dict[str, msgspec.Raw]:
    """Return the entries of an answer's `result`, not decoded yet.

    Raises:
        Transient: the body is not JSON, or is cut short.
    """
    try:
        # The entries are decoded later. Damaged bytes must fail here, where the call is retried.
        body.decode()
        return _results.decode(body).result
    except BAD_JSON as error:
        raise Transient(f"the body is not a complete answer ({error})") from error


def _error_of(errors: list[str], what: str) -> Exception:
    """The exception for the errors of one answer.

    A known transient error decides, then a known permanent one. Unknown errors count as transient.
    """
    forms = [text.replace(": ", ":", 1) for text in errors]
    for text, form in zip(errors, forms, strict=True):
        if form.startswith(_THROTTLED):
            return Transient(
                brief(text), is_refusal=True, is_throttled=True, wait_s=_throttled_wait_s(text)
            )
        if form.startswith(_RATE_ERRORS):
            return Transient(brief(text), is_refusal=True)
        if form.startswith(_TRANSIENT_ERRORS):
            return Transient(brief(text))
    reason = "; ".join(_brief_list(errors))
    if any(form.startswith(_PERMANENT_ERRORS) for form in forms):
        is_gap = any(form.startswith(_NOT_COVERED) for form in forms)
        kind = PageNotCovered if is_gap else ExchangeRefused
        return kind(f"{what}: the exchange refused: {reason}")
    return Transient(reason)


def is_unknown_pair(error: Exception) -> bool:
    """Whether the exchange refused a request because it does not know the pair."""
    return isinstance(error, ExchangeRefused) and _UNKNOWN_PAIR in str(error)


def _throttled_wait_s(text: str) -> float | None:
    until = _THROTTLED_UNTIL.search(text[:LONGEST_TEXT])
    # A time in the past, perhaps by a wrong clock, must not cause an immediate call.
    wait_s = int(until[1]) - time.time() if until else 0.0
    return min(wait_s, LONGEST_THROTTLE_S) if wait_s > 0 else None


def _brief_list(texts: list[str]) -> list[str]:
    """The first texts, each short and in one line, and how many more there are."""
    more = [f"and {len(texts) - MAX_LISTED:,} more"] if len(texts) > MAX_LISTED else []
    return [brief(text) for text in texts[:MAX_LISTED]] + more


# --- Bodies ---------------------------------------------------------------------------------------

# Libraries for HTTP undo any number of codings: four kilobytes that were compressed twice become
# gigabytes. Here only one coding is undone, and its output is limited.

LARGEST_BODY = 32 * 1024 * 1024
"""Bytes, compressed or not. A page has about 70,000, the list of pairs a million."""

ACCEPT_ENCODING = "gzip, deflate"
"""The `Accept-Encoding` of requests."""

PREFER_STORED_ROWS = "rows=stored"
"""Asks an API server for trades as they are stored: without ids and sides that it would make up for
other programs. The header `Prefer` is a standard one: a server ignores what it does not know."""

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
# "deflate" is zlib's format; some servers send it without zlib's header.
_FORMATS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (_ZLIB, _RAW)}


def decompress(raw: bytes, codings: list[str], status: int) -> bytes:
    """Decompress a body according to its `Content-Encoding`.

    If the HTTP status is not 200, a body that can't be decompressed becomes empty: the status alone
    decides what happens.

    Args:
        raw: the body as it was sent.
        codings: the values of the answer's `Content-Encoding` headers.
        status: the answer's HTTP status.

    Raises:
        Transient: it is compressed more than once or in a way that was not requested, it is
            damaged, or it has more than `LARGEST_BODY` bytes.
    """
    names = (name.strip().lower() for name in ",".join(codings).split(","))
    applied = [name for name in names if name not in ("", "identity")]
    try:
        return _undo_coding(raw, applied) if applied else raw
    except Transient:
        if status != 200:
            return b""
        raise


def _undo_coding(raw: bytes, codings: list[str]) -> bytes:
    formats = _FORMATS.get(codings[0], ())
    if len(codings) > 1 or not formats:
        how = brief(", ".join(codings))
        raise Transient(
            f"the body is compressed as {how!r}; only one of {ACCEPT_ENCODING} can be read"
        )
    failure: zlib.error | None = None
    for window in formats:
        inflater = zlib.decompressobj(window)
        try:
            body = inflater.decompress(raw, LARGEST_BODY + 1)
        except zlib.error as error:
            failure = error
            continue
        if len(body) > LARGEST_BODY:
            raise too_large()
        if not inflater.eof:
            raise Transient("the body is cut short: its compressed data does not end")
        return body
    raise Transient(f"the body can't be decompressed: {failure}") from failure


def too_large() -> Transient:
    """The failure of an answer whose body is larger than `LARGEST_BODY`."""
    return Transient(f"the body has more than {LARGEST_BODY >> 20} MB")
