"""Runs harvester's command line in another process that need not import everything first.

A new interpreter takes half a second to import what a command needs, and the tests run more than a
thousand commands. So each test process has a server that has imported the package and is forked for
them: `python command_line.py FD`, where FD is the socket that it is spoken to through.

Commands run one after another in the same fork, a reused process, as the first one in a process
takes longer: it opens the first database, and each page of memory that it changes is copied. What a
command leaves in the process, the next one finds, as for users of the Python package.

Commands of a shell reach the server through a small program on its PATH (`program_of_server`). They
have a fork of their own, and so have those that kill themselves at a planned step, or are killed
from outside. Commands that are timed, read while they run, or run by another interpreter are
started by `HARVESTER` instead.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import pkgutil
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

from crash_points import PREFIX, Plan, apply_plan

HARVESTER = [sys.executable, "-c", "from harvester.cli.main import main; main()"]
"""Starts the command line in a new interpreter."""

DOOMED = [sys.executable, str(Path(__file__).with_name("crash_points.py"))]
"""Starts it under a plan, which is the first argument."""

READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "ARROW_")
"""Variables that an interpreter or a library reads once, when it starts or is loaded."""

NOT_IMPORTED = ("harvester.__main__", "harvester.charts", "harvester.server")
"""The libraries of these import pandas or take long, and few commands need them."""

IMPORTED_LATE = ("anyio._backends._asyncio", "encodings.idna", "filelock", "httpcore")
"""What most commands import as they run: by the first request, the first lock and a host's name."""

START = threading.Lock()

MOST_COMMANDS = 100
"""A process is reused for this many commands, so that its memory does not grow for long."""

_idle: list[socket.socket] = []
"""Reused processes that wait for a command."""

OF_SERVER = """#!{interpreter} -IS
import json, os, socket, sys

channel = socket.socket(socket.AF_UNIX)
channel.connect({address!r})
socket.send_fds(channel, [b"."], [0, 1, 2])
request = {{"arguments": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}}
channel.sendall(json.dumps(request).encode() + b"\\n")
answers = channel.makefile()
answers.readline()
sys.exit(int(answers.readline() or 1))
"""
"""A program that hands its streams, words, variables and folder to the server."""


def own_environment(**variables: str) -> dict[str, str]:
    """The variables of this process but for harvester's own, and some more."""
    known = {name: text for name, text in os.environ.items() if not name.startswith("HARVESTER_")}
    return known | variables


