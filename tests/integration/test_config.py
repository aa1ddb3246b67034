"""Option over environment over file over default, and a wrong key or value names itself."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pytest

from harvester.config import KEYS, Settings, default_file_text, load
from harvester.errors import BadSetting

REPOSITORY = Path(__file__).parents[2]

DEFAULTS = {
    "archive.path": "data",
    "archive.flush_s": 30.0,
    "archive.flush_rows": 250_000,
    "exchange.url": "https://api.kraken.com",
    "exchange.user_agent": "kraken-harvester",
    "exchange.rate": 1.0,
    "exchange.jobs": 8,
    "exchange.timeout_s": 30.0,
    "exchange.retry_wait_s": 5.0,
    "exchange.give_up_s": 600.0,
    "exchange.ca_file": "",
    "refresh.pairs": (),
    "refresh.settle_s": 60.0,
    "refresh.notify_command": (),
    "candles.rollups": ("1m", "1h"),
    "candles.memory_limit": "2GB",
}

# What a person writes into a variable, and what it means.
SPOKEN = {
    "archive.path": ("elsewhere", "elsewhere"),
    "archive.flush_s": ("0.5", 0.5),
    "archive.flush_rows": ("1000", 1000),
    "exchange.url": ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
    "exchange.user_agent": (" mine/1.0 ", "mine/1.0"),
    "exchange.rate": ("0", 0.0),
    "exchange.jobs": ("2", 2),
    "exchange.timeout_s": ("1e1", 10.0),
    "exchange.retry_wait_s": ("0.05", 0.05),
    "exchange.give_up_s": ("1", 1.0),
    "exchange.ca_file": ("ca.pem", "ca.pem"),
    "refresh.pairs": ("XBT/USD, ETH/USD,", ("XBT/USD", "ETH/USD")),
    "refresh.settle_s": ("0", 0.0),
    "refresh.notify_command": ("notify 'the ops' x", ("notify", "the ops", "x")),
    "candles.rollups": ("", ()),
    "candles.memory_limit": ("512MB", "512MB"),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No config.toml lies here unless a test writes one."""
    monkeypatch.chdir(tmp_path)


def flat(settings: Settings) -> dict[str, Any]:
    """All values, by the names of their keys."""
    sections = {name: part for name, part in asdict(settings).items() if name != "origins"}
    return {
        f"{name}.{key}": value for name, part in sections.items() for key, value in part.items()
    }


def variable(name: str) -> str:
    """The variable of a key, as the documentation spells it."""
    section, key = name.split(".")
    return f"HARVESTER_{section.upper()}_{key.upper()}"


def refusal(**given: Any) -> str:
    """What a load that must fail says."""
    with pytest.raises(BadSetting) as caught:
        load(**{"environment": {}, **given})
    return str(caught.value)


def written(text: str) -> str:
    """Write a configuration file; gives its name."""
    Path("mine.toml").write_text(text)
    return "mine.toml"


# Where values come from.


def test_without_anything_all_is_default() -> None:
    settings = load(environment={})
    assert flat(settings) == DEFAULTS
    assert set(settings.origins.items()) == {(name, "default") for name in DEFAULTS}


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_key_can_be_set_by_the_environment(name: str) -> None:
    text, value = SPOKEN[name]
    settings = load(environment={variable(name): text})
    assert flat(settings) == {**DEFAULTS, name: value}
    assert settings.origins[name] == variable(name)


def test_option_wins_over_environment_over_file_over_default() -> None:
    file = written("[exchange]\nrate = 2\njobs = 2\ntimeout_s = 2\n")
    environment = {"HARVESTER_EXCHANGE_RATE": "3", "HARVESTER_EXCHANGE_JOBS": "3"}
    settings = load({"exchange.rate": 4.0}, file=file, environment=environment)
    exchange = settings.exchange
    assert (exchange.rate, exchange.jobs, exchange.timeout_s, exchange.give_up_s) == (4, 3, 2, 600)
    assert [settings.origins[f"exchange.{key}"] for key in ("rate", "jobs", "timeout_s")] == [
        "option",
        "HARVESTER_EXCHANGE_JOBS",
        "mine.toml",
    ]


