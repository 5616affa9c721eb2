"""A headless Chromium, driven over the DevTools protocol."""

from __future__ import annotations

import base64
import collections
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",  # OpenGL without a graphics card
    "--enable-unsafe-swiftshader",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--mute-audio",
    "--window-size=900,700",
)
PATIENCE = 60.0  # s, for anything that a page is waited for


def executable() -> str | None:
    """Where it is; None = it is not installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._count = socket, 0
        self.errors: list[str] = []  # that scripts threw
        self.addresses: list[str] = []  # that it asked for

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; raises RuntimeError where the browser refuses it."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = self._hear()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def resize(self, width: int, height: int) -> None:
        """As large as that, px."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def open(self, url: str) -> None:
        """Goes to an address, and waits until the page is loaded."""
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        while self._hear().get("method") != "Page.loadEventFired":
            pass

    def _hear(self) -> dict[str, Any]:
        """The next thing that the browser says; errors and addresses are noted."""
        said = json.loads(self._socket.recv(timeout=PATIENCE))
        method, parameters = said.get("method"), said.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Network.requestWillBeSent":
            self.addresses.append(parameters["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.addresses.append(parameters["url"])
        return said

    def evaluate(self, script: str) -> Any:
        """The value of a script, a promise's when it is kept; raises RuntimeError as it throws."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screenshot(self) -> np.ndarray:
        """[H, W, 3] int, RGB."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        return picture[..., ::-1].astype(int)

    def text_where(self, wanted: Callable[[str], bool]) -> str:
        """The page's text, once something holds for it; fails where it never does."""
        end = time.monotonic() + PATIENCE
        while True:
            text = str(self.evaluate("document.body.innerText"))
            if wanted(text):
                return text
            left = end - time.monotonic()
            assert left > 0, text
            self._wait_for_change(text, min(left, PATIENCE / 2))

    def _wait_for_change(self, text: str, seconds: float) -> None:
        """Until the page says so that it has changed since its text was this, or so long."""
        self.evaluate(
            f"""new Promise(done => {{
                if (document.body.innerText !== {json.dumps(text)}) return done();
                const seen = new MutationObserver(() => {{ seen.disconnect(); done(); }});
                const all = {{subtree: true, childList: true, characterData: true}};
                seen.observe(document.body, {{...all, attributes: true}});
                setTimeout(done, {1000 * seconds});
            }})"""
        )

    def click(self, label: str) -> None:
        """Clicks the button with this text."""
        buttons = "[...document.querySelectorAll('button')]"
        found = f"{buttons}.find(b => b.innerText.trim() === {json.dumps(label)})"
        self.evaluate(f"{found}.click()")

    def tick(self, label: str) -> None:
        """Clicks the check box beside this text."""
        self.evaluate(
            f"""(() => {{
                const leaves = [...document.querySelectorAll('*')].filter(e => !e.children.length);
                let near = leaves.find(e => e.textContent.trim() === {json.dumps(label)});
                const box = 'input[type=checkbox]';
                while (!near.querySelector(box)) near = near.parentElement;
                near.querySelector(box).click();
            }})()"""
        )

    def picture_where(self, wanted: Callable[[np.ndarray], bool]) -> np.ndarray:
        """The first screenshot of which something holds; the last one after some time."""
        end = time.monotonic() + PATIENCE
        picture = self.screenshot()
        while not wanted(picture) and time.monotonic() < end:
            picture = self.screenshot()
        return picture


class Chromium:
    """A browser that runs."""

    def __init__(self, address: str, group: int) -> None:
        self._address = address  # of its own websocket
        self._group = group  # of its processes

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Does nothing more, while its connections stay open, inside of a `with` block."""
        os.killpg(self._group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._group, signal.SIGCONT)

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A new tab, with cookies that no other tab has."""
        from websockets.sync.client import connect

        options: Any = {"max_size": None, "proxy": None, "ping_interval": None}
        with connect(self._address, **options) as socket:
            browser = Page(socket)
            context = browser.call("Target.createBrowserContext")["browserContextId"]
            target = browser.call(
                "Target.createTarget", url="about:blank", browserContextId=context
            )["targetId"]
            base = self._address.partition("/devtools/")[0]
            with connect(f"{base}/devtools/page/{target}", **options) as page:
                yield Page(page)
            browser.call("Target.disposeBrowserContext", browserContextId=context)


@contextmanager
def chromium(folder: Path) -> Iterator[Chromium]:
    """Starts one with its profile in an empty folder; ends it after the `with` block."""
    program = executable()
    assert program is not None
    process = subprocess.Popen(
        [program, *OPTIONS, f"--user-data-dir={folder / 'profile'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # a process group of its own
    )
    assert process.stderr is not None
    mark = "DevTools listening on "
    line = next((line for line in process.stderr if mark in line), None)
    if line is None:
        pytest.skip(f"{program} does not start")
    rest = threading.Thread(target=collections.deque, args=(process.stderr, 0))
    rest.start()  # or what it says would fill the pipe
    try:
        yield Chromium(line.partition(mark)[2].strip(), process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        rest.join()
        process.stderr.close()
