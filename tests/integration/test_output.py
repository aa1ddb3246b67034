"""What reaches a terminal is printable, line by line; what programs read is verbatim."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import sample_trades
from backfills import serve
from cli_output import run
from kraken_server import Exchange
from kraken_socket import Reply
from rich.console import Console

from harvester.cli import output, query_output
from harvester.cli.status import runs_table
from harvester.errors import ExchangeRefused
from harvester.events import BackfillResult, Imported, Noted, Waiting
from harvester.operations.run_log import RunRecord
from harvester.progress_bars import Bars
from harvester.query.result import Result, source_of_batches

# A title, a cleared screen, C1, a direction, other line ends, a forged line.
EVIL = "x\x1b]0;title\x07\x1b[2J\x9b1m\u202e\u2066\u2028\x85\r\x0b\nharvester: all is well\ty\x7f"
SAFE = r"x\x1b]0;title\x07\x1b[2J\x9b1m\u202e\u2066\u2028\x85\r\x0b\nharvester: all is well\ty\x7f"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (EVIL, SAFE),
        ("Ελλάδα, 日本, ━╌…", "Ελλάδα, 日本, ━╌…"),
        ("a\ud800b", r"a\ud800b"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("at https://me:secret@host/x it is", "at https://host/x it is"),
    ],
)
def test_a_message_is_one_printable_line(
    capsys: pytest.CaptureFixture[str], text: str, printed: str
) -> None:
    output.hint(text)
    output.error(text)
    output.result(text)
    out, err = capsys.readouterr()
    assert (out, err) == (f"{printed}\n", f"{printed}\nharvester: {printed}\n")


def test_a_message_of_megabytes_is_shown_short(capsys: pytest.CaptureFixture[str]) -> None:
    output.hint("x" * 5_000_000)
    assert capsys.readouterr().err == "x" * 4000 + "... (5,000,000 characters)\n"


@pytest.mark.parametrize("room", [None, 200])
def test_cells_of_tables_are_printable_and_aligned(room: int | None) -> None:
    rows = [[EVIL, "1"], ["b", "22"]]
    for text in (
        output.columns(["a", EVIL], rows),
        output.columns(["a", EVIL], rows, max_width=room),
    ):
        header, first, second = text.split("\n")
        assert header.endswith(SAFE)
        assert first.startswith(SAFE)
        assert len(header) == len(first) == len(second)


def test_a_column_is_left_out_where_its_printed_cells_do_not_fit() -> None:
    rows = [["x", "\x1b" * 30, "2"]]
    assert output.columns(["a", "b", "c"], rows, drop_order=("b",), max_width=40) == "a  c\nx  2"


def test_a_block_keeps_its_lines_and_shows_all_else_escaped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.block(f"{EVIL}\nhttps://me:secret@host/x")
    first, _, rest = SAFE.partition(r"\n")
    assert capsys.readouterr().out == f"{first}\n{rest}\nhttps://host/x\n"


def write(batches: list[pa.RecordBatch], form: str, file: Path) -> None:
    source = source_of_batches("rows", lambda _rows: iter(batches), {})
    query_output.write_result(Result(source), form, str(file))


def test_a_table_of_trades_is_printable(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict({"misc": [EVIL, "b"], EVIL: [1, 2]})
    write([batch], "table", tmp_path / "x")
    header, first, _ = (tmp_path / "x").read_text().removesuffix("\n").split("\n")
    assert (header.split()[0], first.startswith(SAFE)) == ("misc", True)


def test_blocks_of_a_long_table_are_aligned_by_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_output, "_BLOCK_ROWS", 1)
    batches = [
        pa.RecordBatch.from_pydict({"misc": [misc], f"{EVIL}{EVIL}": [7]}) for misc in (EVIL, "b")
    ]
    write(batches, "table", tmp_path / "x")
    header, first, second = (tmp_path / "x").read_text().removesuffix("\n").split("\n")
    assert len(header) == len(first) == len(second)


def test_rows_for_programs_are_verbatim(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pydict({"misc": [EVIL]})
    write([batch], "csv", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes() == f'misc\n"{EVIL}"\n'.encode()
    write([batch], "json", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == [{"misc": EVIL}]


def test_json_reports_are_printable_and_mean_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"text": EVIL, "smile\U000e0001": ["\U0001f600"]}
    output.as_json(value)
    output.as_json(value, indent=0)
    output.log_json(value)
    out, err = capsys.readouterr()
    *indented, flat = out.removesuffix("\n").split("\n")
    for text in ("\n".join(indented), flat, err.removesuffix("\n")):
        assert json.loads(text) == value
        assert all(line.isprintable() for line in text.split("\n"))


def test_progress_on_a_terminal_is_printable() -> None:
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=True, width=300, color_system=None)
    with Bars(console=console) as bars:
        bars.show(Noted("XBTUSD", EVIL))
        bars.show(Imported("XBTUSD", 0, [EVIL, "second"], {}))
        bars.show(Waiting("XBTUSD", EVIL))
        bars.show(BackfillResult("ETHUSD", 0, 0, None, [], ExchangeRefused(EVIL)))
    text = sink.getvalue().replace("\x1b[2K", "").replace("\r", "\n")
    lines = [line.strip() for line in text.split("\n")]
    assert f"XBTUSD: {SAFE}" in sink.getvalue()
    assert f"ETHUSD: {SAFE}" in sink.getvalue()
    assert "second" in lines
    assert not any(line.startswith("harvester: all is well") for line in lines)
    assert "title\x07" not in sink.getvalue()
    assert "\u202e" not in sink.getvalue()


def test_the_log_of_runs_is_printable() -> None:
    record = RunRecord("1", "backfill", "2024-01-01T00:00:00Z", exit_status=3, error=EVIL)
    [*_, reason] = runs_table([record]).split("\n")
    assert reason == f"    {SAFE.partition(chr(92) + 'n')[0]}"


class Evil(Exchange):
    """An exchange whose Trades answers are errors that would forge a terminal's lines."""

    def answer(self, path: str, params: dict[str, str], agent: str | None) -> Reply:
        reply = super().answer(path, params, agent)
        if path.endswith("/Trades"):
            errors = [f"W{EVIL}", f"EGeneral:Permission denied{EVIL}"]
            reply = replace(reply, body=json.dumps({"error": errors}).encode())
        return reply