def test_an_option_of_none_was_not_given() -> None:
    assert load({"exchange.rate": None}, environment={}).exchange.rate == 1


def test_an_option_of_zero_was_given() -> None:
    assert load({"exchange.rate": 0}, environment={}).exchange.rate == 0


def test_config_toml_here_is_read_unasked() -> None:
    Path("config.toml").write_text("[exchange]\njobs = 3\n")
    settings = load(environment={})
    assert (settings.exchange.jobs, settings.origins["exchange.jobs"]) == (3, "config.toml")


def test_the_process_environment_is_used_unless_another_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HARVESTER_EXCHANGE_JOBS", "7")
    assert (load().exchange.jobs, load(environment={}).exchange.jobs) == (7, 8)


def test_lists_in_the_file_are_lists() -> None:
    file = written('[refresh]\npairs = ["XBT/USD", " ETH/USD "]\n')
    assert load(file=file, environment={}).refresh.pairs == ("XBT/USD", "ETH/USD")


@pytest.mark.parametrize("text", ["2GB", "1MB", "1.5 GiB", "512m", "1000KB"])
def test_sizes_are_taken_as_duckdb_reads_them(text: str) -> None:
    duckdb.connect(config={"memory_limit": text}).close()
    settings = load(environment={"HARVESTER_CANDLES_MEMORY_LIMIT": text})
    assert settings.candles.memory_limit == text


# Wrong values.

RANGE_0 = "a number, 0 or more"
ABOVE_0 = "a number above 0"
WHOLE_1 = "a whole number, 1 or more"
ADDRESS = (
    "an http:// or https:// address: optional user and password, a host, optional port (1 to "
    "65535) and path; no ? or #"
)
FILLED = "a text that is not empty and has no NUL character"
SIZE = "a size of 1MB or more in KB, MB, GB or TB, such as 2GB or 512MB"
LENGTHS = 'a list of lengths in ms, s, m, h, d or w, such as ["1m", "1h"], or an empty one'
COMMAND = 'a program and its arguments, such as ["/home/me/notify", "ops"], or an empty list'
AGENT = "a text of printable ASCII that is not empty"

WRONG = [
    ("exchange.rate", "fast", RANGE_0),
    ("exchange.rate", "-0.1", RANGE_0),
    ("exchange.rate", "inf", RANGE_0),
    ("exchange.rate", "nan", RANGE_0),
    ("exchange.rate", "", RANGE_0),
    ("exchange.rate", "1e400", RANGE_0),
    ("refresh.settle_s", "-1", RANGE_0),
    ("exchange.timeout_s", "0", ABOVE_0),
    ("exchange.retry_wait_s", "0", ABOVE_0),
    ("exchange.give_up_s", "-1", ABOVE_0),
    ("archive.flush_s", "0", ABOVE_0),
    ("archive.flush_rows", "0", WHOLE_1),
    ("archive.flush_rows", "1.5", WHOLE_1),
    ("exchange.jobs", "0", WHOLE_1),
    ("exchange.jobs", "many", WHOLE_1),
    ("exchange.url", "api.kraken.com", ADDRESS),
    ("exchange.url", "ftp://api.kraken.com", ADDRESS),
    ("exchange.url", "", ADDRESS),
    ("exchange.url", "http://", ADDRESS),
    ("exchange.url", "http://:80", ADDRESS),
    ("exchange.url", "http://127.0.0.1:99999", ADDRESS),
    ("exchange.url", "http://127.0.0.1:port", ADDRESS),
    ("exchange.url", "http://[::1", ADDRESS),
    ("exchange.url", "https://api kraken.com", ADDRESS),
    ("exchange.user_agent", " ", AGENT),
    ("exchange.user_agent", "m\u00fcller/1", AGENT),
    ("exchange.user_agent", "two\nlines", AGENT),
    ("archive.path", " ", FILLED),
    ("candles.memory_limit", "", SIZE),
    ("candles.memory_limit", "2", SIZE),
    ("candles.memory_limit", "much", SIZE),
    ("candles.memory_limit", "-1", SIZE),
    ("candles.memory_limit", "999KB", SIZE),
    ("candles.memory_limit", "80%", SIZE),
    ("candles.rollups", "1mo", LENGTHS),
    ("candles.rollups", "1m,1M", LENGTHS),
    ("candles.rollups", "0m", LENGTHS),
    ("candles.rollups", "1 minute", LENGTHS),
]


