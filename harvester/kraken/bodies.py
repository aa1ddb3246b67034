"""Bodies of answers: read and decompressed without ever taking more than `LARGEST_BODY` bytes.

httpx's decompression has no limit: it follows any number of codings, and four kilobytes that were
compressed twice become gigabytes. Here one coding is followed, and its output is counted.
"""

from __future__ import annotations

import zlib

import httpx

from harvester.escaping import printable, shortened
from harvester.kraken.answers import Transient

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
