"""Commands that keep an archive up to date: `refresh` nightly, `follow` live, `sync` its copy."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

import click

from harvester.argument_types import candle_interval
from harvester.cli import output
from harvester.cli.options import (
    CommonOptions,
    class_option,
    common_options,
    json_option,
    pair_argument,
    rate_option,
)
from harvester.cli.output import warnings_shown
from harvester.cli.progress_and_signals import followed_fields, run_context
from harvester.config import load_notify_command
from harvester.errors import (
    BadSetting,
    HarvesterError,
    brief,
    counted,
    first_few,
    gravest,
    shortened,
    without_credentials,
)
from harvester.events import Event, Followed
from harvester.times import show_seconds

if TYPE_CHECKING:
    from harvester.operations.refresh import RefreshedPair, RefreshResult
    from harvester.operations.sync import SyncResult

HEADER = ["pair", "state", "added", "first", "last", "gaps", "calls", "refused", "seconds"]
DROP_ORDER = ("first", "refused", "seconds", "calls", "last", "gaps")
"""Columns that a narrow terminal leaves out, the least important first."""

MAX_NAMED = 5
"""Most pairs, or segments that only the copy has, that a message names."""

NOTIFY_LIMIT_S = 60.0
"""The longest that `[refresh] notify_command` may take, in seconds."""

MAX_LINE = 1_000
"""Most characters in a line of the text of a notification."""


@click.command()
@pair_argument(nargs=-1, required=False)
@class_option("Limit patterns, and all stored pairs, to `currency` or `tokenized_asset` (stocks).")
@rate_option
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Stop after N minutes and keep what was downloaded; the next run continues.",
)
@click.option(
    "--sync", metavar="URL", help="Afterwards bring the copy at s3://BUCKET/PREFIX up to date."
)
@json_option
@common_options
def refresh(
    common: CommonOptions,
    pair: tuple[str, ...],
    asset_class: str | None,
    max_minutes: float | None,
    sync: str | None,
    as_json: bool,
) -> int:
    """Download new trades up to now, fill gaps, and maintain the files.

    Without PAIR, the pairs of `[refresh] pairs` in config.toml are refreshed, or all stored pairs
    if that is empty. PAIR is a name in any spelling, or a pattern such as '*/EUR'. A stored pair is
    completed from the start of its last request on; a new one begins with its first trade.

    Safe to run at any time. While another refresh runs, it ends with status 5. The exit status is 0
    only if every pair is complete; after 3 and 5, run it again later. If it is not 0, [refresh]
    notify_command is run; see docs/nightly.md.

    Example: harvester refresh -q --max-minutes 300
    """
    try:
        result = _run_refresh(common, pair, asset_class, max_minutes, sync)
    except Exception as error:
        notify(common, _failed_run(error))
        raise
    try:
        _print_result(result, common, as_json=as_json)
    finally:
        # Also if nobody reads the table any more.
        if result.exit_status:
            notify(common, result)
    return result.exit_status


def _run_refresh(
    common: CommonOptions,
    pairs: tuple[str, ...],
    asset_class: str | None,
    max_minutes: float | None,
    sync: str | None,
) -> RefreshResult:
    with run_context(common) as run:
        return common.archive().refresh(
            *pairs,
            asset_class=asset_class,
            max_minutes=max_minutes,
            sync=sync,
            estimate_trades=run.has_bars,
            progress=run.show,
            cancel=run.cancel,
            check=False,
        )


def _print_result(result: RefreshResult, common: CommonOptions, *, as_json: bool) -> None:
    """Print JSON or a table to stdout, and to stderr why pairs were not refreshed."""
    if as_json:
        output.as_json(report(result))
    elif result.pairs and not common.quiet:
        output.block(_table(result.pairs))
    if unfinished := [pair.pair for pair in result.pairs if pair.state == "unfinished"]:
        names = first_few(unfinished, MAX_NAMED)
        pairs = "1 pair is" if len(unfinished) == 1 else f"{len(unfinished):,} pairs are"
        output.hint(f"time limit reached: {pairs} unfinished ({names}); the next run continues")
    elif result.error is not None:
        output.error(str(result.error))
    if result.sync is not None and not (as_json or common.quiet):
        output.result(sync_summary(result.sync))
        print_kept(result.sync)
    if result.sync_error is not None:
        output.error(str(result.sync_error))


def report(result: RefreshResult) -> dict[str, Any]:
    """The result for JSON. Times are published times in nanoseconds."""
    return {
        "exit_status": result.exit_status,
        "exchange": result.exchange,
        "calls": result.calls,
        "refusals": result.refusals,
        "seconds": result.seconds,
        "error": _error_text(result.error),
        "sync": None if result.sync is None else asdict(result.sync),
        "sync_error": _error_text(result.sync_error),
        "notes": list(map(_for_json, warnings_shown())),
        "pairs": [
            {
                "pair": pair.pair,
                "state": pair.state,
                "exit_status": pair.exit_status,
                "trades_added": pair.trades,
                "first_ns": pair.first_ns,
                "last_ns": pair.last_ns,
                "covered_through_ns": pair.reached.through if pair.reached else None,
                "gaps": pair.gaps,
                "calls": pair.calls,
                "refusals": pair.refusals,
                "seconds": pair.seconds,
                "renamed_to": pair.renamed_to,
                "error": _error_text(pair.error),
            }
            for pair in result.pairs
        ],
    }


def _error_text(error: HarvesterError | None) -> str | None:
    return None if error is None else _for_json(str(error))


def _for_json(text: str) -> str:
    """A text without passwords, and without bytes of file names that are no UTF-8."""
    return without_credentials(text).encode(errors="replace").decode()


def _table(pairs: Sequence[RefreshedPair]) -> str:
    """One line per pair."""
    rows = [
        [
            pair.pair,
            pair.state,
            f"{pair.trades:,}",
            _to_seconds(pair.first_ns),
            _to_seconds(pair.last_ns),
            str(len(pair.gaps)),
            f"{pair.calls:,}",
            f"{pair.refusals:,}",
            f"{pair.seconds:.1f}",
        ]
        for pair in pairs
    ]
    return output.columns(HEADER, rows, left=2, drop_order=DROP_ORDER, max_width=output.width())


def _to_seconds(time_ns: int | None) -> str:
    return "" if time_ns is None else show_seconds(time_ns)


# --- notification ---------------------------------------------------------------------------------


def _failed_run(error: Exception) -> RefreshResult:
    """The result of a refresh that raised an error before it had one."""
    from harvester.operations.refresh import RefreshResult  # --help needs none of it

    if not isinstance(error, HarvesterError):
        error = HarvesterError(f"internal error: {type(error).__name__}: {error}")
    return RefreshResult([], "", 0, 0, 0.0, error)


def notify(common: CommonOptions, result: RefreshResult) -> None:
    """Run `[refresh] notify_command`, if it is set; print a warning if that fails.

    Its stdin is the result as `--json` has it, with `text`, `host` and `archive`.
    """
    try:
        settings = common.settings
        command, folder = settings.refresh.notify_command, os.path.abspath(settings.archive.path)  # noqa: PTH100 - as text
    except BadSetting:
        command, folder = load_notify_command(common.config_file), None
    if not command:
        return
    host = platform.node()
    text = _notification_text(result, host, folder)
    archive = folder and _for_json(folder)
    message = {"text": text, "host": host, "archive": archive, **report(result)}
    failure = run_notify_command(command, output.json_text(message, 2))
    if failure is not None:
        output.hint(f"nobody was notified: [refresh] notify_command ({command[0]}) {failure}")


def _notification_text(result: RefreshResult, host: str, folder: str | None) -> str:
    """What happened, in a few lines for a person: printable, without passwords."""
    where = f"on {host}" if folder is None else f"on {host} of {folder}"
    lines = [f"harvester: the refresh {where} ended with status {result.exit_status}"]
    lines += [str(error) for error in (result.error, result.sync_error) if error is not None]
    failed = [pair for pair in result.pairs if pair.exit_status and pair.error is not result.error]
    lines += [str(pair) for pair in failed[:MAX_NAMED]]
    if len(failed) > MAX_NAMED:
        lines.append(f"and {len(failed) - MAX_NAMED:,} more pairs")
    # Cut only when passwords are removed: half of an address does not look like one.
    return "\n".join(shortened(output.line(line), MAX_LINE) for line in lines)


def run_notify_command(
    command: Sequence[str], message: str, limit_s: float = NOTIFY_LIMIT_S
) -> str | None:
    """Run a program without a shell; return why it failed, or None if it ended with status 0.

    Its output is not shown, except for the last line of its stderr if it fails.

    Args:
        command: the program and its arguments.
        message: the text on its stdin.
        limit_s: seconds after which it is killed, with all that it started.
    """
    try:
        # A file and not a pipe, which something that it started could keep open for ever.
        with tempfile.TemporaryFile() as errors:
            status = _run_to_end(command, message, errors, limit_s)
            size = errors.seek(0, os.SEEK_END)
            errors.seek(max(0, size - MAX_LINE))
            said = errors.read().decode(errors="replace").strip().splitlines()
    except OSError as error:
        return f"can't be run: {error.strerror or error}"
    if status is None:
        return f"did not end within {limit_s:g} s and was killed"
    if status == 0:
        return None
    how = f"ended with status {status}"
    return f"{how}: {brief(said[-1])}" if said else how


def _run_to_end(
    command: Sequence[str], message: str, errors: IO[bytes], limit_s: float
) -> int | None:
    """Run a program to its end; None if it was killed because its time was up."""
    with subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    ) as process:
        try:
            process.communicate(message.encode(), timeout=limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # Also on Ctrl-C.
            if process.poll() is None:
                _kill_session(process)
    return process.returncode


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and, where the system has process groups, all that it started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:  # pragma: no cover - Windows
        process.kill()


# --- follow ---------------------------------------------------------------------------------------


@click.command()
@pair_argument(nargs=-1)
@click.option(
    "--every",
    metavar="LENGTH",
    default="10s",
    show_default=True,
    help="Store new trades at least this often, such as 10s or 1m; a number without a unit is "
    "minutes.",
)
@click.option(
    "--since",
    metavar="TIME",
    help="First download what is missing from this time on.  [default: the start of the last "
    "request; now for a pair that is not stored]",
)
@rate_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per poll and pair on stdout."
)
@common_options
def follow(
    common: CommonOptions, pair: tuple[str, ...], every: str, since: str | None, as_json: bool
) -> int:
    """Keep pairs up to date until Ctrl-C.

    New trades are stored once they are settled: 60 s old, by the setting `refresh.settle_s`. Newer
    ones are only shown. PAIR is a name in any spelling, or a pattern such as 'XBT/*'.

    If the exchange is down, follow waits and then downloads what it missed. A `refresh` that runs
    at the same time leaves these pairs out and ends with status 5.

    Ctrl-C or SIGTERM ends it with status 0; with 130 if a pair was still catching up or waiting for
    an answer. A pair stops if the exchange refuses it or another run is writing it; the other pairs
    continue, and the exit status is that pair's.

    Example: harvester follow XBT/USD ETH/EUR --every 10s
    """
    archive = common.archive()
    names, length, is_announced = ", ".join(pair), candle_interval(every).name, common.quiet
    gone: list[Exception] = []
    with run_context(common) as run:

        def show(event: Event) -> None:
            nonlocal is_announced
            if not is_announced and isinstance(event, Followed):
                is_announced = True
                output.hint(f"following {names}: trades are stored every {length} (Ctrl-C ends it)")
            run.show(event)
            if as_json and isinstance(event, Followed) and not gone:
                try:
                    output.as_json(followed_fields(event), indent=0)
                except (output.ReaderGone, HarvesterError) as error:
                    # The run stops cleanly, then the command ends as any other does.
                    gone.append(error)
                    run.cancel.cancel()

        results = archive.follow(
            *pair, every=every, since=since, progress=show, cancel=run.cancel, check=False
        )
    if gone:
        raise gone[0]
    return gravest([result.exit_status for result in results])


# --- sync -----------------------------------------------------------------------------------------


@click.command()
@click.argument("url")
@click.option("--dry-run", is_flag=True, help="Print what would be written; write nothing.")
@json_option
@common_options
def sync(common: CommonOptions, *, url: str, dry_run: bool, as_json: bool) -> None:
    """Bring the copy of the archive in an object store up to date.

    URL is s3://BUCKET/PREFIX. Credentials and the address of the store come from the variables of
    the AWS tools: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL.

    Only files that the copy lacks are written, and compared with the archive's. The copy can be
    read at every moment, with --data URL. After an interruption, the same command continues.
    Objects are deleted only if segments of this archive replace them.

    Example: harvester sync s3://my-bucket/kraken
    """
    with run_context(common) as run:
        result = common.existing_archive().sync(
            url, dry_run=dry_run, progress=run.show, cancel=run.cancel
        )
    if as_json:
        output.as_json(asdict(result))
    else:
        output.result(sync_summary(result))
    if not common.quiet:
        print_kept(result)


def sync_summary(result: SyncResult) -> str:
    """The result in one line."""
    would = "would be " if result.dry_run else ""
    parts = [
        f"{counted(result.uploaded, 'file')} {would}written "
        f"({result.uploaded_bytes / 1e6:,.1f} MB)",
        f"{result.unchanged:,} unchanged",
        f"{len(result.deleted):,} {would}deleted",
    ]
    return f"{result.url}: {', '.join(parts)}"


def print_kept(result: SyncResult) -> None:
    """Name the segments of the copy that the archive does not account for."""
    if result.kept:
        segments = counted(len(result.kept), "segment")
        output.hint(
            f"kept in {result.url}: {segments} that this archive neither has nor replaces: "
            f"{first_few(result.kept, MAX_NAMED)}"
        )
