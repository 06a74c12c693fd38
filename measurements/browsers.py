"""Chromium and Firefox without a window, driven with the standard library only.

Chromium speaks the DevTools protocol through two pipes, Firefox speaks Marionette on a local port;
both are parts of the browsers. Used by `make bench-web` and by the tests.

>>> with start_browser("chromium") as browser:  # doctest: +SKIP
...     browser.open("file:///tmp/page.html")
...     browser.evaluate("document.title")
"""

from __future__ import annotations

import fcntl
import functools
import http.server
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BROWSERS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
# Seconds for the start of a browser, and for one answer.
START_SECONDS, ANSWER_SECONDS = 30.0, 120.0
CHROMIUM_OPTIONS = (
    *("--headless", "--remote-debugging-pipe", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-dev-shm-usage", "--use-fake-device-for-media-stream"),
)
FIREFOX_SETTINGS = {
    "app.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.disable_open_during_load": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
}


class BrowserError(RuntimeError):
    """A browser did not start or answer, or a script in a page failed."""


def executable_of(name: str) -> str | None:
    """Path of an installed browser; None if it is missing."""
    return next((path for command in BROWSERS[name] if (path := shutil.which(command))), None)


class Browser(ABC):
    """A browser with one page.

    Attributes:
        requests: Addresses that the page has asked for since it was opened, without those of
            `file:`, `data:` and `blob:`.
    """

    @property
    @abstractmethod
    def requests(self) -> list[str]:
        """See the class."""

    @abstractmethod
    def open(self, address: str) -> None:
        """Opens an address, and waits until the page is loaded."""

    @abstractmethod
    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited, as JSON gives it.

        Raises:
            BrowserError: If it throws.
        """

    @abstractmethod
    def choose(self, selector: str, files: Sequence[Path]) -> None:
        """Chooses files for an input element, as a user does in its dialog."""


@contextmanager
def start_browser(name: str) -> Iterator[Browser]:
    """Starts a browser with an empty profile, and ends it after the block.

    Args:
        name: `chromium` or `firefox`.

    Raises:
        BrowserError: If it is not installed or does not start.
    """
    path = executable_of(name)
    if path is None:
        raise BrowserError(f"{name} is not installed; install the package {BROWSERS[name][0]}")
    with tempfile.TemporaryDirectory(prefix="anomaly_tf-", ignore_cleanup_errors=True) as profile:
        kind = Chromium if name == "chromium" else Firefox
        browser = kind(path, Path(profile))
        try:
            yield browser
        finally:
            browser.close()


class Chromium(Browser):
    """Chromium over the DevTools protocol.

    Args:
        path: The program.
        profile: An empty folder.
    """

    def __init__(self, path: str, profile: Path) -> None:
        to_browser, from_browser = os.pipe(), os.pipe()
        # Chromium reads from descriptor 3 and writes to 4, which may be in use here.
        given = [
            fcntl.fcntl(number, fcntl.F_DUPFD, 10) for number in (to_browser[0], from_browser[1])
        ]
        silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
        moved = [
            (os.POSIX_SPAWN_DUP2, own, number) for own, number in zip(given, (3, 4), strict=True)
        ]
        root = ("--no-sandbox",) if os.geteuid() == 0 else ()  # which root must not use
        self._process = os.posix_spawn(
            path,
            [path, *CHROMIUM_OPTIONS, *root, f"--user-data-dir={profile}", "about:blank"],
            os.environ,
            file_actions=[*silent, *moved],
            setsid=True,
        )
        for number in (to_browser[0], from_browser[1], *given):
            os.close(number)
        self._write, self._read = to_browser[1], from_browser[0]
        self._number, self._unread, self._session = 0, b"", ""
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the DevTools protocol for the page."""
        return self._call(method, self._session, **parameters)

    @property
    def requests(self) -> list[str]:
        """As `Browser.requests`."""
        self.call("Runtime.evaluate", expression="0")  # so that all earlier events have come
        asked = (
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        )
        return [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]

    def open(self, address: str) -> None:
        """As `Browser.open`."""
        self._events.clear()
        answer = self.call("Page.navigate", url=address)
        if "errorText" in answer:
            raise BrowserError(f"{address}: {answer['errorText']}")
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._message(time.monotonic() + ANSWER_SECONDS))

    def evaluate(self, expression: str) -> Any:
        """As `Browser.evaluate`."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            reason = details.get("exception", {}).get("description") or details["text"]
            raise BrowserError(f"{expression[:80]}: {reason}")
        return answer["result"].get("value")

    def choose(self, selector: str, files: Sequence[Path]) -> None:
        """As `Browser.choose`."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def close(self) -> None:
        """Ends the browser."""
        os.close(self._write)
        os.close(self._read)
        with suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)

    def _call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._write, content) :]
        end = time.monotonic() + ANSWER_SECONDS
        while (answer := self._message(end)).get("id") != self._number:
            self._events.append(answer)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _message(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            part = os.read(self._read, 2**20) if ready else b""
            if not part:
                raise BrowserError("Chromium ended" if ready else "no answer from Chromium")
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


class Firefox(Browser):
    """Firefox over Marionette.

    Args:
        path: The program.
        profile: An empty folder.
    """

    def __init__(self, path: str, profile: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = FIREFOX_SETTINGS | {"marionette.port": port}
        lines = (f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in settings.items())
        (profile / "user.js").write_text("\n".join(lines), "utf-8")
        self._process = subprocess.Popen(
            [path, "--headless", "--marionette", "--no-remote", "--profile", str(profile)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._socket = self._connected(port)
        self._unread, self._number = b"", 0
        self._message()  # the greeting
        self._call("WebDriver:NewSession", {})
        self._call("WebDriver:SetTimeouts", {"script": int(1000 * ANSWER_SECONDS)})

    def _connected(self, port: int) -> socket.socket:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
            except OSError as error:
                if time.monotonic() > end or self._process.poll() is not None:
                    self._end()
                    raise BrowserError(f"Firefox does not start ({error})") from error
                time.sleep(0.05)

    @property
    def requests(self) -> list[str]:
        """As `Browser.requests`."""
        asked = self.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
        return [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]

    def open(self, address: str) -> None:
        """As `Browser.open`."""
        self._call("WebDriver:Navigate", {"url": address})

    def evaluate(self, expression: str) -> Any:
        """As `Browser.evaluate`."""
        script = f"""
            const done = arguments[0];
            (async () => ({expression}))().then(
                (value) => done({{ value: value === undefined ? null : value }}),
                (error) => done({{ error: String(error.stack ? error + error.stack : error) }}));
        """
        # Without a sandbox, because only the page itself sees its variables.
        answer = self._call(
            "WebDriver:ExecuteAsyncScript", {"script": script, "args": [], "sandbox": None}
        )["value"]
        if "error" in answer:
            raise BrowserError(f"{expression[:80]}: {answer['error']}")
        return answer["value"]

    def choose(self, selector: str, files: Sequence[Path]) -> None:
        """As `Browser.choose`."""
        found = self._call("WebDriver:FindElement", {"using": "css selector", "value": selector})
        (element,) = found["value"].values()
        text = "\n".join(str(file) for file in files)
        self._call("WebDriver:ElementSendKeys", {"id": element, "text": text})

    def close(self) -> None:
        """Ends the browser."""
        self._socket.close()
        self._end()

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _call(self, command: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        content = json.dumps([0, self._number, command, parameters]).encode()
        self._socket.sendall(f"{len(content)}:".encode() + content)
        while (answer := self._message())[1] != self._number:
            pass
        if answer[2]:
            raise BrowserError(f"{command}: {answer[2].get('message', answer[2])}")
        return answer[3] or {}

    def _message(self) -> Any:
        while b":" not in self._unread:
            self._unread += self._received()
        length, _, rest = self._unread.partition(b":")
        while len(rest) < int(length):
            rest += self._received()
        self._unread = rest[int(length) :]
        return json.loads(rest[: int(length)])

    def _received(self) -> bytes:
        try:
            part = self._socket.recv(2**20)
        except TimeoutError as error:
            raise BrowserError("no answer from Firefox") from error
        if not part:
            raise BrowserError("Firefox ended")
        return part


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Logs nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder on this machine during the block; yields its address."""
    handler = functools.partial(_Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
