"""What is waited out, what is stopped at, and what is passed over with a warning."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from harvester.errors import ExchangeRefused
from harvester.kraken.answers import Transient, check_errors, check_status

CAPTURES = Path(__file__).parents[2] / "shared" / "kraken"
URL = "https://api.kraken.com/0/public/Trades"
NOW_S = 1_700_000_000.25


def errors(*entries: str, **rest: Any) -> bytes:
    """An answer with these entries in `error`."""
    return json.dumps({"error": entries, **rest}).encode()


def transient(body: bytes) -> Transient:
    """The fault that an answer is waited out for."""
    with pytest.raises(Transient) as caught:
        check_errors(body, "XBTUSD")
    return caught.value


# HTTP status.


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, *range(520, 528), 530])
def test_status_429_and_5xx_are_transient(status: int) -> None:
    with pytest.raises(Transient) as caught:
        check_status(status, URL, b"<html>")
    assert (caught.value.reason, caught.value.is_refusal) == (f"HTTP {status}", status == 429)


def test_status_403_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(ExchangeRefused) as caught:
        check_status(403, URL, b"<html>")
    assert str(caught.value) == (
        f"{URL} answered HTTP 403: its browser check refused the request; "
        "set [exchange] user_agent to a name of your own"
    )


@pytest.mark.parametrize("status", [204, 301, 400, 401, 404, 405, 418])
def test_any_other_status_is_an_error_with_the_beginning_of_the_body(status: int) -> None:
    with pytest.raises(ExchangeRefused) as caught:
        check_status(status, URL, b"nothing h\xffre" + b"x" * 100)
    assert str(caught.value) == (
        f"{URL} answered HTTP {status}: 'nothing h\ufffdre{'x' * 68}'; is [exchange] url right?"
    )


# The list of errors.


@pytest.mark.parametrize(
    ("entry", "refusal"),
    [
        ("EAPI:Rate limit exceeded", True),
        ("EGeneral:Too many requests", True),
        ("EService:Throttled", True),
        ("EService: Throttled", True),
        ("EService:Unavailable", False),
        ("EService:Busy", False),
        ("EService:Deadline elapsed", False),
        ("EGeneral:Internal error", False),
        ("EGeneral:Internal error[abc]", False),
        ("EGeneral:No data", False),
        ("EDatabase:Internal error", False),
        ("EDatabase: Internal error", False),
        ("EService:Market in cancel_only mode", False),
        ("EService:Market in post_only mode", False),
        ("EService: Anything new", False),
        ("EGeneral:Something new", False),
        ("EQuery:Something new", False),
        ("no error that has a name", False),
        ("", False),
    ],
)
def test_passing_errors_are_transient(entry: str, refusal: bool) -> None:
    fault = transient(errors(entry))
    assert (fault.reason, fault.is_refusal, fault.wait_s) == (entry, refusal, None)
    assert fault.is_throttled == ("Throttled" in entry)


@pytest.mark.parametrize(
    "entry",
    [
        "EQuery:Unknown asset pair",
        "EGeneral:Invalid arguments",
        "EGeneral:Invalid arguments:since",
        "EGeneral:Permission denied",
        "EGeneral:Temporary lockout",
        "EGeneral: Temporary lockout",
        "EGeneral:Unknown method",
    ],
)
def test_lasting_errors_are_raised_and_not_retried(entry: str) -> None:
    with pytest.raises(ExchangeRefused) as caught:
        check_errors(errors(entry), "XBTUSD")
    assert str(caught.value) == f"XBTUSD: the exchange refused: {entry}"


def test_several_errors_are_all_in_the_message() -> None:
    with pytest.raises(ExchangeRefused) as caught:
        check_errors(errors("EGeneral:Permission denied", "EQuery:Unknown asset pair"), "XBTUSD")
    assert str(caught.value) == (
        "XBTUSD: the exchange refused: EGeneral:Permission denied; EQuery:Unknown asset pair"
    )


def test_a_lasting_error_decides_over_an_unknown_error() -> None:
    with pytest.raises(ExchangeRefused) as caught:
        check_errors(errors("EGeneral:Something new", "EGeneral:Permission denied"), "XBTUSD")
    assert str(caught.value) == (
        "XBTUSD: the exchange refused: EGeneral:Something new; EGeneral:Permission denied"
    )


@pytest.mark.parametrize("entry", ["EGeneral:Something new", "EService:Busy"])
def test_thirty_equal_errors_are_shown_once(entry: str) -> None:
    assert transient(errors(*[entry] * 30)).reason == entry


def test_thirty_equal_lasting_errors_are_shown_once() -> None:
    with pytest.raises(ExchangeRefused) as caught:
        check_errors(errors(*["EGeneral:Permission denied"] * 30), "XBTUSD")
    assert str(caught.value) == "XBTUSD: the exchange refused: EGeneral:Permission denied"


def test_of_many_errors_the_first_are_shown() -> None:
    assert transient(errors(*[f"E{number}" for number in range(300_000)])).reason == (
        "E0; E1; E2; E3; E4; and 299,995 more"
    )


def test_an_error_of_five_megabytes_is_shown_short() -> None:
    assert transient(errors("E" * 5_000_000)).reason == "E" * 200 + "... (5,000,000 characters)"


def test_an_error_is_shown_without_control_characters() -> None:
    assert transient(errors("EOdd:\x1b[2J\x9b1m\n\u202eXBTUSD: complete")).reason == (
        r"EOdd:\x1b[2J\x9b1m\n\u202eXBTUSD: complete"
    )


def test_the_errors_that_were_captured_are_known() -> None:
    path = CAPTURES / "json_errors.jsonl"
    if not path.is_file():
        pytest.skip(f"no captured bodies at {CAPTURES}")
    stops = {"EQuery:Unknown asset pair", "EGeneral:Invalid arguments"}
    for line in path.read_text().splitlines():
        body = json.loads(line)["body"]
        expected = ExchangeRefused if set(body["error"]) & stops else Transient
        with pytest.raises(expected):
            check_errors(json.dumps(body).encode(), "XBTUSD")


# The exchange's own word for how long to wait.


@pytest.fixture
def _stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harvester.kraken.answers.time.time", lambda: NOW_S)


@pytest.mark.usefixtures("_stopped_clock")
@pytest.mark.parametrize(
    ("entry", "wait_s"),
    [
        ("EService: Throttled: 1700000030", 29.75),
        ("EService:Throttled: 1700000030", 29.75),
        ("EService: Throttled: 1700000001", 0.75),
        ("EService: Throttled: 1800000000", 3600.0),
        # A stamp that has passed (by a wrong clock) is ignored: wait as without a time.
        ("EService: Throttled: 1700000000", None),
        ("EService: Throttled: 1600000000", None),
    ],
)
def test_a_throttling_error_waits_until_the_time_in_it(entry: str, wait_s: float | None) -> None:
    fault = transient(errors(entry))
    assert (fault.reason, fault.is_refusal, fault.wait_s) == (entry, True, wait_s)


# Warnings.


def test_a_warning_is_logged_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="harvester.kraken"):
        check_errors(errors("WGeneral:Danger", result={"XXBTZUSD": []}), "XBTUSD")
    assert caplog.messages == ["XBTUSD: the exchange warns: WGeneral:Danger"]


def test_equal_warnings_of_one_answer_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    check_errors(errors(*["WGeneral:Danger"] * 300_000, result={"XXBTZUSD": []}), "XBTUSD")
    assert caplog.messages == ["XBTUSD: the exchange warns: WGeneral:Danger"]


def test_of_many_warnings_of_one_answer_the_first_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warnings = [f"W{number}\n" for number in range(300_000)]
    check_errors(errors(*warnings, result={"XXBTZUSD": []}), "XBTUSD")
    assert caplog.messages == [
        *(rf"XBTUSD: the exchange warns: W{number}\n" for number in range(5)),
        "XBTUSD: the exchange warns: and 299,995 more",
    ]


def test_a_warning_does_not_hide_an_error(caplog: pytest.LogCaptureFixture) -> None:
    body = errors("WGeneral:Danger", "EGeneral:Permission denied")
    with pytest.raises(ExchangeRefused) as caught:
        check_errors(body, "XBTUSD")
    assert str(caught.value) == "XBTUSD: the exchange refused: EGeneral:Permission denied"
    assert caplog.messages == ["XBTUSD: the exchange warns: WGeneral:Danger"]


# Bodies.


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":[],"result":{"XXBTZUSD":[]}}',
        b'{ "error": [], "result": { "XXBTZUSD": [] } }',
        b'{"result":{"XXBTZUSD":[]},"error":[]}',
    ],
)
def test_a_good_answer_passes(body: bytes) -> None:
    check_errors(body, "XBTUSD")


@pytest.mark.parametrize(
    "body", [b'{"error":[]}', b'{"error":[],"result":null}', b'{"error":["WOdd"]}']
)
def test_an_answer_without_result_and_error_is_transient(body: bytes) -> None:
    assert transient(body).reason == "the answer has neither a result nor an error"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Input data was truncated"),
        (b'{"error":[', "Input data was truncated"),
        (b"<html>", "JSON is malformed: invalid character (byte 0)"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "Object missing required field `error`"),
        (b'{"error":"EGeneral"}', "Expected `array`, got `str` - at `$.error`"),
        (
            b'{"error":["\xff"]}',
            "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        ),
    ],
)
def test_a_body_that_is_no_answer_is_transient(body: bytes, reason: str) -> None:
    assert transient(body).reason == f"the body is not an answer of the API ({reason})"
