"""A headless Chromium for the tests of pages, driven over its DevTools protocol; tests are skipped where there is none.

It runs as a process of its own with a profile of its own, and may reach nothing but the files it is given.
"""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
_LONGEST_S = 30.0


class Browser:
    """One page of a browser.

    Attributes:
        requested: Addresses that the page asked for, its own first.
        complaints: What it wrote to the console as warnings or errors, and exceptions.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: WebSocketClientConnection) -> None:
        self._loop, self._connection, self._numbers = loop, connection, itertools.count(1)
        self.requested: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and note what happens meanwhile."""
        return self._loop.run_until_complete(asyncio.wait_for(self._exchange(method, parameters), _LONGEST_S))

    def open(self, path: Path, width: int = 1280, height: int = 1000, dark: bool = False) -> None:
        """Open a file as a screen of some size shows it, and wait until its viewer is there."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.requested.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Give the value of some JavaScript."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until some JavaScript is true."""
        ends = time.monotonic() + _LONGEST_S
        while not self.evaluate(expression):
            assert time.monotonic() < ends, f"never true: {expression}"
            time.sleep(0.02)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write what the screen shows, or the whole page, as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def print(self, path: Path) -> None:
        """Write the page as PDF."""
        printed = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        path.write_bytes(base64.b64decode(printed["data"]))

    async def _exchange(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._connection.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            text = await self._connection.read_message()
            assert text is not None, "the browser has ended"
            message = json.loads(text)
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.complaints.append(str([each.get("value") for each in parameters["args"]]))
        elif method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])


@contextmanager
def start_browser() -> Iterator[Browser]:
    """Start a browser, and end it."""
    assert PROGRAM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        command = [PROGRAM, *options, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        loop = asyncio.new_event_loop()
        try:
            connection = loop.run_until_complete(_connect(Path(profile) / "DevToolsActivePort"))
            yield Browser(loop, connection)
            connection.close()
        finally:
            process.terminate()
            process.wait()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


async def _connect(port_file: Path) -> WebSocketClientConnection:
    ends = time.monotonic() + _LONGEST_S
    while not (port_file.is_file() and (lines := port_file.read_text().splitlines())):
        assert time.monotonic() < ends, "the browser did not start"
        await asyncio.sleep(0.05)
    with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
        (page,) = (each for each in json.loads(answer.read()) if each["type"] == "page")
    return await websocket_connect(page["webSocketDebuggerUrl"], max_message_size=1 << 28)
