# SPDX-License-Identifier: Apache-2.0
"""A real browser without a window, told what to do over a pair of pipes (the Chrome DevTools Protocol).

The law of this module: where there is no Chromium its tests are skipped, and say so.
"""

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

VARIABLE = "KEDA_GPU_SCALER_TEST_BROWSER"
WAIT_SECONDS = 60.0
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def browser_path() -> str:
    """Find Chromium, or skip the test."""
    named = os.environ.get(VARIABLE)
    found = named or next((path for name in _NAMES if (path := shutil.which(name))), None)
    if not found:
        pytest.skip(f"no Chromium here: install one (Debian: chromium-headless-shell), or name it in {VARIABLE}")
    return found


class Browser:
    """One page of a browser. ``complaints`` holds what its console, its security policy and its scripts object to."""

    def __init__(self) -> None:
        self._command = browser_path()
        self._number = 0
        self._session = ""
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # The protocol speaks on descriptors 3 and 4.
        script = f'exec 3<&{theirs_in} 4>&{theirs_out} {theirs_in}<&- {theirs_out}>&-; exec "$0" "$@"'
        flags = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={self._folder.name}"),
        )
        self._process = subprocess.Popen(
            ("/bin/bash", "-c", script, self._command, *flags),
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb", buffering=0), os.fdopen(ours_in, "rb")
        self._words = self._read()
        self._watchdog = threading.Timer(WAIT_SECONDS, self._process.kill)
        self._watchdog.start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._in.close()
        self._folder.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for one thing, and return the answer."""
        self._number += 1
        word = {"id": self._number, "method": method, "params": parameters}
        self._out.write(json.dumps(word | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        for answer in self._words:
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
        raise AssertionError(f"the browser ended before it answered {method}")

    def open(self, url: str) -> None:
        """Load a page, and wait until it is there."""
        self.call("Page.navigate", url=url)
        for word in self._words:
            if word.get("method") == "Page.loadEventFired":
                return

    def run(self, script: str) -> Any:
        """Return what an expression comes to; of a promise, what it is fulfilled with."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def tree(self) -> list[tuple[str, str]]:
        """Return the accessibility tree in order: each node's role and name, what is ignored left out."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (str(node["role"]["value"]), str((node.get("name") or {}).get("value", "")))
            for node in nodes
            if not node["ignored"]
        ]

    def screenshot(self, path: Path) -> None:
        """Keep what is to be seen, for people."""
        import base64

        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def _read(self) -> Iterator[dict[str, Any]]:
        rest = b""
        while chunk := os.read(self._in.fileno(), 1 << 16):
            *words, rest = (rest + chunk).split(b"\0")
            for text in words:
                word = json.loads(text)
                self._note(word)
                yield word

    def _note(self, word: dict[str, Any]) -> None:
        if word.get("method") == "Log.entryAdded":
            self.complaints.append(word["params"]["entry"]["text"])
        elif word.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(word["params"]["exceptionDetails"]))