@pytest.mark.parametrize(("name", "text", "allowed"), WRONG)
def test_a_wrong_value_in_the_environment_names_its_variable(
    name: str, text: str, allowed: str
) -> None:
    assert refusal(environment={variable(name): text}) == (
        f"{variable(name)} is {text!r}: it must be {allowed}"
    )


@pytest.mark.parametrize(
    ("line", "shown", "allowed"),
    [
        ("[exchange]\nrate = true", "[exchange] rate is True", RANGE_0),
        ("[exchange]\nrate = [1]", "[exchange] rate is [1]", RANGE_0),
        ("[exchange]\njobs = 1.5", "[exchange] jobs is 1.5", WHOLE_1),
        ("[exchange]\njobs = true", "[exchange] jobs is True", WHOLE_1),
        ("[exchange]\njobs = {}", "[exchange] jobs is {}", WHOLE_1),
        ("[exchange]\nurl = 5", "[exchange] url is 5", ADDRESS),
        ("[exchange]\nca_file = 5", "[exchange] ca_file is 5", "a text"),
        ("[archive]\npath = []", "[archive] path is []", FILLED),
        ('[candles]\nrollups = ["1y"]', "[candles] rollups is ['1y']", LENGTHS),
        ("[candles]\nmemory_limit = 2", "[candles] memory_limit is 2", SIZE),
        (
            "[refresh]\npairs = 5",
            "[refresh] pairs is 5",
            'a list of names, such as ["XBT/USD"]',
        ),
        (
            '[refresh]\npairs = ["XBT/USD", 5]',
            "[refresh] pairs is ['XBT/USD', 5]",
            'a list of names, such as ["XBT/USD"]',
        ),
        ("[refresh]\nnotify_command = 5", "[refresh] notify_command is no command", COMMAND),
        ('[refresh]\nnotify_command = [""]', "[refresh] notify_command is no command", COMMAND),
        (
            '[refresh]\nnotify_command = ["a\\u0000"]',
            "[refresh] notify_command is no command",
            COMMAND,
        ),
    ],
)
def test_a_wrong_value_in_the_file_names_file_and_key(line: str, shown: str, allowed: str) -> None:
    assert refusal(file=written(line)) == f"mine.toml: {shown}: it must be {allowed}"


@pytest.mark.parametrize(
    ("name", "value", "place", "allowed"),
    [
        ("exchange.rate", -1, "--rate", RANGE_0),
        ("exchange.jobs", 0, "--jobs", WHOLE_1),
        ("exchange.url", "x", "--api-url", ADDRESS),
        ("archive.path", "", "--data", FILLED),
    ],
)
def test_a_wrong_option_is_named_as_it_was_typed(
    name: str, value: object, place: str, allowed: str
) -> None:
    assert refusal(options={name: value}) == f"{place} is {value!r}: it must be {allowed}"


def test_a_value_that_another_overrides_is_not_held_against_anybody() -> None:
    assert load({"exchange.rate": 2}, file=written("[exchange]\nrate = 'x'\n"), environment={})


