"""`doctor`: check this machine, the archive, and whether the exchange is as harvester expects."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

from harvester.config import KEYS, Settings
from harvester.errors import (
    BAD_JSON,
    BadSetting,
    ExchangeError,
    ExchangeUnreachable,
    HarvesterError,
    counted,
    without_credentials,
)
from harvester.events import CancelToken
from harvester.kraken.answers import Transient, read_result
from harvester.kraken.client import Client
from harvester.kraken.ohlc import WEEK_MIN, read_candles
from harvester.kraken.pairs import TOKENIZED_ASSET, Pair, PairIndex, read_pairs
from harvester.kraken.trades import decode_page
from harvester.kraken.transport import HttpAnswer
from harvester.operations.exchange_checks import (
    CHECKS,
    REQUESTED_COUNT,
    Answers,
    CheckResult,
    Differs,
    NotChecked,
    run_check,
)
from harvester.schema import clip, sort_rows, times
from harvester.storage.filesystem import writing
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import SECOND, Range
from harvester.verify.against_kraken import compare_interval
from harvester.verify.candle_comparison import LocalCandles
from harvester.verify.status import status

MAX_CALLS = 25
"""Requests of one run, retries included."""
ATTEMPTS = 3
"""Requests for one answer, while the failures may pass."""
LEAST_FREE_BYTES = 1 << 30
WRITTEN_BYTES = 32 << 20
"""Size of the file that is written to measure the disk."""
LEAST_MB_PER_S = 5.0
NO_PAIR = "HARVESTERNOSUCHPAIR"

# --- this machine ---------------------------------------------------------------------------------


def check_machine() -> list[CheckResult]:
    """Check what needs no archive and no settings: Python and the libraries."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return [CheckResult("python", "ok", f"{python} on {system}"), _check_libraries()]


def _check_libraries() -> CheckResult:
    versions = []
    for requirement in metadata.requires("kraken-harvester") or ():
        name = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
        # A library that is needed and missing has ended the import of this module.
        with suppress(metadata.PackageNotFoundError):
            if "extra ==" not in requirement:
                versions.append(f"{name} {metadata.version(name)}")
    return CheckResult("libraries", "ok", ", ".join(versions))


def check_archive(archive: TradeStore, settings: Settings) -> list[CheckResult]:
    """Check the settings, the archive's files and its disk.

    Args:
        archive: whose folder may still be missing.
        settings: the effective settings.
    """
    changed = [key.name for key in KEYS if settings.shown(key.name) != key.default]
    seen = f"valid; not the default: {', '.join(changed) or 'none'}"
    # A copy in an object store is refused: it is only read.
    folder = archive.root
    while not os.path.lexists(folder):
        folder = folder.parent
    return [
        CheckResult("config", "ok", seen),
        _local("archive readable", partial(_read_archive, archive)),
        _local("archive writable", partial(_write_archive, folder)),
        _local("disk space", partial(_free_space, folder)),
    ]


def fault(name: str, error: HarvesterError) -> CheckResult:
    """The result of a local check that failed.

    Args:
        name: of the check.
        error: why.
    """
    return anonymous(CheckResult(name, "fault", str(error), "downloads and queries will fail"))


def _local(name: str, check: Callable[[], CheckResult | str]) -> CheckResult:
    try:
        found = check()
    except HarvesterError as error:
        return fault(name, error)
    except OSError as error:
        return fault(name, HarvesterError(str(error)))
    return found if isinstance(found, CheckResult) else CheckResult(name, "ok", found)


def _read_archive(archive: TradeStore) -> CheckResult | str:
    if not archive.root.is_dir():
        return "there is no archive yet; the first download creates it"
    pairs = status(archive, None, time.time_ns())
    damaged = [text for pair in pairs for text in pair.damaged]
    trades, files = sum(pair.trades for pair in pairs), sum(pair.files for pair in pairs)
    seen = f"{counted(len(pairs), 'pair')}, {counted(trades, 'trade')}, {counted(files, 'file')}"
    if damaged:
        more = f"{seen}; {len(damaged):,} damaged: {damaged[0]}"
        return CheckResult("archive readable", "fault", more, "`harvester verify` shows all faults")
    return seen


