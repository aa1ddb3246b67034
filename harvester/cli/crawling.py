"""The old home of what is in `run_context` now, until no command imports it from here."""

from __future__ import annotations

import asyncio
import os
import signal

from harvester.cli import output
from harvester.cli.run_context import show_warnings, warnings_shown
from harvester.download.events import CancelToken
from harvester.errors import Interrupted

__all__ = ["heed_signals", "show_warnings", "warnings_shown"]


def heed_signals(cancel: CancelToken) -> None:
    """Cancel on the first Ctrl-C or SIGTERM, end the process on the second, on the running loop."""

    def handle() -> None:
        if cancel.is_cancelled:
            output.hide_live()
            os._exit(Interrupted.exit_status)
        output.hint("stopping; writing what was downloaded (press again to stop at once)")
        cancel.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, handle)
