"""What a terminal shows: progress lines that leave nothing behind, and texts that wrap at words."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import sample_trades
from backfills import serve
from rich.console import Console

from harvester.cli import output
from harvester.cli.progress_and_signals import cancel_on_signals
from harvester.errors import wrapped
from harvester.events import Noted, Started
from harvester.progress import RunProgress
from harvester.progress_bars import Bars
from harvester.times import DAY, SECOND, Range

ON_THIS_TERMINAL = (
    "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "from harvester.cli.main import main; main()"
)
"""A command whose terminal sends it the signal of Ctrl-C."""

MONTH = Range(1_704_067_200 * SECOND, 1_704_067_200 * SECOND + 30 * DAY)
CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n])")


class Screen:
    """As much of a terminal as is drawn on: text that wraps, cursor up, erase line, cursor shown.

    A row that was left stays; nothing scrolls away.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._row = self._column = 0
        self._rows: list[str] = [""]
        self.is_cursor_shown = True

    def write(self, text: str) -> None:
        for number, letter, back, feed, sign in CONTROL.findall(text):
            if back:
                self._column = 0
            elif feed:
                self._go_down()
            elif sign:
                self._put(sign)
            elif letter == "A":
                self._row -= int(number or 1)
            elif letter == "K":
                self._rows[self._row] = ""
            elif number == "?25":
                self.is_cursor_shown = letter == "h"

    def _go_down(self) -> None:
        self._row += 1
        self._column = 0
        if self._row == len(self._rows):
            self._rows.append("")

    def _put(self, sign: str) -> None:
        if self._column == self._width:
            self._go_down()
        line = self._rows[self._row].ljust(self._column)
        self._rows[self._row] = line[: self._column] + sign + line[self._column + 1 :]
        self._column += 1

    @property
    def lines(self) -> list[str]:
        """The rows that bear any text."""
        return [row.rstrip() for row in self._rows if row.strip()]


def interrupted(url: str, folder: Path, width: int, *arguments: str) -> tuple[int, Screen]:
    """Run a command on a terminal, press Ctrl-C once it shows a page; its status and screen."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    known = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HARVESTER_") and name not in ("COLUMNS", "LINES")
    }
    options = {"HARVESTER_EXCHANGE_RATE": "1", "HARVESTER_DATA": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", ON_THIS_TERMINAL, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env=known | options | {"HARVESTER_API_URL": url, "TERM": "xterm"},
    )
    os.close(slave)
    screen, shown_text, is_pressed = Screen(width), "", False
    while True:
        try:
            read = os.read(master, 65_536)
        except OSError:
            break
        shown_text += read.decode(errors="replace")
        # Between two frames: amid one, the terminal's ^C may land in an escape sequence.
        is_page_shown = re.search(r"% [0-9][^\n]* left", shown_text)
        if not is_pressed and is_page_shown and not select.select([master], [], [], 0.05)[0]:
            os.write(master, b"\x03")
            is_pressed = True
    os.close(master)
    screen.write(shown_text)
    return process.wait(), screen


def test_ctrl_c_leaves_no_progress_lines_behind(tmp_path: Path) -> None:
    # Both lines are too long for it.
    width = 58
    with serve(sample_trades.market(sample_trades.xbtusd_like(20_000, 41))) as exchange:
        status, screen = interrupted(exchange.url, tmp_path / "data", width, "backfill", "XBTUSD")
    shown_text = (
        "stopping; storing what is complete (press again to stop at once)\n"
        "XBTUSD: N trades in N pages; interrupted; the same command goes on where it stopped"
    )
    assert (status, screen.is_cursor_shown) == (130, True)
    shown = re.sub(r"[0-9,]+ (trades|pages)", r"N \1", " ".join(screen.lines))
    assert shown.split() == shown_text.split()
    assert all(len(line) <= width for line in screen.lines)


def terminal(width: int) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=10, force_terminal=True, color_system=None
    )


def drawn(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def begun() -> RunProgress:
    run = RunProgress(lambda: 0.0)
    run.add(Started("XBTUSD", [MONTH], 30_000))
    return run


@pytest.mark.parametrize("print_text", [output.hint, output.error])
def test_whatever_is_printed_while_lines_are_drawn_stands_above_them(print_text: object) -> None:
    assert callable(print_text)
    console = terminal(50)
    screen = Screen(50)
    with output.live(Bars(begun(), console)):
        print_text("a text that is longer than a line of fifty characters is")
        screen.write(drawn(console))
    *texts, last = screen.lines
    assert " ".join(texts).removeprefix("harvester: ") == (
        "a text that is longer than a line of fifty characters is"
    )
    assert last.startswith("XBTUSD")
    screen = Screen(50)
    screen.write(drawn(console))
    assert screen.lines == texts
    assert screen.is_cursor_shown


def test_a_second_ctrl_c_takes_the_lines_away_before_it_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = terminal(80)
    ended: list[tuple[int, list[str], bool]] = []

    def end(status: int) -> None:
        screen = Screen(80)
        screen.write(drawn(console))
        ended.append((status, screen.lines, screen.is_cursor_shown))

    monkeypatch.setattr(os, "_exit", end)
    with cancel_on_signals() as cancel, output.live(Bars(begun(), console)):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    assert cancel.is_cancelled
    stopping = "stopping; storing what is complete (press again to stop at once)"
    assert ended == [(130, [stopping], True)]


def test_notes_wrap_at_words_and_longer_words_stay_whole() -> None:
    console = terminal(30)
    path = "trades/pair=XBTUSD/year=2024/1705793270479837614-1705793570901801105.parquet"
    bars = Bars(RunProgress(), console)
    bars.show(Noted("XBTUSD", f"ids skip from 1 to 7 behind {path}, asked for again"))
    assert drawn(console).splitlines() == [
        "XBTUSD: ids skip from 1 to 7",
        "behind",
        f"{path},",
        "asked for again",
    ]


def test_a_note_is_shown_as_it_is_and_never_as_markup() -> None:
    console = terminal(80)
    Bars(RunProgress(), console).show(Noted("XBTUSD", "[bold]EQuery[/bold] [/] :smile:"))
    assert drawn(console) == "XBTUSD: [bold]EQuery[/bold] [/] :smile:\n"


def test_only_lines_that_are_too_long_are_broken_and_keep_their_indent() -> None:
    table = "pair      trades\nXBTUSD         5"
    assert wrapped(f"{table}\n  one two three four", 16) == (f"{table}\n  one two three\n  four")
    assert wrapped("a b " * 50, None) == "a b " * 50