def test_an_answer_of_the_exchange_forges_no_line(tmp_path: Path) -> None:
    with Evil([sample_trades.market(sample_trades.xbtusd_like(50, 4))]) as exchange:
        done = run(exchange.url, tmp_path, "backfill", "XBTUSD")
    assert done.returncode == 3
    assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n"))
    assert SAFE in done.stderr
    assert "harvester: all is well" not in (line[:23] for line in done.stderr.split("\n"))
    runs = run(exchange.url, tmp_path, "status", "--runs")
    assert all(line.isprintable() for line in runs.stdout.split("\n"))
    assert "Permission denied" in runs.stdout


def test_a_name_of_a_market_forges_no_line(tmp_path: Path) -> None:
    with serve(
        sample_trades.market(sample_trades.xbtusd_like(50, 4), wsname=f"XBT/USD{EVIL}")
    ) as exchange:
        done = run(exchange.url, tmp_path, "pairs", "XBTUSD")
    assert (done.returncode, len(done.stdout.split("\n"))) == (0, 3)
    assert SAFE in done.stdout


def test_a_value_in_a_query_that_fails_forges_no_line(tmp_path: Path) -> None:
    query = "SELECT CAST('x\nharvester: all is well\x1b[2J' AS INTEGER)"
    (tmp_path / "data").mkdir()
    done = run("http://127.0.0.1:9", tmp_path, "sql", query)
    assert done.returncode == 2
    lines = done.stderr.split("\n")
    assert lines[0] == "harvester: the query can't be run"
    assert all(line.isprintable() for line in lines)
    forged = [line for line in lines if line.startswith("harvester: all")]
    assert forged == []


def test_a_name_in_a_folder_forges_no_line(tmp_path: Path) -> None:
    (tmp_path / f"odd{EVIL.replace('/', '')}.csv").write_text("1700000000,1.0,1.0\n")
    done = run("http://127.0.0.1:9", tmp_path, "import", ".", "--pair", "XBTUSD")
    assert done.returncode != 0
    assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n"))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("-vv", True),
        ("-vvv", True),
        ("-qvv", True),
        ("-v -v", True),
        ("-v --verbose", True),
        ("-qv", False),
        ("-v -dvv", False),
        ("--very-verbose", False),
    ],
)
def test_two_v_ask_for_a_traceback_however_they_are_typed(words: str, wanted: bool) -> None:
    assert output.wants_traceback(words.split()) is wanted
