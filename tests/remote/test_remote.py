# SPDX-License-Identifier: Apache-2.0
"""Tests of what is checked at the start, and of what is opened or imported only when it is needed."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keda_gpu_scaler.config import Config
from keda_gpu_scaler.remote import Remote, RemoteError

SETTINGS: dict[str, Any] = {"node_name": "gpu-7", "kubeconfig": "off", "peers": "none"}


def remote(**settings: Any) -> Remote:
    return Remote(Config(**{**SETTINGS, **settings}), "instance")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        pytest.param({"allow_endpoints": ""}, '--allow-endpoints: Invalid value: "": must be', id="an empty list"),
        pytest.param(
            {"allow_endpoints": "10.0.0.1/8"},
            '--allow-endpoints: Invalid value: "10.0.0.1/8": must be a network',
            id="a network with host bits",
        ),
        pytest.param(
            {"endpoint_credentials": "missing"},
            '--endpoint-credentials: Invalid value: "missing": no such file or directory',
            id="a missing directory of credentials",
        ),
        pytest.param({"peers": "static:x"}, '--peers: Invalid value: "x": must be HOST:PORT', id="an invalid peer"),
        pytest.param({"peers": "kubernetes"}, "--peers: Invalid value: kubernetes needs", id="peers without a cluster"),
        pytest.param({"kubeconfig": "missing"}, "cannot read missing: No such file", id="no kubeconfig"),
        pytest.param(
            {"peers": "static:10.0.0.7:6000", "tls_cert": "tls.crt", "tls_key": "tls.key"},
            "--tls-ca: Required value",
            id="peers without a CA",
        ),
    ],
)
def test_an_invalid_setting_is_an_error_at_the_start(
    settings: dict[str, str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RemoteError, match=re.escape(sentence)):
        remote(**settings)


def test_an_invalid_secret_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    with pytest.raises(RemoteError, match=f"{re.escape(str(tmp_path))}/vllm/hosts: Required value"):
        remote(endpoint_credentials=str(tmp_path))


def test_peers_are_followed_from_the_first_interest_on() -> None:
    async def run() -> None:
        it = remote(peers="static:127.0.0.1:1")
        assert it.peers is not None
        await it.peers.wait_for_sync()
        it.expire_idle()
        assert (it.peers.is_open, it.has_frequent_news) == (False, False)
        assert (it.peers.histories(), it.peers.unavailable(), it.peer_counts().followed) == ({}, {}, 0)
        it.peers.register_interest(10.0)
        assert (it.peers.is_open, it.has_frequent_news) == (True, True)
        await it.peers.wait_for_sync()
        assert it.peer_counts().followed == 1
        assert it.peers.unavailable().keys() == {"127.0.0.1:1"}
        await it.close()

    asyncio.run(run())


IDLE = """
import json, sys
from keda_gpu_scaler import agent
from keda_gpu_scaler.config import Config
from keda_gpu_scaler.devices.none import NoneBackend

async def main():
    config = Config(node_name="gpu-7", kubeconfig="off", peers="static:127.0.0.1:1", **json.loads(sys.argv[1]))
    agent.Agent(config, NoneBackend())

import asyncio
asyncio.run(main())
print(json.dumps(list(sys.modules)))
"""
WHEN_NEEDED = {
    "keda_gpu_scaler.engines",
    "keda_gpu_scaler.peers.client",
    "keda_gpu_scaler.scrape.address_policy",
    "keda_gpu_scaler.scrape.credentials",
    "keda_gpu_scaler.scrape.manager",
    "keda_gpu_scaler.kube.client",
    "keda_gpu_scaler.server.external_scaler",
    "keda_gpu_scaler.server.metrics",
    "keda_gpu_scaler.server.status_page",
}


def imported(**settings: str) -> set[str]:
    """Return the modules that an instance has imported before its first call."""
    command = [sys.executable, "-c", IDLE, json.dumps(settings)]
    return set(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def test_an_instance_that_keda_does_not_call_imports_nothing_that_only_calls_and_pages_need() -> None:
    assert not WHEN_NEEDED & imported()


def test_the_rules_for_endpoints_are_imported_at_the_start_where_a_setting_needs_them() -> None:
    assert "keda_gpu_scaler.scrape.address_policy" in imported(allow_endpoints="10.0.0.0/8")
