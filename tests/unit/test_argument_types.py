"""Arguments of the wrong type: every public method takes any value, or refuses it as its own error.

The methods and their parameters are read from the signatures, so that a new one is tried as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import duckdb
import numpy as np
import pytest

import harvester
from harvester.config import KEYS
from harvester.errors import BadSetting, HarvesterError, UsageError


class LikeAPath:
    """A path that is none: its text is bytes."""

    def __fspath__(self) -> bytes:
        return b"data"


VALUES: dict[str, Any] = {
    "none": None,
    "whole": 5,
    "negative": -1,
    "huge": 10**5000,
    "float": 1.5,
    "nan": float("nan"),
    "infinite": float("inf"),
    "true": True,
    "decimal": Decimal("1.5"),
    "decimal_nan": Decimal("sNaN"),
    "fraction": Fraction(1, 3),
    "complex": 1j,
    "empty_text": "",
    "text": "x",
    "null_text": "a\0b",
    "surrogate": "\ud800",
    "digits": "9" * 5000,
    "bytes": b"x",
    "list": [],
    "list_of_text": ["XBT/USD"],
    "tuple": (1, 2),
    "dict": {},
    "dict_of_numbers": {1: 2},
    "dict_of_objects": {"x": object()},
    "set": {1},
    "object": object(),
    "type": int,
    "function": lambda *_: None,
    "datetime": datetime(2026, 1, 30, tzinfo=UTC),
    "date": date(2026, 1, 30),
    "far_date": date(9999, 12, 31),
    "timedelta": timedelta(hours=1),
    "path": Path("x"),
    "like_a_path": LikeAPath(),
    "array": np.array([1, 2]),
    "one_number": np.array([1]),
    "numpy_whole": np.int64(5),
    "numpy_float": np.float32(1.5),
    "numpy_time": np.datetime64("2026-01-30"),
    "numpy_far_time": np.datetime64(2**62, "D"),
    "numpy_wait": np.timedelta64(5, "s"),
}

VALID: dict[str, dict[str, Any]] = {
    "open": {"path": "data"},
    "sample_exchange": {"trades": 5, "seed": 1},
    "trades": {"pair": "XBT/USD"},
    "ohlc": {"pair": "XBT/USD", "interval": "1d"},
    "chart": {"pair": "XBT/USD", "interval": "1d"},
    "explain": {"pair": "XBT/USD", "interval": "1d"},
    "export": {"pairs": ("XBT/USD",), "folder": "candles", "intervals": ["1d"]},
    "write_database": {"file": "views.duckdb"},
    "bars": {"pair": "XBT/USD", "trades": 100},
    "sql": {"query": "SELECT 1"},
    "sync": {"url": "no-url"},
    "coverage": {"pair": "XBT/USD"},
    "gaps": {"pair": "XBT/USD"},
    "backfill": {"pairs": ("XBT/USD",)},
    "abackfill": {"pairs": ("XBT/USD",)},
    "import_csv": {"files": ("XBTUSD.csv",)},
    "plan_import": {"files": ("XBTUSD.csv",)},
    "filter": {"condition": "true"},
    "select": {"columns": "time"},
    "limit": {"rows": 1},
    "pivot": {"values": "close"},
}
"""What a method needs beside the argument that is tried; nothing where it is not named."""


class Slot(NamedTuple):
    """A parameter of a public function, and what it belongs to."""

    owner: str
    function: str
    parameter: str

    def __str__(self) -> str:
        return f"{self.owner}.{self.function}-{self.parameter}"


def public(kind: type) -> Iterator[str]:
    for name, _ in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_"):
            yield name


def slots() -> list[Slot]:
    owners: dict[str, Any] = {
        "Archive": harvester.Archive,
        "Result": harvester.Result,
        "Chart": harvester.Chart,
    }
    found = [
        Slot(owner, name, parameter)
        for owner, kind in owners.items()
        for name in public(kind)
        for parameter in inspect.signature(getattr(kind, name)).parameters
        if parameter != "self"
    ]
    for function in ("open", "sample_exchange"):
        parameters = inspect.signature(getattr(harvester, function)).parameters
        found += [Slot("harvester", function, parameter) for parameter in parameters]
    return found


SLOTS = slots()


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with harvester.sample_exchange(1_000) as exchange:
        settings = exchange.settings | {"exchange.give_up_s": 1}
        archive = harvester.open(tmp_path_factory.mktemp("sample") / "data", settings=settings)
        archive.backfill("XBT/USD")
        yield {
            "harvester": harvester,
            "Archive": archive,
            "Result": archive.ohlc("XBT/USD", "1d"),
            "Chart": archive.chart("XBT/USD", "1d"),
        }


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a CSV file; an import of it fails, because the archive has no such trade."""
    (tmp_path / "XBTUSD.csv").write_text("1769600000,1,1\n")
    monkeypatch.chdir(tmp_path)


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> object:
    """Call with arguments by name, and read what comes of it to its end."""
    signature = inspect.signature(function)
    positional: list[Any] = []
    named = dict(arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += named.pop(name, ())
    found = function(*positional, **named)
    if inspect.iscoroutine(found):
        found = asyncio.run(found)
    if isinstance(found, harvester.ExplorerServer):
        found.close()
    if isinstance(found, harvester.Result):
        found = found.fetchall()
    if isinstance(found, harvester.SampleExchange):
        found.close()
    return found


def arguments_of(slot: Slot, value: object) -> dict[str, Any]:
    is_many = slot.parameter == "files" or (
        slot.parameter == "pairs" and slot.function not in ("import_csv", "plan_import", "runs")
    )
    valid = dict(VALID.get(slot.function, {}))
    if slot.function == "bars" and slot.parameter in ("volume", "value"):
        del valid["trades"]
    return valid | {slot.parameter: (value,) if is_many else value}


def test_the_signatures_are_seen() -> None:
    assert Slot("Archive", "ohlc", "since") in SLOTS
    assert Slot("Archive", "abackfill", "pairs") in SLOTS
    assert Slot("Result", "to_arrow_reader", "batch_rows") in SLOTS
    assert Slot("harvester", "open", "settings") in SLOTS
    assert len(SLOTS) > 50


NEVER = ("object", "bytes", "set", "type", "complex", "timedelta", "like_a_path")
LENGTHS = (("timedelta", "interval"), ("timedelta", "every"))
"""What no parameter takes, but for lengths of time."""

LEFT_OUT = (
    # It is called, and its own errors reach the caller.
    ("progress", "type"),
    # They are right, and take seconds.
    ("against_exchange", "true"),
    ("exchange", "true"),
)


@pytest.mark.parametrize("slot", SLOTS, ids=str)
def test_any_value_is_taken_or_refused_as_an_error_of_harvester(
    slot: Slot, owners: dict[str, Any]
) -> None:
    function = getattr(owners[slot.owner], slot.function)
    raw = {}
    for name, value in VALUES.items():
        if (slot.parameter, name) in LEFT_OUT:
            continue
        refused = None
        try:
            call(function, arguments_of(slot, value))
        except HarvesterError as error:
            refused = error
        except Exception as error:  # noqa: BLE001 - what is not harvester's own is the fault
            raw[name] = f"{type(error).__name__}: {error}"[:100]
        if name in NEVER and (name, slot.parameter) not in LENGTHS:
            assert isinstance(refused, UsageError), name
            assert slot.parameter in str(refused)
            assert str(refused).endswith(f"not {type(value).__name__}")
    assert raw == {}


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda archive: archive.trades("XBT/USD", since=[]),
            "since must be a time (text such as '2024-01-31' or '7d', a datetime, a date, or a "
            "UNIX time of 10, 13 or 19 digits), not list",
        ),
        (
            lambda archive: archive.backfill(["XBT/USD"]),
            "each of pairs must be text, not list",
        ),
        (
            lambda archive: archive.ohlc(None, "1d"),
            "pair must be text, or a list of texts, not NoneType",
        ),
        (
            lambda archive: archive.ohlc("XBT/USD", 1.5),
            "interval must be text such as '4h', a whole number of minutes, or a timedelta, "
            "not float",
        ),
        (
            lambda archive: archive.ohlc("XBT/USD", "1d", strict="no"),
            "strict must be True or False, not str",
        ),
        (
            lambda archive: archive.ohlc("XBT/USD", "1d").limit(10**30),
            "rows must be a whole number, not int of more than 64 bits",
        ),
        (
            lambda archive: archive.import_csv("XBTUSD.csv", pairs=[1]),
            "pairs must be text, or a list of texts, not list",
        ),
        (
            lambda archive: archive.coverage("\ud800"),
            "pair must be text, not str with a lone surrogate",
        ),
        (
            lambda archive: archive.ohlc("XBT/USD", "1d").to_arrow_reader(0),
            "batch_rows is 0: give 1 or more",
        ),
        (
            lambda archive: archive.refresh(max_minutes=float("nan")),
            "max_minutes is nan: give a number above 0",
        ),
        (lambda _: harvester.sample_exchange(-1), "trades is -1: give 0 or more"),
        (
            lambda _: harvester.open(Path("a\0b")),
            "path must be a path (text without NUL characters, or a pathlib.Path), not PosixPath",
        ),
    ],
)
def test_the_message_names_the_parameter_and_what_it_takes(
    ask: Callable[[harvester.Archive], object], message: str, owners: dict[str, Any]
) -> None:
    with pytest.raises(UsageError) as caught:
        ask(owners["Archive"])
    assert str(caught.value) == message


