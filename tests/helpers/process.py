"""Starts the real command as processes, on machines good and bad, and ends them by force."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from command_line import DOOMED, HARVESTER, ForkedCommand, own_environment, run_harvester
from crash_points import PREFIX, Plan
from ledger import Loss

LONGEST_S = 120.0
POLL_S = 0.0005
SPARE_BYTES = 256 << 20

FULL = "the disk is full: make room, then run the same command again"
TOO_LARGE = "File too large"
DENIED = "no permission to write there: choose another --data or change its owner"
MOUNTED_READ_ONLY = "the disk is mounted read-only: choose another --data"


class Ended(NamedTuple):
    """What a process came to; a negative status is the signal that ended it."""

    status: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        """Whether it was killed, by whom ever."""
        return self.status == -signal.SIGKILL

    @property
    def died_at(self) -> str:
        """The step at which it killed itself, and the method of the writer it was in."""
        lines = [line for line in self.err.splitlines() if line.startswith(PREFIX)]
        return lines[0].removeprefix(PREFIX) if lines else ""


@dataclass
class Victims:
    """Processes of harvester over one archive and one test exchange."""

    folder: Path
    url: str
    settings: dict[str, str] = field(default_factory=dict)
    started: int = 0

    def start(
        self, words: Sequence[str], plan: Plan | None = None, wrapped: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Start a command by an interpreter; `wrapped` stands before it, such as `unshare`."""
        self.started += 1
        program = HARVESTER if plan is None else [*DOOMED, plan.text()]
        return subprocess.Popen(
            [*wrapped, *program, *words],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fork(self, words: Sequence[str], plan: Plan | None = None) -> ForkedCommand:
        """Start a command by the server of commands, which takes less time."""
        self.started += 1
        return ForkedCommand(words, self.environment(), plan=plan)

    def run(
        self, words: Sequence[str], plan: Plan | None = None, wrapped: Sequence[str] = ()
    ) -> Ended:
        """Run a command to its end."""
        if wrapped or (plan is not None and plan.most_bytes):
            return ended(self.start(words, plan, wrapped))
        self.started += 1
        try:
            done = run_harvester(words, self.environment(), timeout=LONGEST_S, plan=plan)
        except subprocess.TimeoutExpired as error:
            raise Loss(f"a run did not end within {LONGEST_S:g} s") from error
        return Ended(done.returncode, done.stdout, done.stderr)

    def environment(self) -> dict[str, str]:
        """The variables of each process."""
        given = {"HARVESTER_API_URL": self.url, "HARVESTER_DATA": str(self.folder)}
        return own_environment() | given | self.settings


def ended(process: subprocess.Popen[str] | ForkedCommand) -> Ended:
    """Wait for a process's end.

    Raises:
        Loss: it does not come to one.
    """
    try:
        out, err = process.communicate(timeout=LONGEST_S)
    except subprocess.TimeoutExpired as error:
        process.kill()
        out, err = process.communicate()
        raise Loss(f"a run did not end within {LONGEST_S:g} s; it said {err[-500:]!r}") from error
    return Ended(process.wait(), out, err)


def hunt(
    process: subprocess.Popen[str] | ForkedCommand,
    due: Callable[[], bool],
    number: int = signal.SIGKILL,
) -> Ended:
    """Look again and again whether the moment has come, and then send a signal."""
    until = time.monotonic() + LONGEST_S
    while process.poll() is None and time.monotonic() < until:
        if due():
            process.send_signal(number)
            break
        time.sleep(POLL_S)
    return ended(process)


def wait_for(due: Callable[[], bool]) -> None:
    """Look again and again whether something has come about."""
    until_s = time.monotonic() + LONGEST_S
    while not due():
        assert time.monotonic() < until_s
        time.sleep(POLL_S)


# --- bad machines ----------------------------------------------------------------------------

UNSHARE, MOUNT, UMOUNT = (shutil.which(name) for name in ("unshare", "mount", "umount"))
_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


def unshared() -> list[str]:
    """What to put before a command so that its mounts are seen by nobody else; or nothing.

    They go with the last process that sees them, whatever ends it.
    """
    if UNSHARE is None or MOUNT is None:
        return []
    before = [UNSHARE, "--mount"]
    tried = [*before, MOUNT, "-t", "tmpfs", "-o", "size=64k", "tried", "/mnt"]
    permitted = subprocess.run(tried, capture_output=True, check=False).returncode == 0
    return before if permitted else []


def mount(folder: Path, kind: str, options: str) -> None:
    """Put a file system over a folder, or change the one that is there."""
    subprocess.run([str(MOUNT), "-t", kind, "-o", options, "torture", str(folder)], check=True)


def umount(folder: Path) -> None:
    """Take it away again."""
    subprocess.run([str(UMOUNT), str(folder)], check=True)


class Disk:
    """The disk below an archive, which may be made full or read-only for one run."""

    def __init__(self, folder: Path, *, is_mount: bool = False) -> None:
        """`is_mount`: `folder` is a tmpfs of our own, which no other process sees."""
        self.folder = folder
        self.is_mount = is_mount
        self._unshared = unshared()

    @property
    def why_never_read_only(self) -> str:
        """Why no folder can be made read-only here; empty where one can."""
        if self._unshared or os.geteuid() != 0:
            return ""
        return "permissions do not bind root, and mounting is not permitted"

    @contextmanager
    def read_only(self) -> Iterator[Sequence[str]]:
        """Nothing can be written: gives what to put before the command."""
        if self._unshared:
            yield [*self._unshared, "sh", "-c", _READ_ONLY, str(self.folder)]
            return
        folders = [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        try:
            yield []
        finally:
            for path in folders:
                path.chmod(0o755)

    @contextmanager
    def full(self, spare_bytes: int) -> Iterator[tuple[Plan, str]]:
        """Room for no more than some bytes: gives the plan to run with, and what is then said."""
        if not self.is_mount:
            yield Plan(most_bytes=spare_bytes), TOO_LARGE
            return
        facts = os.statvfs(self.folder)
        used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
        # A size of 0 would be no limit.
        mount(self.folder, "tmpfs", f"remount,size={max(used + spare_bytes, facts.f_frsize)}")
        try:
            yield Plan(), FULL
        finally:
            mount(self.folder, "tmpfs", f"remount,size={SPARE_BYTES}")
