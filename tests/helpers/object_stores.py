"""Object stores on this machine, served from a thread: localbucket, with faults, and moto."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
from engines import REASON

BUCKET = "bucket"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}

Fault = Literal["500", "503", "cut"]
"""An answer of that status, or half of the request is read and the connection closed."""


def no_fault(_method: str, _path: str) -> Fault | None:
    """All is well."""


class Store:
    """A running server of object storage, with one bucket.

    Attributes:
        url: the address of the server.
        folder: the objects as files, where the server keeps them as such.
        requests: the method and the path of each request so far.
        fault: chooses the fault of a request, by its method and path.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        self.fault: Callable[[str, str], Fault | None] = no_fault

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a client finds it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    def writes(self) -> list[str]:
        """What was written or deleted since the last call."""
        found = [f"{method} {path}" for method, path in self.requests if method not in READS]
        self.requests.clear()
        return found


READS = ("GET", "HEAD")


@contextmanager
def localbucket(folder: Path) -> Iterator[Store]:
    """Serve the folder `folder/bucket` as a bucket; a create is atomic in it."""
    module = pytest.importorskip("localbucket", reason=REASON.format("localbucket"))
    base: Any = module.S3Handler

    class Handler(base):  # type: ignore[misc]
        data_root = folder

        def log_message(self, *_words: object) -> None:
            pass

        def parse_request(self) -> bool:
            if not super().parse_request():
                return False
            store.requests.append((self.command, self.path))
            fault = store.fault(self.command, self.path)
            if fault is None:
                return True
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length // 2 if fault == "cut" else length)
            self.close_connection = True
            if fault != "cut":
                self.send_response(int(fault))
                self.send_header("Content-Length", "0")
                self.end_headers()
            return False

    (folder / BUCKET).mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    store = Store(f"http://127.0.0.1:{server.server_port}", folder / BUCKET)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def moto(folder: Path) -> Iterator[Store]:
    """Serve a bucket from memory, as moto does."""
    module = pytest.importorskip("moto.server", reason=REASON.format("moto[server]"))
    server = module.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        store = Store(f"http://{host}:{port}", folder)
        import httpx

        # What it keeps is the process's, whichever of its servers got it.
        httpx.post(f"{store.url}/moto-api/reset").raise_for_status()
        httpx.put(f"{store.url}/{BUCKET}", headers={"Host": f"{host}:{port}"}).raise_for_status()
        yield store
    finally:
        server.stop()


SERVERS = {"localbucket": localbucket, "moto": moto}
