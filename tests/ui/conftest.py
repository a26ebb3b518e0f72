"""A real headless Chromium, for pages that people look at.

Taken from ``$CHROMIUM`` or ``PATH``; where there is none these tests are skipped and say so, and ``make matrix
ENV=browser`` installs one or fails. It is spoken to by its DevTools protocol over two pipes, which needs no package.
"""

from __future__ import annotations

import base64
import json
import os
import runpy
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

FINDER = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "chromium.py"))
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)
PATIENCE_S = 15.0
# The protocol wants its pipes at 3 and 4; a hook before exec would not be allowed beside threads.
PIPES = """
import os, sys
reading, writing = (os.dup(int(number)) for number in sys.argv[1:3])
free = os.dup(reading), os.dup(writing)
os.dup2(free[0], 3), os.dup2(free[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEYS = {"Tab": 9, "Enter": 13}


class Browser:
    """A running Chromium; one thread."""

    def __init__(self, program: str, profile: Path) -> None:
        """Start *program* with a new *profile*."""
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        command = [sys.executable, "-c", PIPES, str(commands), str(answers), program, *FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(commands, answers),
        )
        os.close(commands)
        os.close(answers)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        """What pages told since somebody cleared it."""

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Return the result of a command of the protocol, for a page where *session* is given."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        text = json.dumps({**message, "sessionId": session} if session else message)
        os.write(self._out, text.encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return cast("dict[str, Any]", answer["result"])
            self.events.append(answer)

    def wait_for(self, event: str, session: str) -> dict[str, Any]:
        """Return the next event of a page, which may be there already."""
        while True:
            for number, message in enumerate(self.events):
                if (message.get("method"), message.get("sessionId")) == (event, session):
                    return self.events.pop(number)
            self.events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._in, 2**20) if ready else b""
            assert part, f"Chromium {'ended' if ready else 'does not answer'}"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return cast("dict[str, Any]", json.loads(line))

    def close(self) -> None:
        """End it."""
        os.close(self._out)
        os.close(self._in)
        self._process.kill()
        self._process.wait(PATIENCE_S)


class Page:
    """The one tab of a test: of several one alone would be drawn."""

    def __init__(self, browser: Browser) -> None:
        """Open it, empty."""
        self.browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session: str = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Close it."""
        self.browser.call("Target.closeTarget", targetId=self._target)

    def forbid_scripts(self) -> None:
        """Run no script of a page from now on."""
        self.call("Emulation.setScriptExecutionDisabled", value=True)

    def look_like(self, *, width: int, dark: bool) -> None:
        """Be *width* CSS pixels wide, a telephone below 500, and prefer a dark or a light page."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a command of the protocol for this tab."""
        return self.browser.call(method, self._session, **params)

    def open(self, url: str) -> Page:
        """Go to *url* and return when all of it is loaded."""
        self.browser.events.clear()
        answer = self.call("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        return self.wait()

    def wait(self) -> Page:
        """Return when the page that is being opened is loaded."""
        self.browser.wait_for("Page.loadEventFired", self._session)
        return self

    def evaluate(self, expression: str) -> Any:
        """Return what JavaScript says."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def asked(self) -> list[str]:
        """Return the addresses that were asked since the page was opened."""
        sent = [item for item in self.browser.events if item.get("method") == "Network.requestWillBeSent"]
        return [item["params"]["request"]["url"] for item in sent]

    def complaints(self) -> list[str]:
        """Return what the browser found wrong since the page was opened, such as a breach of the page's policy."""
        entries = [item["params"]["entry"] for item in self.browser.events if item.get("method") == "Log.entryAdded"]
        return [f"{entry['level']}: {entry['text']}" for entry in entries]

    def press(self, key: str) -> None:
        """Press a key of ``KEYS``."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=KEYS[key], **text)

    def picture(self, file: Path, *, height: int = 800) -> None:
        """Write what is seen, from the top of the page to at most *height*, as PNG."""
        box = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": box["width"], "height": min(box["height"], height), "scale": 1}
        data = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(data))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a Chromium."""
    program = FINDER["find"]()
    if program is None:
        pytest.skip(f"none of {', '.join(FINDER['NAMES'])} is on PATH; 'make matrix ENV=browser' installs one")
    made = Browser(program, tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Return an empty tab."""
    made = Page(browser)
    yield made
    made.close()
