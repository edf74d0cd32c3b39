"""Opens a page in headless Chromium and tells all that it complains about and asks for.

Speaks the DevTools protocol over two pipes (file descriptors 3 and 4 of the browser), messages as
JSON that end with a zero byte, so nothing but the standard library is needed.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
TIME_LIMIT_S = 60.0


def find_browser() -> str | None:
    """The browser's program, if this machine has one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Visit:
    """What opening a page came to.

    Attributes:
        complaints: errors and warnings of the console, exceptions, what could not be loaded.
        requests: addresses that were asked for, the page's own left out.
        size: width and height of the laid out page in pixels.
        screenshot: of the whole page, as PNG.
    """

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    size: tuple[float, float] = (0, 0)
    screenshot: bytes = b""


class Browser:
    """A browser that is started for one visit after the other."""

    def __init__(self, program: str, folder: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()

        def as_three_and_four() -> None:
            # By way of numbers that neither pipe has.
            os.dup2(to_browser, 63)
            os.dup2(from_browser, 64)
            os.dup2(63, 3)
            os.dup2(64, 4)

        self._process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=as_three_and_four,
            close_fds=False,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._last_id = 0
        self._visit = Visit()
        self._loaded = False

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def visit(self, address: str, width: int) -> Visit:
        """Open the page in a window of that width."""
        self._visit, self._loaded = Visit(), False
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = {"targetId": target, "flatten": True}
        session = self._call("Target.attachToTarget", attached)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", {}, session)
        screen = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", screen, session)
        self._call("Page.navigate", {"url": address}, session)
        while not self._loaded:
            self._take(self._receive())
        self._call("Runtime.evaluate", {"expression": "0"}, session)
        size = self._call("Page.getLayoutMetrics", {}, session)["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
        picture = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        data = self._call("Page.captureScreenshot", picture, session)["data"]
        self._call("Target.closeTarget", {"targetId": target})
        visit = self._visit
        visit.size, visit.screenshot = (size["width"], size["height"]), base64.b64decode(data)
        visit.requests = [one for one in visit.requests if one != address]
        return visit

    def _call(self, method: str, params: dict, session: str | None = None) -> dict:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer
                return answer["result"]
            self._take(answer)

    def _take(self, message: dict) -> None:
        """Note an event."""
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self._visit.requests.append(params["request"]["url"])
        elif method == "Network.loadingFailed":
            self._visit.complaints.append(params["errorText"])
        elif method == "Runtime.exceptionThrown":
            self._visit.complaints.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self._visit.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self._visit.complaints.append(params["entry"]["text"])

    def _receive(self) -> dict:
        deadline_s = time.monotonic() + TIME_LIMIT_S
        while b"\0" not in self._buffer:
            left_s = deadline_s - time.monotonic()
            assert select.select([self._read], [], [], max(0.0, left_s))[0], "no answer"
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
