# SPDX-License-Identifier: Apache-2.0
"""Controls a headless Chromium over a pair of pipes with the Chrome DevTools Protocol.

Law: without Chromium the tests that need it are skipped with a reason.
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

from tests.limits import WAIT_SECONDS

VARIABLE = "KEDA_GPU_SCALER_TEST_BROWSER"
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def browser_path() -> str:
    """Return the path of Chromium, or skip the test."""
    named = os.environ.get(VARIABLE)
    found = named or next((path for name in _NAMES if (path := shutil.which(name))), None)
    if not found:
        pytest.skip(
            f"Chromium is not installed: install it (Debian: chromium-headless-shell), or set its path in {VARIABLE}"
        )
    return found


class Browser:
    """One page of a browser. ``errors`` holds the messages of its console, its security policy and its scripts."""

    def __init__(self) -> None:
        self._command = browser_path()
        self._number = 0
        self._session = ""
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        child_in, parent_out = os.pipe()
        parent_in, child_out = os.pipe()
        # Chromium uses the descriptors 3 and 4 for the protocol.
        script = f'exec 3<&{child_in} 4>&{child_out} {child_in}<&- {child_out}>&-; exec "$0" "$@"'
        flags = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={self._folder.name}"),
        )
        self._process = subprocess.Popen(
            ("/bin/bash", "-c", script, self._command, *flags),
            pass_fds=(child_in, child_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(child_in)
        os.close(child_out)
        self._out, self._in = os.fdopen(parent_out, "wb", buffering=0), os.fdopen(parent_in, "rb")
        self._messages = self._read()
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
        """Call one method of the protocol, and return its result."""
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters}
        self._out.write(json.dumps(request | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        for answer in self._messages:
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
        raise AssertionError(f"the browser ended before it answered {method}")

    def open(self, url: str) -> None:
        """Load a page, and wait for its load event."""
        self.call("Page.navigate", url=url)
        for message in self._messages:
            if message.get("method") == "Page.loadEventFired":
                return

    def run(self, script: str) -> Any:
        """Return the value of a script. Wait for the result of a promise."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def tree(self) -> list[tuple[str, str]]:
        """Return the role and the name of every node of the accessibility tree, in order, without ignored nodes."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (str(node["role"]["value"]), str((node.get("name") or {}).get("value", "")))
            for node in nodes
            if not node["ignored"]
        ]

    def screenshot(self, path: Path) -> None:
        """Save a picture of the page."""
        import base64

        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def _read(self) -> Iterator[dict[str, Any]]:
        rest = b""
        while chunk := os.read(self._in.fileno(), 1 << 16):
            *texts, rest = (rest + chunk).split(b"\0")
            for text in texts:
                message = json.loads(text)
                self._keep_error(message)
                yield message

    def _keep_error(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Log.entryAdded":
            self.errors.append(message["params"]["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
