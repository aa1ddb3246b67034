"""Addresses with passwords, odd proxies, pipes and devices: one clear line, and nothing leaks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import sample_trades
from backfills import serve
from cli_output import run
from kraken_faults import Faults
from kraken_server import Exchange

import harvester
from harvester import config
from harvester.errors import BadSetting

NOBODY = "http://127.0.0.1:9"
SECRETS = ("m3", "s3cret")


def with_password(url: str) -> str:
    return url.replace("://", f"://{SECRETS[0]}:{SECRETS[1]}@")


def leaked(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize(
    "arguments",
    [
        ("config",),
        ("config", "--json"),
        ("backfill", "XBTUSD"),
        ("backfill", "XBTUSD", "--json", "--log-json"),
        ("backfill", "XBTUSD", "--dry-run"),
        ("refresh", "XBTUSD", "--json"),
        ("pairs", "--update"),
        ("schedule", "cron"),
        ("-h",),
    ],
)
@pytest.mark.parametrize("address", [NOBODY, "ftp://127.0.0.1:9", "http://127.0.0.1:0"])
def test_a_password_in_the_address_is_never_shown_or_recorded(
    tmp_path: Path, arguments: tuple[str, ...], address: str
) -> None:
    done = run(with_password(address), tmp_path, *arguments)
    assert leaked(done.stdout + done.stderr) == []
    records = "".join(path.read_text() for path in tmp_path.rglob("runs.jsonl"))
    assert leaked(records) == []


REFUSED = [
    "http://m3:s3cret#@127.0.0.1:9",
    "http://m3:s3cret/1@127.0.0.1:9",
    "http://m3:12/s3cret@127.0.0.1:9",
    "http://m3:/s3cret?@127.0.0.1:9",
    "http://m3:s3cret x@127.0.0.1:9",
    "http://m3:@s3cret@127.0.0.1:x",
    "ftp://m3:s3cret@127.0.0.1:9",
    "m3:s3cret@127.0.0.1:9",
    "http:m3:s3cret@127.0.0.1:9",
]
"""Addresses that can't be used, most of them because of the password in them."""


@pytest.mark.parametrize("address", REFUSED)
def test_a_password_in_an_address_that_is_refused_is_not_shown(
    tmp_path: Path, address: str
) -> None:
    with pytest.raises(BadSetting, match=r"127\.0\.0\.1:") as caught:
        config.load({"exchange.url": address}, environment={})
    assert leaked(str(caught.value)) == []
    with pytest.raises(BadSetting, match=r"127\.0\.0\.1:") as caught:
        harvester.open(tmp_path, settings={"exchange.url": address})
    assert leaked(str(caught.value)) == []


def test_a_command_shows_no_password_of_an_address_that_is_refused(tmp_path: Path) -> None:
    done = run(REFUSED[0], tmp_path, "backfill", "XBTUSD", "-vv")
    assert (done.returncode, leaked(done.stdout + done.stderr)) == (2, [])


@pytest.mark.parametrize("address", REFUSED[:2])
def test_a_password_in_a_proxy_that_is_refused_is_not_shown(tmp_path: Path, address: str) -> None:
    proxies = {"HTTP_PROXY": address, "http_proxy": address, "NO_PROXY": "", "no_proxy": ""}
    done = run(NOBODY, tmp_path, "backfill", "XBTUSD", **proxies)
    assert (done.returncode, leaked(done.stderr)) == (2, [])


def test_an_address_with_a_password_works(tmp_path: Path) -> None:
    with serve(sample_trades.market(sample_trades.xbtusd_like(50, 4))) as exchange:
        done = run(with_password(exchange.url), tmp_path, "backfill", "XBTUSD", "-vv")
    assert (done.returncode, leaked(done.stdout + done.stderr)) == (0, [])
    for line in (tmp_path / "data" / "runs.jsonl").read_text().splitlines():
        assert json.loads(line)["settings"]["exchange.url"] == exchange.url


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "ftp", "file", "x\x1b"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_a_proxy_of_an_unknown_kind_is_one_clear_line(
    tmp_path: Path, scheme: str, variable: str
) -> None:
    proxy = {variable: with_password(f"{scheme}://127.0.0.1:9"), "NO_PROXY": ""}
    lower = {name.lower(): value for name, value in proxy.items()}
    done = run(NOBODY, tmp_path, "backfill", "XBTUSD", **proxy, **lower)
    assert (done.returncode, leaked(done.stderr)) == (2, [])
    [line] = done.stderr.splitlines()
    assert line.startswith(f"harvester: the proxy that {variable} names, ")
    assert line.isprintable()


@pytest.fixture(params=["fifo", "zero"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A pipe that nobody writes to, and a device that never ends."""
    path = tmp_path / "x.csv"
    os.mkfifo(path) if request.param == "fifo" else path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("import", "{}", "--pair", "XBTUSD"),
        ("import", "{}", "--dry-run"),
        ("verify", "--against-csv", "{}"),
        ("backfill", "--pairs-file", "{}"),
        ("config", "--config", "{}"),
    ],
)
def test_a_pipe_or_a_device_as_a_file_is_one_clear_line(
    tmp_path: Path, endless: Path, arguments: tuple[str, ...]
) -> None:
    given = [text.format(endless) for text in arguments]
    (tmp_path / "data").mkdir(exist_ok=True)
    done = run(NOBODY, tmp_path, *given)
    [line] = done.stderr.splitlines()
    assert (done.returncode, "regular file" in line) == (2, True)


@pytest.mark.parametrize(
    "text",
    [
        "[exchange]\njobs = " + "1" * 5_000_000,
        "[exchange]\nrate = " + "1" * 5_000_000,
        "[exchange]\nuser_agent = '" + "\u00e9" * 5_000_000 + "'",
        "[exchange]\njobs = " + "[" * 100_000,
        "#" * 9_000_000,
    ],
)
def test_a_configuration_of_megabytes_is_one_short_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    done = run(NOBODY, tmp_path, "config")
    [line] = done.stderr.splitlines()
    assert (done.returncode, len(line) < 1000) == (2, True)


@pytest.mark.parametrize("more", [(), ("--json",), ("--dry-run",)])
def test_all_of_an_exchange_that_lists_nothing_is_no_success(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    with Exchange([]) as exchange:
        done = run(exchange.url, tmp_path, "backfill", "--all", *more)
    assert done.returncode == 3
    assert "the exchange lists no market at all" in done.stderr


def test_a_trade_of_the_far_future_is_named_by_the_command_itself(tmp_path: Path) -> None:
    """In a process without pandas, which makes no objects of nanoseconds."""
    market = sample_trades.market(sample_trades.xbtusd_like(50, 4))
    with serve(market, faults=Faults(script=["late_row:99999999"] * 9)) as exchange:
        done = run(exchange.url, tmp_path, "backfill", "XBTUSD", "-q")
    assert done.returncode == 3
    assert "the exchange sent a trade of 20" in done.stderr
    assert "price 4" in done.stderr