@pytest.mark.parametrize(
    "text", ["https://api.kraken.com:443/", "http://[::1]:8080", "http://h/kraken"]
)
def test_addresses_with_port_and_path_are_taken_without_the_slash_at_the_end(text: str) -> None:
    settings = load(environment={"HARVESTER_EXCHANGE_URL": text})
    assert settings.exchange.url == text.rstrip("/")


# Wrong keys.

KNOWN = (
    "the keys of [exchange] are ca_file, give_up_s, jobs, rate, retry_wait_s, timeout_s, url, "
    "user_agent"
)
SECTIONS = "the sections are [archive], [exchange], [refresh], [candles]"

NO_SETTING = {
    "[exchange]\nratee = 1": (
        f"[exchange] ratee is not a setting; is [exchange] rate meant? {KNOWN}"
    ),
    "[exchange]\nqqqqqqqqqqqqqqqq = 1": f"[exchange] qqqqqqqqqqqqqqqq is not a setting; {KNOWN}",
    "[exchange.rate]\nx = 1": "[exchange] rate is {'x': 1}: it must be a number, 0 or more",
    "[ex]\nrate = 1": f"[ex] rate is not a setting; is [exchange] rate meant? {SECTIONS}",
    "[zzzzzzzz]\nqqqqqqqqqqqqq = 1": f"[zzzzzzzz] qqqqqqqqqqqqq is not a setting; {SECTIONS}",
    "[exchnage]": f"[exchnage] is not a section; is [exchange] meant? {SECTIONS}",
    "[qqqqqqq]": f"[qqqqqqq] is not a section; {SECTIONS}",
    "rate = 1": "'rate' must be inside a [section]",
}


@pytest.mark.parametrize(("line", "message"), NO_SETTING.items())
def test_a_wrong_key_names_itself_and_what_is_allowed(line: str, message: str) -> None:
    assert refusal(file=written(line)) == f"mine.toml: {message}"


# Variables that are misspelt.

VARIABLES = (
    "there are HARVESTER_CONFIG, HARVESTER_DATA, HARVESTER_API_URL, and "
    "HARVESTER_<SECTION>_<KEY> for each key of config.toml"
)
ARCHIVE = "the keys of [archive] are flush_rows, flush_s, path"

MISSPELT = {
    "HARVESTER_ARCHIV_PATH": f"is HARVESTER_ARCHIVE_PATH meant? {VARIABLES}",
    "HARVESTER_EXCHANGE_RATEE": f"is HARVESTER_EXCHANGE_RATE meant? {KNOWN}",
    "HARVESTER_EXCHANGE_QQQQQQQQ": KNOWN,
    "HARVESTER_ARCHIVE_DIR": ARCHIVE,
    "HARVESTER_ARCHIVE": ARCHIVE,
    "HARVESTER_RATE": f"is HARVESTER_EXCHANGE_RATE meant? {VARIABLES}",
    "HARVESTER_JOB": f"is HARVESTER_EXCHANGE_JOBS meant? {VARIABLES}",
    "HARVESTER_DTA": f"is HARVESTER_DATA meant? {VARIABLES}",
    "HARVESTER_CONF": f"is HARVESTER_CONFIG meant? {VARIABLES}",
    "HARVESTER_APIURL": f"is HARVESTER_API_URL meant? {VARIABLES}",
}


@pytest.mark.parametrize(("name", "hint"), MISSPELT.items())
def test_a_misspelt_variable_is_not_overlooked(name: str, hint: str) -> None:
    assert refusal(environment={name: "1"}) == f"{name} is not a setting; {hint}"


