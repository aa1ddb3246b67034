"""A real browser without a window, for tests: what it shows, says on its console, and asks for."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)

QUIET = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-features=OptimizationHints,MediaRouter,Translate,IsolateSandboxedIframes",
]
"""As little as can be of the browser's own goes to the network."""

WATCH = """
<script>
window.addEventListener('error', function (one) { note('error: ' + one.message); });
window.addEventListener('securitypolicyviolation', function (one) {
  note('refused: ' + one.violatedDirective + ' ' + one.blockedURI);
});
var noted = [];
function note(text) { noted.push(text); }
</script>
"""
REPORT = """
<script>
(async function () {
  function pause(ms) { return new Promise(function (go) { setTimeout(go, ms); }); }
  var returned = {};
  try { returned = await (async function () { %s })(); } catch (fault) { note('thrown: ' + fault); }
  var place = document.createElement('pre');
  place.id = 'returned';
  place.textContent = JSON.stringify({returned: returned, noted: noted, loaded:
    performance.getEntriesByType('resource').map(function (one) { return one.name; })});
  document.body.appendChild(place);
})();
</script>
"""


OWN = re.compile(r"[/ .](google|googleapis|gvt1)\.com[:/]")
"""Whom a browser calls of itself, whatever page is open."""


class Seen(NamedTuple):
    """What came of a page.

    Attributes:
        returned: what the test's script returned.
        noted: faults of scripts, and what the page's policy refused.
        console: lines on the console.
        asked: what was asked of the network, by a proxy in between.
        loaded: what the page says that it loaded.
    """

    returned: Any
    noted: list[str]
    console: list[str]
    asked: list[str]
    loaded: list[str]


class Proxy:
    """Takes every call that a browser makes to any host, notes it, and answers nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(5)
                try:
                    words = caller.recv(4096).decode(errors="replace")
                    if not words:  # hung up before a word: nobody was asked for anything
                        continue
                    self.asked.append(words.split("\r\n")[0])
                    caller.sendall(b"HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n")
                except OSError as error:
                    self.asked.append(f"a call that broke: {error}")


def look(page: str, folder: Path, script: str, size: tuple[int, int] = (1280, 800)) -> Seen:
    """Open a page from a file, run a script in it, and return the result."""
    # The one way in which a page could call somebody without a word.
    assert "preconnect" not in page
    file = folder / "page.html"
    file.write_text(
        page.replace("<body>", f"<body>{WATCH}", 1).replace("</body>", f"{REPORT % script}</body>"),
        encoding="utf-8",
    )
    with Proxy() as proxy:
        done = _run(folder, size, proxy.address, "--dump-dom", file.as_uri())
    found = re.search(r'<pre id="returned">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    returned = json.loads(unescape(found[1]))
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    asked = [address for address in proxy.asked if not OWN.search(address)]
    return Seen(returned["returned"], returned["noted"], console, asked, returned["loaded"])


BAR = 143
"""So much lower than the window is what a page gets of it."""


def shoot(page: str, folder: Path, image: Path, size: tuple[int, int]) -> None:
    """Keep what a page looks like."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    with Proxy() as proxy:
        _run(
            folder,
            (size[0], size[1] + BAR),
            proxy.address,
            f"--screenshot={image}",
            file.as_uri(),
        )


def _run(
    folder: Path, size: tuple[int, int], proxy: str, *more: str
) -> subprocess.CompletedProcess[str]:
    assert PROGRAM is not None
    return subprocess.run(
        [
            PROGRAM,
            *QUIET,
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={size[0]},{size[1]}",
            f"--proxy-server={proxy}",
            "--proxy-bypass-list=<-loopback>",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            *more,
        ],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=120,
    )
