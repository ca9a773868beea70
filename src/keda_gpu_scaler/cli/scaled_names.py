# SPDX-License-Identifier: Apache-2.0
"""Prints the names of ScaledObjects and ScaledJobs that complete a word, one a line.

Law: a completion has a limit of time, which counts for everything: a login plugin, the name of the API server, and the
server itself. So they run in a process of their own, which is ended with its children. An error prints nothing.
"""

import asyncio
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keda_gpu_scaler.cli.kube_session import access_of, is_configured
from keda_gpu_scaler.cli.output import say
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import METADATA_LIST_ONLY, ApiClient, ApiError
from keda_gpu_scaler.kube.parse import is_name, part
from keda_gpu_scaler.kube.resource_query import ResourceQuery

LIMIT_SECONDS = 2.0
"""The longest time that a completion takes."""
MAX_OBJECTS = 500
"""The number of objects of each kind that are read: one page."""

_KEDA = ("keda.sh", "v1alpha1")


def completed_names(incomplete: str, kubeconfig: str | None, context: str | None, limit_seconds: float) -> list[str]:
    """Return the names that begin with a word: NAME in the namespace of the access, and NAMESPACE/NAME.

    Without the right to list the objects of all namespaces, these are NAMESPACE/ and the names in one namespace.

    Args:
        incomplete: the word.
        kubeconfig: that of ``--kubeconfig``.
        context: that of ``--context``.
        limit_seconds: after this time there are none.
    """
    if not is_configured(kubeconfig, context):
        return []
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-P", "-m", __name__, incomplete, kubeconfig or "", context or "", scratch]
        with subprocess.Popen(command, text=True, start_new_session=True, **streams) as process:  # noqa: S603 - this program
            try:
                output, _ = process.communicate(timeout=limit_seconds)
            except subprocess.TimeoutExpired:
                return []
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
    return output.splitlines() if process.returncode == 0 else []


async def _names(api: ApiClient, incomplete: str, own_namespace: str) -> set[str]:
    namespace, slash, _ = incomplete.rpartition("/")
    if slash:
        return await _qualified(api, namespace) if is_name(namespace) else set()
    try:
        found = await _qualified(api, "")
    except ApiError:
        found = await _namespaces(api) | await _qualified(api, own_namespace)
    own = f"{own_namespace}/"
    return found | {name.removeprefix(own) for name in found if name.startswith(own)} - {""}


async def _qualified(api: ApiClient, namespace: str) -> set[str]:
    """Return NAMESPACE/NAME of each object; raise ApiError where neither kind can be listed."""
    queries = [ResourceQuery(resource, *_KEDA, namespace) for resource in ("scaledobjects", "scaledjobs")]
    outcomes = await asyncio.gather(*(_read(api, query) for query in queries), return_exceptions=True)
    lists = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    if not lists:
        raise next(outcome for outcome in outcomes if isinstance(outcome, BaseException))
    return {f"{one['namespace']}/{one['name']}" for found in lists for one in found if _is_named(one)}


async def _namespaces(api: ApiClient) -> set[str]:
    """Return NAMESPACE/ of each one; none where they cannot be listed."""
    try:
        found = await _read(api, ResourceQuery("namespaces"))
    except ApiError:
        return set()
    return {f"{one['name']}/" for one in found if is_name(str(one.get("name")))}


async def _read(api: ApiClient, query: ResourceQuery) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    parameters = {"limit": str(MAX_OBJECTS), **query.parameters}
    await api.read_list(query.path, parameters, METADATA_LIST_ONLY, lambda item: found.append(part(item, "metadata")))
    return found


def _is_named(metadata: Mapping[str, Any]) -> bool:
    return is_name(str(metadata.get("namespace"))) and is_name(str(metadata.get("name")))


async def print_names(incomplete: str, kubeconfig: str, context: str, scratch: str) -> None:
    """Print the names; raise KubeError where there is no access, or they cannot be listed.

    Args:
        incomplete: the word.
        kubeconfig: that of ``--kubeconfig``, empty for the default.
        context: that of ``--context``, empty for the current one.
        scratch: a folder for the files that TLS reads.
    """
    access = access_of(kubeconfig or None, Path(scratch), context or None)
    api = ApiClient(access)
    try:
        names = await _names(api, incomplete, access.namespace)
    finally:
        await api.close()
    for name in sorted(names):
        if name.startswith(incomplete):
            say(name)


if __name__ == "__main__":
    signal.alarm(2 * math.ceil(LIMIT_SECONDS))  # also where the shell ends the completion and not this process
    try:
        asyncio.run(print_names(*sys.argv[1:]))
    except KubeError:
        sys.exit(1)