@pytest.mark.parametrize(
    "name",
    [
        "HARVESTER_TOKEN",
        "HARVESTER_HOME",
        "HARVESTERS_DATA",
        "MY_HARVESTER_DATA",
        # As Kubernetes sets for services that are called harvester and harvester-archive.
        "HARVESTER_SERVICE_HOST",
        "HARVESTER_SERVICE_PORT_HTTP",
        "HARVESTER_PORT",
        "HARVESTER_PORT_8722_TCP_ADDR",
        "HARVESTER_ARCHIVE_SERVICE_HOST",
        "HARVESTER_ARCHIVE_PORT_8722_TCP",
    ],
)
def test_a_variable_of_another_program_is_left_to_it(name: str) -> None:
    assert flat(load(environment={name: "1"})) == DEFAULTS


@pytest.mark.parametrize(
    ("short", "long", "key"),
    [
        ("HARVESTER_DATA", "HARVESTER_ARCHIVE_PATH", "archive.path"),
        ("HARVESTER_API_URL", "HARVESTER_EXCHANGE_URL", "exchange.url"),
    ],
)
def test_the_short_variable_overrides_the_long_variable(short: str, long: str, key: str) -> None:
    settings = load(environment={short: "http://one", long: "http://two"})
    assert (flat(settings)[key], settings.origins[key]) == ("http://one", short)


def test_a_missing_configuration_file_is_an_error_that_names_it() -> None:
    assert refusal(file="not here.toml") == (
        "there is no configuration file 'not here.toml': "
        "`harvester config --init 'not here.toml'` writes one"
    )


def test_the_environment_names_the_file() -> None:
    file = written("[exchange]\njobs = 3\n")
    settings = load(environment={"HARVESTER_CONFIG": file})
    assert (settings.exchange.jobs, settings.origins["exchange.jobs"]) == (3, "mine.toml")
    other = Path("other.toml")
    other.write_text("[exchange]\njobs = 4\n")
    assert load(file="other.toml", environment={"HARVESTER_CONFIG": file}).exchange.jobs == 4


def test_a_mark_of_byte_order_is_no_fault() -> None:
    Path("mine.toml").write_bytes(b"\xef\xbb\xbf[exchange]\njobs = 3\n")
    assert load(file="mine.toml", environment={}).exchange.jobs == 3


def test_a_file_that_is_no_toml_is_named_with_the_reason() -> None:
    assert re.fullmatch(
        r"mine\.toml can't be read: .*line 1.*", refusal(file=written("[exchange\nrate = 1"))
    )


def test_a_file_that_is_no_text_is_named_with_the_reason() -> None:
    Path("mine.toml").write_bytes(b"\xff\xfe")
    assert refusal(file="mine.toml") == (
        "mine.toml can't be read: 'utf-8' codec can't decode byte 0xff in position 0: "
        "invalid start byte"
    )


def test_a_folder_in_place_of_the_file_is_named() -> None:
    Path("folder.toml").mkdir()
    assert refusal(file="folder.toml") == (
        "folder.toml can't be read: [Errno 21] Is a directory: 'folder.toml'"
    )


# The repository's own config.toml.


def shipped() -> str:
    """The text of config.toml."""
    return (REPOSITORY / "config.toml").read_text()


def test_config_toml_has_every_key_with_its_default() -> None:
    tables = tomllib.loads(shipped())
    found = {f"{section}.{key}": v for section, table in tables.items() for key, v in table.items()}
    assert found == {n: list(v) if isinstance(v, tuple) else v for n, v in DEFAULTS.items()}


def test_config_toml_is_what_init_writes() -> None:
    assert shipped() == default_file_text()


def test_config_toml_says_of_every_key_what_it_is_for() -> None:
    lines = shipped().splitlines()
    above = {line.split(" = ")[0]: lines[at - 1] for at, line in enumerate(lines) if " = " in line}
    assert above == {key.name.partition(".")[2]: f"# {key.help}" for key in KEYS}


def test_config_toml_changes_nothing() -> None:
    assert flat(load(file=str(REPOSITORY / "config.toml"), environment={})) == DEFAULTS


def test_every_key_has_a_help_text() -> None:
    assert [key.name for key in KEYS if len(key.help) < 20] == []