def run_harvester(
    arguments: Sequence[str],
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] = ".",
    input: str = "",  # noqa: A002 - named as in subprocess.run
    timeout: float = 60,
    plan: Plan | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `harvester` with some arguments, as `subprocess.run` would do it with UTF-8 and pipes.

    Args:
        arguments: the words behind the program's name.
        env: its variables.
        cwd: its folder.
        input: what it reads from stdin.
        timeout: the most seconds that it may take.
        plan: what goes wrong in the process, such as the step at which it kills itself.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    words = [str(argument) for argument in arguments]
    if _start_variables(env) != _start_variables(os.environ):
        program = HARVESTER if plan is None else [*DOOMED, plan.text()]
        return run_program([*program, *words], env, cwd, input, timeout)
    with ExitStack() as stack:
        runner = stack.enter_context(_reused_process()) if plan is None else None
        process = ForkedCommand(words, env, cwd, input, plan, runner)
        try:
            out, err = process.communicate(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
    return subprocess.CompletedProcess(words, process.wait(), out, err)


@contextmanager
def _reused_process() -> Iterator[socket.socket]:
    """The socket of a reused process, for one command; started if none waits."""
    process = None
    while _idle and process is None:
        process = _idle.pop()
        # It closes its end before the command's status is known, if it will not be reused.
        if select.select([process], [], [], 0)[0]:
            process.close()
            process = None
    if process is None:
        process, its_end = socket.socketpair()
        with its_end:
            _fork(its_end, [])
        process.sendall(b"{}\n")
        process.recv(100)
    try:
        yield process
    except BaseException:
        process.close()
        raise
    _idle.append(process)


class ForkedCommand:
    """A command in a fork of the server; it has what tests need of `subprocess.Popen`.

    Attributes:
        pid: of the process.
        returncode: its exit status, or the negative number of the signal that ended it; None while
            it runs, or while nobody has asked.
    """

    def __init__(
        self,
        words: Sequence[str],
        env: Mapping[str, str],
        cwd: str | os.PathLike[str] = ".",
        input: str = "",  # noqa: A002 - named as in subprocess.run
        plan: Plan | None = None,
        reused: socket.socket | None = None,
    ) -> None:
        """Start it; the arguments are those of `run_harvester`, and a process to be reused."""
        self._words = list(words)
        self._sent = 0
        self._received = b""
        self.returncode: int | None = None
        request = {
            "arguments": self._words,
            "env": dict(env),
            "cwd": str(Path(cwd).resolve()),
            "plan": "{}" if plan is None else plan.text(),
        }
        with ExitStack() as stack:
            self._channel, its_end = map(stack.enter_context, socket.socketpair())
            streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            streams[0].write(input.encode())
            streams[0].seek(0)
            _fork(its_end, [stream.fileno() for stream in streams], reused)
            its_end.close()
            self._channel.sendall(json.dumps(request).encode() + b"\n")
            while b"\n" not in self._received:
                some = self._channel.recv(100)
                if not some:
                    raise RuntimeError(f"harvester {self._words} ended as it was forked")
                self._received += some
            pid, _, self._received = self._received.partition(b"\n")
            self.pid = int(pid)
            self._out, self._err = streams[1:]
            self._open = stack.pop_all()

    def poll(self) -> int | None:
        """The exit status; None if it still runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit status.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        until_s = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None and b"\n" not in self._received:
            left_s = None if until_s is None else max(until_s - time.monotonic(), 0)
            if not select.select([self._channel], [], [], left_s)[0]:
                raise subprocess.TimeoutExpired(self._words, timeout or 0)
            some = self._channel.recv(100)
            self._received += some
            if not some:
                break
        if self.returncode is None:
            self.returncode = self._status()
        return self.returncode

    def _status(self) -> int:
        if self._received:
            return int(self._received)
        # Its channel is closed as it dies; what it had locked is free once it is dead.
        while _is_alive(self.pid):
            time.sleep(0.0005)
        if self._sent or PREFIX in _text(self._err):
            return -(self._sent or signal.SIGKILL)
        said = _text(self._out) + _text(self._err)
        raise RuntimeError(f"harvester {self._words} ended without a status: {said}")

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; return what it wrote to stdout and stderr.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        self.wait(timeout)
        with self._open:
            return _text(self._out), _text(self._err)

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            self._sent = number
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, if it still runs."""
        self.send_signal(signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def program_of_server(folder: Path) -> Iterator[None]:
    """Have a program `harvester` in a folder while the block runs, for the PATH of shells.

    Args:
        folder: its path must be short enough for a socket's address, which has 107 bytes.
    """
    address = str(folder / "socket")
    program = folder / "harvester"
    program.write_text(OF_SERVER.format(interpreter=sys.executable, address=address))
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        thread = threading.Thread(target=_fork_for_callers, args=[listener])
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _fork_for_callers(listener: socket.socket) -> None:
    """Let the server fork for each program that calls, until the listener is shut down."""
    while True:
        try:
            caller, _ = listener.accept()
        except OSError:
            return
        with caller:
            _, streams, _, _ = socket.recv_fds(caller, 1, 3)
            _fork(caller, streams)
        for stream in streams:
            os.close(stream)


def _fork(
    channel: socket.socket, streams: Sequence[int], reused: socket.socket | None = None
) -> None:
    """Have the server fork a process that reads a request from the channel.

    Args:
        channel: the process's end of it.
        streams: its stdin, stdout and stderr; none for a process that is to be reused.
        reused: a reused process, which does it instead.
    """
    with START:
        socket.send_fds(reused or _server(), [b"."], [channel.fileno(), *streams])


def run_program(
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] = ".",
    input: str = "",  # noqa: A002 - named as in subprocess.run
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever its status; texts are UTF-8."""
    return subprocess.run(
        list(command),
        env=dict(env),
        cwd=cwd,
        input=input,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=timeout,
    )


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _start_variables(env: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in env.items() if name.startswith(READ_AT_START)}


@cache
def _server() -> socket.socket:
    """The socket of this process's server, which ends when the socket is closed."""
    own_end, its_end = socket.socketpair()
    command = [sys.executable, __file__, str(its_end.fileno())]
    with its_end:
        process = subprocess.Popen(command, pass_fds=[its_end.fileno()], stdin=subprocess.DEVNULL)

    def stop() -> None:
        for idle in _idle:
            idle.close()
        own_end.close()
        process.wait()

    atexit.register(stop)
    return own_end


# --- the server -----------------------------------------------------------------------------------


def serve(control: socket.socket) -> None:
    """Fork for each command until the other end of the socket is closed."""
    from harvester.cli import main

    main.use_system_memory()
    import harvester

    for module in pkgutil.walk_packages(harvester.__path__, "harvester."):
        if not module.name.startswith(NOT_IMPORTED):
            import_module(module.name)
    for name in IMPORTED_LATE:
        import_module(name)
    # Nobody waits for the processes of commands.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        if not descriptors:
            return
        if os.fork() == 0:
            control.close()
            _run_forked(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _run_forked(channel_fd: int, *streams: int) -> NoReturn:
    """Run one command, send its exit status, and end; without streams, run many."""
    channel, request = _begin(channel_fd, streams)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not streams:
        _run_many(channel)
    apply_plan(Plan(**json.loads(request.get("plan", "{}"))))
    _end(channel, _status_of_main(request))


def _begin(channel_fd: int, streams: Sequence[int]) -> tuple[socket.socket, dict[str, Any]]:
    """Take over the streams of a command, and read its request."""
    os.set_inheritable(channel_fd, False)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    channel = socket.socket(fileno=channel_fd)
    request = json.loads(channel.makefile("rb").readline())
    # Known only from here on: a process killed before it has read all resets the connection.
    channel.sendall(f"{os.getpid()}\n".encode())
    return channel, request


def _end(channel: socket.socket, status: int) -> NoReturn:
    """End as an interpreter does."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    channel.sendall(f"{status}\n".encode())
    os._exit(status)


def _run_many(control: socket.socket) -> NoReturn:
    """Run commands until the other end of the socket is closed, or a command leaves a thread."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    for left in reversed(range(MOST_COMMANDS)):
        _, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        if not descriptors:
            break
        channel, request = _begin(descriptors[0], descriptors[1:])
        # A new stdin, as the one before has come to its end.
        with (
            channel,
            open(0, encoding="utf-8", closefd=False) as sys.stdin,
            warnings.catch_warnings(),
        ):
            status = _status_of_main(request)
            threads = [thread for thread in threading.enumerate() if not thread.daemon]
            if not left or len(threads) > 1:
                control.close()
                _end(channel, status)
            _forget_command()
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            channel.sendall(f"{status}\n".encode())
    os._exit(0)


def _forget_command() -> None:
    """Undo what a command does to the process, and a user of the Python package can't meet."""
    from harvester.cli import output

    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Its folder may be unmounted.
    os.chdir("/")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger("harvester").handlers.clear()
    output.repeat_in_advice({})
    tempfile.tempdir = None
    gc.unfreeze()


def _status_of_main(request: Mapping[str, Any]) -> int:
    from harvester.cli.main import main

    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.argv = ["-c", *request["arguments"]]
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return (end.code or 0) & 0xFF
        sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - as an interpreter does at its end
        traceback.print_exc()
    else:
        return 0
    return 1


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
