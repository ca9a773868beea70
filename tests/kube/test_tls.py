# SPDX-License-Identifier: Apache-2.0
"""Tests of TLS to the API server: it works where asyncio has no ssl, and checks the server's name."""

import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.limits import WAIT_SECONDS

OPENSSL = shutil.which("openssl")
CLIENT = """
import sys
from keda_gpu_scaler.cli import main
main.get_command(None, "serve")
assert "ssl" not in sys.modules
import asyncio
from pathlib import Path
from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.kube.client import ApiError, ApiClient

async def run():
    api = ApiClient(ClientConfig(sys.argv[1], "gpu", ca_data=Path(sys.argv[2]).read_text()))
    try:
        print((await api.get("/version"))["gitVersion"])
        async with api.watch("/watch", {}, seconds=30) as events:
            print([event["type"] async for event in events])
    except ApiError as error:
        print(error)
    await api.close()

asyncio.run(run())
"""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        event = b'{"type": "ADDED", "object": {}}\n'
        self.wfile.write(b'{"gitVersion": "v1.33"}' if self.path == "/version" else 2 * event + b'{"type": "half')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if OPENSSL is None:
        pytest.skip("no openssl command to make a certificate with")
    path = tmp_path / "server.pem"
    subject = ("-subj", "/CN=api", "-addext", "subjectAltName=DNS:localhost")
    made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-keyout", path, "-out", path)
    subprocess.run([OPENSSL, *made], check=True, capture_output=True)
    return path


@pytest.fixture
def port(certificate: Path) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def output(url: str, certificate: Path) -> str:
    command = [sys.executable, "-c", CLIENT, url, str(certificate)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAIT_SECONDS).stdout


def test_tls_works_although_asyncio_was_imported_without_it(port: int, certificate: Path) -> None:
    assert output(f"https://localhost:{port}", certificate) == "v1.33\n['ADDED', 'ADDED']\n"


def test_a_certificate_for_another_name_is_refused(port: int, certificate: Path) -> None:
    assert "certificate verify failed" in output(f"https://127.0.0.1:{port}", certificate)