def _write_archive(folder: Path) -> CheckResult | str:
    """Write a file without a name to the archive's disk, and measure the speed."""
    for name in ("", "trades", "candles", "staging", "locks", "wanted", "quarantine", "cache"):
        path = folder / name
        if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
            with writing(str(path)):
                raise PermissionError(13, "Permission denied")
    block = os.urandom(1 << 20)
    begun_s = time.perf_counter()
    with writing(str(folder)), tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(WRITTEN_BYTES >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    speed = WRITTEN_BYTES / 1e6 / (time.perf_counter() - begun_s)
    seen = f"{speed:,.0f} MB per second, synced"
    if speed < LEAST_MB_PER_S:
        meaning = "downloads of several pairs may wait for the disk: choose another --data"
        return CheckResult("archive writable", "fault", seen, meaning)
    return seen


def _free_space(folder: Path) -> CheckResult | str:
    free = shutil.disk_usage(folder).free
    seen = f"{free / 1e9:,.1f} GB free"
    if free < LEAST_FREE_BYTES:
        meaning = "a large pair needs some GB: make room, or choose another --data"
        return CheckResult("disk space", "fault", seen, meaning)
    return seen


def anonymous(result: CheckResult) -> CheckResult:
    """A result without passwords in addresses and without the path of the home folder."""

    def cleaned(text: str) -> str:
        for home in {str(Path.home()), str(Path.home().resolve())} - {"/"}:
            text = text.replace(home, "~")
        return without_credentials(text)

    return replace(result, seen=cleaned(result.seen), meaning=cleaned(result.meaning))


# --- the exchange ---------------------------------------------------------------------------------


async def check_exchange(settings: Settings, name: str, cancel: CancelToken) -> list[CheckResult]:
    """Request at most `MAX_CALLS` answers at the set rate, and check every assumption with them.

    Args:
        settings: the effective settings.
        name: of the pair whose trades are requested, in any spelling.
        cancel: ends the requests early.

    Raises:
        UnknownPair: the exchange lists no pair of this name.
        Interrupted: cancelled.
    """
    sent: list[tuple[HttpAnswer, float]] = []
    try:
        client = Client(settings.exchange, on_answer=lambda answer, s: sent.append((answer, s)))
    except BadSetting as error:
        return [fault("exchange settings", error)]
    async with client:
        questions = _Questions(client, settings.exchange.retry_wait_s, cancel)
        await questions.ask_all(name)
        refusals = client.refusals
    answers = questions.answers
    return [
        run_check("reachable", lambda: _reachable(answers, client.calls, len(sent))),
        *(run_check(check, partial(CHECKS[check], answers)) for check in CHECKS),
        run_check("candles", lambda: check_candles(answers)),
        run_check("compression", lambda: _compression(sent)),
        run_check("latency", lambda: _latency(sent, settings.exchange.rate)),
        run_check("refusals", lambda: _refusals(client.calls, refusals)),
    ]


class _Questions:
    """Sends the requests of a run, one at a time, and keeps the answers."""

    def __init__(self, client: Client, retry_wait_s: float, cancel: CancelToken) -> None:
        self._client = client
        self._retry_wait_s = retry_wait_s
        self._cancel = cancel
        self.answers = Answers()

    async def ask_all(self, name: str) -> None:
        """Request everything, for the pair of this name; if nothing is answered, stop."""
        answers = self.answers
        await self._ask("time", "Time")
        answers.machine_ns = time.time_ns()
        if "time" not in answers.bodies:
            return
        await self._ask("status", "SystemStatus")
        await self._ask("pairs", "AssetPairs")
        await self._ask("stocks", "AssetPairs", aclass_base=TOKENIZED_ASSET)
        await self._ask("unknown_pair", "Trades", pair=NO_PAIR)
        try:
            pair = PairIndex(read_pairs(read_result(answers.body("pairs"))).values()).resolve(name)
        except (NotChecked, Transient, ExchangeError):
            return
        answers.pair = pair
        await self._ask("candles", "OHLC", pair, interval="1")
        await self._ask("newest", "Trades", pair)
        await self._ask_since("after_newest", pair, lambda: _after(answers, "newest"))
        await self._ask("first", "Trades", pair, since="0")
        await self._ask("first_again", "Trades", pair, since="0")
        await self._ask("few", "Trades", pair, since="0", count=str(REQUESTED_COUNT))
        await self._ask_since("second", pair, lambda: _before_end(answers, "first"))
        await self._ask_since("from_first", pair, lambda: answers.page("first").cursor_ns)
        await self._ask_since("from_second", pair, lambda: answers.page("second").cursor_ns)
        await self._ask("candles_again", "OHLC", pair, interval="1")
        await self._ask("weeks", "OHLC", pair, interval=str(WEEK_MIN))

    async def _ask_since(self, label: str, pair: Pair, since_ns: Callable[[], int]) -> None:
        try:
            since = since_ns()
        except (NotChecked, Transient, ExchangeError) as error:
            self.answers.failures[label] = str(error)
        else:
            await self._ask(label, "Trades", pair, since=str(since))

    async def _ask(
        self, label: str, endpoint: str, market: Pair | None = None, **params: str
    ) -> None:
        """Request an answer; keep it, or the reason why there is none, by its label."""
        failures = self.answers.failures
        for attempt in range(ATTEMPTS):
            if self._client.calls >= MAX_CALLS:
                failures.setdefault(label, f"the {MAX_CALLS} requests of a run were used up")
                return
            if attempt:
                await self._cancel.guard(asyncio.sleep(self._retry_wait_s))
            try:
                body = self._client.body(endpoint, params, market)
                self.answers.bodies[label] = await self._cancel.guard(body)
            except ExchangeUnreachable as error:
                failures[label] = str(error)
            except ExchangeError as error:
                failures[label] = str(error)
                return
            else:
                return


def _after(answers: Answers, label: str) -> int:
    """The cursor of a page, or else the time of its last row, in nanoseconds."""
    page = answers.page(label)
    try:
        return page.cursor_ns
    except NotChecked:
        return int(page.times[-1] * SECOND) if page.rows else 0


def _before_end(answers: Answers, label: str) -> int:
    """A time just before the last row of a page, as downloads request the next page from."""
    page = answers.page(label)
    if not page.rows:
        raise NotChecked("the market has no trades")
    last_ns = int(page.times[-1] * SECOND)
    return min(_after(answers, label) - 1, last_ns - max(1000, page.unit_ns))


def _reachable(answers: Answers, calls: int, answered: int) -> str:
    if "time" not in answers.bodies:
        raise Differs(
            answers.failures["time"],
            "nothing can be downloaded: check the network, [exchange] url, and proxies",
        )
    return f"{answered} of {calls} requests answered"


def _compression(sent: list[tuple[HttpAnswer, float]]) -> str:
    if not sent:
        raise NotChecked("nothing was answered")
    codings = Counter("+".join(answer.codings) or "none" for answer, _ in sent)
    size = sum(len(answer.body) for answer, _ in sent)
    counts = ", ".join(f"{coding}: {count}" for coding, count in codings.items())
    return f"{counts} answers; {size / 1e3:,.0f} kB in all"


def _latency(sent: list[tuple[HttpAnswer, float]], rate: float) -> str:
    if not sent:
        raise NotChecked("nothing was answered")
    seconds = [duration_s for _, duration_s in sent]
    median_s = statistics.median(seconds)
    seen = f"median {median_s * 1000:,.0f} ms, at most {max(seconds) * 1000:,.0f} ms"
    if rate and median_s > 1 / rate:
        raise Differs(seen, "answers come more slowly than the set rate: downloads take longer")
    return seen


def _refusals(calls: int, refusals: int) -> str:
    if not calls:
        raise NotChecked("nothing was requested")
    seen = f"{refusals} of {calls} requests refused because of the rate"
    if refusals:
        raise Differs(seen, "downloads slow down by themselves; lower [exchange] rate if it stays")
    return seen


def check_candles(answers: Answers) -> str:
    """Compare closed candles of a minute with candles built from the newest page.

    The trades are stored in a temporary archive, so storage and the candle query are run, too.
    """
    pair = answers.pair
    if pair is None:
        raise NotChecked("no pair was found")
    try:
        rows = sort_rows(decode_page(answers.body("newest")).rows)
    except (HarvesterError, *BAD_JSON) as error:
        raise NotChecked("the newest page can't be read") from error
    if not rows.num_rows:
        raise NotChecked("the market has no trades")
    # Trades of the first time may be on the page before.
    covered = Range(int(times(rows)[0]), int(times(rows)[-1]))
    if covered.after == covered.through:
        raise NotChecked("all trades of the newest page have one time")
    with tempfile.TemporaryDirectory(prefix="harvester-doctor-") as folder:
        archive = TradeStore(folder)
        with open_writer(archive, pair.altname) as pair_writer:
            pair_writer.commit(covered, clip(rows, covered), Footer(range=covered, pair_json="{}"))
        local = LocalCandles(archive, pair.altname, pair.pair_decimals)
        for label in ("candles", "candles_again"):
            candles = read_candles(answers.body(label), 1, pair)
            report = compare_interval(local, [covered], 1, candles)
            if not report.differing:
                break
    if report.differing:
        raise Differs(
            f"{report.differing:,} of {report.compared:,} candles differ, twice: "
            f"{report.differences[0]}",
            "`verify --against-exchange` will report differences; the trades are what counts",
        )
    if not report.compared:
        raise NotChecked("no closed minute lies within the newest page and the exchange's candles")
    return f"{report.compared:,} closed minutes equal those built from the trades"
