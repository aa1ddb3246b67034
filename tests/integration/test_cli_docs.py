"""docs/cli.md is what the commands say, and what they say can be read and run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from harvester import errors
from harvester.cli import options
from harvester.cli.main import COMMANDS, SECTIONS, cli, load_command
from harvester.config import SHORT_VARIABLES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cli.md"
NAMES = sorted(COMMANDS)


def help_of(name: str) -> str:
    """What a command says of itself on a terminal of 80 columns."""
    root = click.Context(cli, info_name="harvester", terminal_width=78)
    command = load_command(name)
    return command.get_help(click.Context(command, parent=root, info_name=name, terminal_width=78))


def all_options() -> Iterator[tuple[str, click.Option]]:
    for name in NAMES:
        for param in load_command(name).params:
            if isinstance(param, click.Option):
                yield name, param


def test_the_page_is_what_the_commands_say_on_every_terminal() -> None:
    """Where it is not: `make docs`, and look at what changed."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "cli_page.py"],
        env={**os.environ, "COLUMNS": "40", "LC_ALL": "C"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == PAGE.read_bytes()


def test_the_page_is_what_a_terminal_of_80_columns_shows() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harvester", "config", "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"```text\n{done.stdout}```" in PAGE.read_text(encoding="utf-8")


def test_no_help_is_wider_than_80_columns() -> None:
    texts = re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [line for text in texts for line in text.splitlines() if len(line) > 80] == []
    assert len(texts) == len(NAMES) + 1


def test_every_command_stands_in_one_section() -> None:
    listed = [name for section in SECTIONS.values() for name in section]
    assert sorted(listed) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_command_has_the_name_in_the_list(name: str) -> None:
    assert load_command(name).name == name


def test_the_help_of_the_program_imports_no_command() -> None:
    code = "import sys; sys.argv[1:] = ['--help']; from harvester.cli.main import main; main()"
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    assert "backfill" in shown.stdout
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert imported.isdisjoint({"numpy", "pyarrow", "duckdb", "httpx", "rich"})
    assert imported.isdisjoint({f"harvester.cli.{entry.module}" for entry in COMMANDS.values()})


def test_commands_that_do_not_use_the_network_do_without_http() -> None:
    """httpx takes 0.1 s to import."""
    code = (
        "import sys; from harvester.cli.main import COMMANDS, load_command;"
        "[load_command(name) for name in COMMANDS];"
        "import harvester.operations.maintenance;"
        "print('httpx' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_shows_an_example_that_it_takes(name: str) -> None:
    lines = [
        splitline for splitline in help_of(name).splitlines() if splitline.startswith("  Example: ")
    ]
    assert lines
    for line in lines:
        words = shlex.split(line.removeprefix("  Example: "))
        assert words[:2] == ["harvester", name]
        load_command(name).make_context(name, words[2:]).close()


def test_every_option_says_what_it_does() -> None:
    assert [f"{name} {option.name}" for name, option in all_options() if not option.help] == []


def test_every_default_is_in_the_help_text() -> None:
    silent = [
        f"{name} --{option.name}"
        for name, option in all_options()
        if isinstance(option.default, str | int | float)
        and not isinstance(option.default, bool)
        and not option.count
        and str(option.default) not in help_of(name)
    ]
    assert silent == []


def test_the_help_text_of_an_option_names_its_variable() -> None:
    @click.command()
    @options.common_options
    def any_command(_common: options.CommonOptions) -> None:
        pass

    documented = {
        variable: param.opts[0]
        for param in any_command.params
        if isinstance(param, click.Option)
        for variable in re.findall(r"HARVESTER_\w+", param.help or "")
    }
    assert documented == {
        "HARVESTER_DATA": "--data",
        "HARVESTER_CONFIG": "--config",
        "HARVESTER_API_URL": "--api-url",
    }
    assert set(SHORT_VARIABLES) < set(documented)


def test_options_of_settings_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARVESTER_DATA", "from-environment")
    monkeypatch.setenv("HARVESTER_EXCHANGE_RATE", "0.25")
    found: list[options.CommonOptions] = []

    @click.command()
    @options.setting_option("--rate", setting="exchange.rate", type=float, help="Rate.")
    @options.common_options
    def any_command(common: options.CommonOptions) -> None:
        found.append(common)

    any_command.main(["--data", "from-option", "-q"], standalone_mode=False)
    any_command.main(["--rate", "0.5", "-v", "-v"], standalone_mode=False)
    values = [
        (common.settings.archive.path, common.settings.exchange.rate, common.quiet, common.verbose)
        for common in found
    ]
    assert values == [("from-option", 0.25, True, 0), ("from-environment", 0.5, False, 2)]


def test_every_exit_status_is_documented() -> None:
    found = {0}
    pending: list[type[errors.HarvesterError]] = [errors.HarvesterError]
    while pending:
        error = pending.pop()
        found.add(error.exit_status)
        pending += error.__subclasses__()
    table = PAGE.read_text(encoding="utf-8").partition("## Exit statuses")[2].partition("\n## ")[0]
    assert {int(status) for status in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == found
