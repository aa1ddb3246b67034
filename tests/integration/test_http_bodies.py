"""Bodies of answers: one coding, decompressed within a limit, over real sockets."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache

import pytest
from client_runs import GOOD, ClientLog, Odd, newest, run
from kraken_socket import Reply

from harvester.kraken import answers
from harvester.kraken.answers import Transient, decompress

BOMB_BYTES = 256 << 20


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@cache
def bomb(window: int) -> bytes:
    """Many zeros, compressed; `window` as zlib has it."""
    packer = zlib.compressobj(9, wbits=window)
    zeros = bytes(1 << 20)
    return b"".join(packer.compress(zeros) for _ in range(BOMB_BYTES >> 20)) + packer.flush()


def fault(coding: str, body: bytes) -> str:
    with pytest.raises(Transient) as caught:
        decompress(body, [coding], 200)
    return caught.value.reason


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("identity, gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
        ("", bytes),
    ],
)
def test_one_coding_is_read(coding: str, pack: Callable[[bytes], bytes]) -> None:
    body = pack(GOOD)
    assert decompress(body, [coding], 200) == GOOD


@pytest.mark.parametrize(
    "coding", ["gzip, gzip", "gzip,deflate", "br", "zstd", "compress", "gzip, identity, gzip"]
)
def test_any_other_coding_is_no_good_answer(coding: str) -> None:
    assert fault(coding, GOOD).endswith("only one of gzip, deflate can be read")


def test_a_coding_is_named_short_and_without_control_characters() -> None:
    reason = fault("x\x1b" * 500, GOOD)
    assert reason.isprintable()
    assert "(1,000 characters)" in reason
    assert len(reason) < 1000


@pytest.mark.parametrize(("coding", "window"), [("gzip", 31), ("deflate", -15)])
def test_a_bomb_takes_no_more_than_the_limit(coding: str, window: int) -> None:
    body = bomb(window)
    tracemalloc.start()
    try:
        assert fault(coding, body) == "the body has more than 32 MB"
        assert tracemalloc.get_traced_memory()[1] < 3 * answers.LARGEST_BODY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_data_that_is_cut_short_is_no_good_answer(
    coding: str, pack: Callable[[bytes], bytes]
) -> None:
    assert fault(coding, pack(GOOD)[:-1]) == (
        "the body is cut short: its compressed data does not end"
    )


def test_a_body_with_a_wrong_coding_is_no_good_answer() -> None:
    for coding in ("gzip", "deflate"):
        assert fault(coding, GOOD).startswith("the body can't be decompressed: Error -3 ")


def test_an_error_page_that_can_not_be_decompressed_is_an_empty_body() -> None:
    assert decompress(b"\x8b\x01", ["br"], 403) == b""


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Encoding: gzip, gzip\r\n",
        "Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n",
        "Content-Encoding: gzip\r\n",
    ],
)
def test_a_bomb_from_the_exchange_is_waited_out_in_bounded_memory(headers: str) -> None:
    once = bomb(31)
    body = gzip.compress(once) if headers.count("gzip") > 1 else once
    log = ClientLog()
    tracemalloc.start()
    try:
        with Odd(Reply(body, headers=headers)) as exchange:
            assert run(exchange.url, newest, log) == 60
        assert tracemalloc.get_traced_memory()[1] < 4 * answers.LARGEST_BODY
    finally:
        tracemalloc.stop()
    assert len(log.waits) == 1
