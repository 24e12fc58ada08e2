"""A headless Chromium that is told what to do over a pipe: keys, screens, and what the page then is. Needs bash, and no package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {  # name → (code, virtual key, text)
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    " ": ("Space", 32, " "),
    "Escape": ("Escape", 27, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "End": ("End", 35, ""),
}
SHIFT = 8
COMPLAINTS = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


def found() -> str | None:
    """Where Chromium is, if it is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One page. `folder` is for the browser's profile."""

    def __init__(self, folder: Path, timeout: float = 60.0) -> None:
        program, self.timeout, self.number, self.waiting = found(), timeout, 0, b""
        self.console: list[Any] = []  # what the page that is open said there
        assert program is not None
        theirs, self.to = os.pipe()
        self.of, ours = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command = [program, *flags, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self.process = subprocess.Popen(  # the pipe has to be 3 and 4
            ["bash", "-c", f'exec "$0" "$@" 3<&{theirs} 4>&{ours}', *command],
            pass_fds=(theirs, ours),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(ours)
        self.session: str | None = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self("Emulation.setFocusEmulationEnabled", enabled=True)
        self("Log.enable")
        self("Runtime.enable")

    def __call__(self, method: str, **given: Any) -> Any:
        """The answer to a command of the DevTools protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": given}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + self.timeout
        while True:
            answer = self._next(until)
            if answer.get("method") in COMPLAINTS:
                self.console.append(answer["params"])
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self.waiting:
            ready, _, _ = select.select([self.of], [], [], max(0.0, until - time.monotonic()))
            part = os.read(self.of, 1 << 16) if ready else b""
            if not part:
                raise TimeoutError("Chromium says nothing")
            self.waiting += part
        message, _, self.waiting = self.waiting.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def value(self, expression: str) -> Any:
        """What JavaScript says in the page, as JSON values."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a page of ours, and wait until it has drawn itself."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        wanted = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        self("Emulation.setEmulatedMedia", features=[{"name": n, "value": value} for n, value in wanted.items()])
        self.console.clear()
        self("Page.navigate", url=page.absolute().as_uri())
        until, drawn = time.monotonic() + self.timeout, "document.documentElement?.dataset.drawn || ''"
        while not self.value(f"location.pathname.endsWith({json.dumps(page.name)}) ? {drawn} : ''"):
            assert time.monotonic() < until, f"{page} does not draw itself"
            time.sleep(0.02)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and let go of a key."""
        code, number, text = KEYS[key]
        known = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": SHIFT if shift else 0}
        self("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **known)
        self("Input.dispatchKeyEvent", type="keyUp", **known)

    def screenshot(self, file: Path) -> None:
        """The whole page as PNG."""
        taken = self("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait(30)
        os.close(self.to)
        os.close(self.of)
