# SPDX-License-Identifier: Apache-2.0
"""The synthetic gateway of the demonstration: a page on loopback with the requests in flight.

A gateway counts requests also while no replica runs, so that the workload can wake from zero.
"""

import http.server
import threading
from types import TracebackType
from typing import Self

SERIES = "synthetic_requests_in_flight"
HOST = "127.0.0.1"
_READS = 2


class GatewayPage:
    """Serves the page for the time of a ``with`` block.

    The scaler reads the page again and again. When it begins to read the same load a second time, it has processed the
    first reading: ``wait_until_read`` waits for this.
    """

    def __init__(self) -> None:
        self._read = threading.Condition()
        self._requests = 0
        self._reads = 0
        self._server = http.server.ThreadingHTTPServer((HOST, 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The page's URL."""
        return f"http://{HOST}:{self._server.server_address[1]}/metrics"

    def set_requests(self, requests: int) -> None:
        """Set the requests in flight."""
        with self._read:
            self._requests, self._reads = requests, 0

    def wait_until_read(self, timeout_seconds: float) -> bool:
        """Wait until the present load has been read and processed; return whether it was in time."""
        with self._read:
            return self._read.wait_for(lambda: self._reads >= _READS, timeout_seconds)

    def _page(self) -> bytes:
        with self._read:
            self._reads += 1
            self._read.notify_all()
            return f"# TYPE {SERIES} gauge\n{SERIES} {self._requests}\n".encode()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        gateway = self

        class PageHandler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                page = gateway._page()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_: object) -> None:
                """Write no log."""

        return PageHandler
