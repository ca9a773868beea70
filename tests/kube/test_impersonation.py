# SPDX-License-Identifier: Apache-2.0
"""Tests that a kubeconfig's user may act for another one, as with kubectl."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from keda_gpu_scaler.kube.auth import ClientConfig, kubeconfig
from keda_gpu_scaler.kube.client import ApiClient
from tests.kube.test_auth import written
from tests.limits import WAIT_SECONDS

EXEC = "client.authentication.k8s.io/v1"
IMPERSONATED = {
    "as": "jane@example",
    "as-uid": "42",
    "as-groups": ["dev", "ops"],
    "as-user-extra": {"example.com/reason": ["drill", "audit"]},
}
HEADERS = (
    ("Impersonate-User", "jane@example"),
    ("Impersonate-Uid", "42"),
    ("Impersonate-Group", "dev"),
    ("Impersonate-Group", "ops"),
    ("Impersonate-Extra-example.com%2Freason", "drill"),
    ("Impersonate-Extra-example.com%2Freason", "audit"),
)


@pytest.mark.parametrize(
    "credential",
    [
        pytest.param({"token": "secret"}, id="with a token"),
        pytest.param({"exec": {"apiVersion": EXEC, "command": "./login"}}, id="with a login plugin"),
    ],
)
def test_the_fields_are_read_as_headers(tmp_path: Path, credential: dict[str, Any]) -> None:
    answer = {"apiVersion": EXEC, "kind": "ExecCredential", "status": {"token": "secret"}}
    login = tmp_path / "login"
    login.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    login.chmod(0o700)
    found = kubeconfig(written(tmp_path, user=credential | IMPERSONATED), tmp_path, runs_plugins=True)
    assert (found.bearer_token(), found.impersonation) == ("secret", HEADERS)


def test_a_user_without_these_fields_acts_for_nobody(tmp_path: Path) -> None:
    assert kubeconfig(written(tmp_path, user={"token": "secret", "as": ""}), tmp_path).impersonation == ()


def test_every_request_has_the_headers() -> None:
    received: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    async def work() -> None:
        listener = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with listener, asyncio.timeout(WAIT_SECONDS):
            url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            api = ApiClient(ClientConfig(url, "default", impersonation=HEADERS))
            assert await api.get("/version") == {}
            await api.close()

    asyncio.run(work())
    assert [line for line in received if line.startswith("Impersonate-")] == [": ".join(one) for one in HEADERS]
