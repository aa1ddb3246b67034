"""`harvester status --watch`: the same again and again, in its place on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from harvester.cli import output
from harvester.cli.holdings import Look, look, nothing, plain, remarks, text
from harvester.cli.options import Common
from harvester.times import SECOND, show

if TYPE_CHECKING:
    from rich.console import Console


def watch(
    common: Common,
    names: Sequence[str],
    every_s: float,
    *,
    as_json: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Tell what is held every so many seconds, until Ctrl-C.

    On a terminal that is how it ends, with status 0; elsewhere it is an interruption. As JSON it is
    one line each time.
    """
    if as_json:
        while True:
            found = [plain(one) for one in look(common, names)]
            output.result(msgspec.json.encode(found).decode())
            sleep(every_s)
    if sys.stdout.isatty():
        return _in_place(lambda: _picture(common, names), every_s, sleep)
    while True:
        output.result(_picture(common, names) + "\n")
        sleep(every_s)


def _picture(common: Common, names: Sequence[str]) -> str:
    found = look(common, names)
    now = show(time.time_ns() // SECOND * SECOND)
    if not found:
        return f"{now}  {nothing(common)}"
    levels = common.settings.candles.rollups
    shown = text(found, levels, Look.of_stdout(), detailed=bool(names))
    return "\n".join([now, "", shown, *remarks(found, exact=common.verbose > 0)])


def _in_place(
    picture: Callable[[], str],
    every_s: float,
    sleep: Callable[[float], None],
    console: Console | None = None,
) -> int:
    from rich.live import Live
    from rich.text import Text

    # What does not fit is cut off: the screen is drawn over, and never scrolls.
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(Text(picture(), no_wrap=True, overflow="crop"), refresh=True)
                sleep(every_s)
    except KeyboardInterrupt:
        return 0