@pytest.mark.parametrize("key", [key.name for key in KEYS])
def test_a_setting_of_any_type_is_taken_or_refused(key: str) -> None:
    for value in VALUES.values():
        with contextlib.suppress(HarvesterError):
            harvester.open(settings={key: value})


def test_a_name_of_a_setting_of_any_type_is_refused() -> None:
    for name in (5, None, b"archive.path", 10**5000, ("archive", "path")):
        with pytest.raises(BadSetting):
            harvester.open(settings=cast("dict[str, Any]", {name: 1}))


@pytest.mark.parametrize(
    "name",
    [
        *("none", "huge", "nan", "decimal_nan", "fraction", "null_text", "surrogate", "digits"),
        *("bytes", "tuple", "dict_of_objects", "object", "far_date", "timedelta", "array"),
        *("numpy_whole", "numpy_far_time"),
    ],
)
def test_a_parameter_of_sql_is_taken_or_refused(name: str, owners: dict[str, Any]) -> None:
    archive: harvester.Archive = owners["Archive"]
    with contextlib.suppress(HarvesterError):
        archive.sql("SELECT ?", [VALUES[name]]).fetchall()


RELATION = ("aggregate", "order", "sort", "union", "join", "query", "distinct", "sum", "set_alias")


@pytest.mark.parametrize("method", RELATION)
def test_a_method_of_duckdb_takes_or_refuses_any_value(method: str, owners: dict[str, Any]) -> None:
    for value in VALUES.values():
        with contextlib.suppress(HarvesterError):
            getattr(owners["Result"], method)(value)


