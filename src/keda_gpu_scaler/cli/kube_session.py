# SPDX-License-Identifier: Apache-2.0
"""Gives a command access to a cluster and to an instance in it, with blocking calls.

Law: every problem with the cluster is a ``KubeError``, whose text is a sentence.
"""

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.auth import ClientConfig, in_cluster, kubeconfig, service_account
from keda_gpu_scaler.kube.port_forward import PortForwarder
from keda_gpu_scaler.kube.scaler_discovery import ScalerPod, explain_port, find_scaler, hpa, scaled

Result = TypeVar("Result")


def access_of(path: str | None, scratch: Path, context: str | None = None) -> ClientConfig:
    """Return the access to a cluster: of this kubeconfig, or else of the pod, or else of the file that kubectl uses.

    Args:
        path: the kubeconfig; None for one of the others.
        scratch: a directory for the files that TLS reads.
        context: the context of the kubeconfig; None for its current one. A pod's own access has no context.

    Raises:
        KubeError: there is no access, or it cannot be used.
    """
    if is_own_pod(path, context):
        return service_account()
    files = (Path(path),) if path is not None else default_kubeconfigs()
    if not files:
        raise KubeError("--kubeconfig: Required value: HOME is not set, so there is no default; or set KUBECONFIG")
    return kubeconfig(files[0], scratch, runs_plugins=True, context=context or "", others=files[1:])


def is_own_pod(path: str | None, context: str | None = None) -> bool:
    """Whether the access is the service account of the pod that the command runs in."""
    return path is None and context is None and in_cluster()


def default_kubeconfigs() -> tuple[Path, ...]:
    """Return the files that kubectl uses; none where neither a variable nor the user's entry names a home.

    The variable KUBECONFIG may list several. Those that do not exist are left out, unless none exists.
    """
    named = tuple(Path(name) for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name)
    if named:
        return tuple(path for path in dict.fromkeys(named) if path.exists()) or named[:1]
    try:
        return (Path.home() / ".kube" / "config",)
    except RuntimeError:  # HOME is not set, and the user has no entry in the system's list of users
        return ()


def is_configured(path: str | None, context: str | None = None) -> bool:
    """Whether there is an access to a cluster, valid or not."""
    if path is not None or context is not None or in_cluster():
        return True
    return any(file.exists() for file in default_kubeconfigs())


class KubeSession:
    """A connection to a cluster for the time of a ``with`` block. An event loop in a thread makes the calls.

    ``namespace`` is the default namespace of the access.

    Args:
        path: the kubeconfig; None for the pod's own access, or for the file that kubectl uses.
        context: the context of the kubeconfig; None for its current one.

    Raises:
        KubeError: on entering, when the access cannot be used.
    """

    def __init__(self, path: str | None, context: str | None = None) -> None:
        self._path = path
        self._context = context
        self._forwards: list[contextlib.AsyncExitStack] = []
        self.namespace = "default"

    def __enter__(self) -> Self:
        # The HTTP client reads the TLS files now, so the directory is not needed later.
        with tempfile.TemporaryDirectory() as scratch:
            access = access_of(self._path, Path(scratch), self._context)
            self._api = PortForwarder(access)
        self._access = access
        self.namespace = access.namespace
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_forwards()
        self._run(self._api.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def failure(self) -> str:
        """Why the port-forward does not work; empty while it works."""
        return self._api.failure

    def scaled(self, namespace: str, name: str) -> dict[str, Any]:
        """Return a ScaledObject or ScaledJob.

        Raises:
            KubeError: it does not exist, or cannot be read.
        """
        return self._run(scaled(self._api, namespace, name))

    def hpa(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a HorizontalPodAutoscaler; None where it cannot be read."""
        return self._run(hpa(self._api, namespace, name))

    def instance(self, scaler_address: str, namespace: str) -> ScalerPod:
        """Find an instance of the scaler.

        Args:
            scaler_address: a trigger's; empty to find an instance by its label.
            namespace: where to look; empty for every namespace.

        Raises:
            KubeError: there is none.
        """
        return self._run(find_scaler(self._api, scaler_address, namespace))

    def explain_port(self, instance: ScalerPod) -> int | None:
        """Return the port on which an instance gives explanations to people with a token; None where it has none."""
        return self._run(explain_port(self._api, instance))

    def bearer_token(self) -> str:
        """Return the token of the access; empty where it has none, such as with a client certificate.

        Raises:
            KubeError: the token's file cannot be read.
        """
        return self._access.bearer_token()

    def forward(self, instance: ScalerPod) -> str:
        """Return a local address that is forwarded to the instance, until ``close_forwards``.

        Raises:
            KubeError: the API server refuses.
        """
        stack = contextlib.AsyncExitStack()
        port = self._run(stack.enter_async_context(self._api.forward(instance.namespace, instance.pod, instance.port)))
        self._forwards.append(stack)
        return f"127.0.0.1:{port}"

    def close_forwards(self) -> None:
        """Close every forwarded connection."""
        while self._forwards:
            self._run(self._forwards.pop().aclose())

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