def test_an_expression_of_duckdb_is_as_good_as_sql_text(owners: dict[str, Any]) -> None:
    count = duckdb.ColumnExpression("count")
    nothing = count < duckdb.ConstantExpression(0)
    assert owners["Result"].filter(nothing).select(count).fetchall() == []


def test_an_unknown_name_or_a_missing_argument_is_pythons_own_error(
    owners: dict[str, Any],
) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sinc'"):
        owners["Archive"].trades("XBT/USD", sinc="7d")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'pair'"):
        owners["Archive"].trades()


def test_numbers_and_flags_of_numpy_are_as_good_as_pythons(owners: dict[str, Any]) -> None:
    archive: harvester.Archive = owners["Archive"]
    candles = archive.ohlc("XBT/USD", cast("int", np.int64(60)), strict=cast("bool", np.True_))
    assert candles.fetchall() == archive.ohlc("XBT/USD", "1h").fetchall()
    bars = archive.bars("XBT/USD", trades=cast("int", np.int32(100)))
    assert len(bars) == 10


def test_the_async_method_is_a_coroutine_function_as_before() -> None:
    assert inspect.iscoroutinefunction(harvester.Archive.abackfill)


def test_a_download_that_begins_in_the_future_is_refused(tmp_path: Path) -> None:
    archive = harvester.open(tmp_path)
    for call in (archive.backfill, archive.estimate_backfill):
        with pytest.raises(UsageError, match=r"^since 2200-01-01 is in the future"):
            call("XBT/USD", since="2200-01-01")
