# SPDX-License-Identifier: Apache-2.0
"""How does a command at a shell reach a cluster, and an instance in it?

The law of this module: commands wait for it, so that they need no event loop of their own; whatever cannot be had is a
``KubeError``, whose text is a sentence.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import click

from keda_gpu_scaler.kube.auth import ClientConfig, in_cluster, kubeconfig, service_account
from keda_gpu_scaler.kube.port_forward import PortForwarder
from keda_gpu_scaler.kube.scaler_discovery import ScalerPod, find_scaler, hpa, scaled

_PATIENCE_SECONDS = 1.0

Result = TypeVar("Result")


def access_of(path: str | None, scratch: Path) -> ClientConfig:
    """Return the access that was asked for: a kubeconfig's, the pod's own, or the one that kubectl would use.

    Raises:
        KubeError: there is none, or it cannot be used.
    """
    if path is None and in_cluster():
        return service_account()
    return kubeconfig(Path(path or usual_kubeconfig()), scratch, runs_plugins=True)


def usual_kubeconfig() -> Path:
    """Return the kubeconfig that kubectl would use."""
    return Path(os.environ.get("KUBECONFIG", "").split(os.pathsep)[0] or Path.home() / ".kube" / "config")


def is_reachable(path: str | None) -> bool:
    """Whether there is a way to a cluster at all, good or bad."""
    return path is not None or in_cluster() or usual_kubeconfig().exists()


class KubeSession:
    """A cluster that is asked one thing after the other, while its ``with`` block lasts.

    ``namespace`` is the one that the access is in.

    Args:
        path: a kubeconfig; None for the pod's own access, or what kubectl would use.

    Raises:
        KubeError: on entering, when the access cannot be used.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._forwards: list[contextlib.AsyncExitStack] = []
        self.namespace = "default"

    def __enter__(self) -> Self:
        # The files that TLS wants are read at once: nothing of them needs to stay.
        with tempfile.TemporaryDirectory() as scratch:
            access = access_of(self._path, Path(scratch))
            self._api = PortForwarder(access)
        self.namespace = access.namespace
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()
        self._wait(self._api.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def failure(self) -> str:
        """Why the forwarded connection cannot be had, empty while it can."""
        return self._api.failure

    def scaled(self, namespace: str, name: str) -> dict[str, Any]:
        """Return a ScaledObject or ScaledJob.

        Raises:
            KubeError: there is none.
        """
        return self._wait(scaled(self._api, namespace, name))

    def hpa(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a HorizontalPodAutoscaler, None where it cannot be read."""
        return self._wait(hpa(self._api, namespace, name))

    def instance(self, scaler_address: str, namespace: str) -> ScalerPod:
        """Find an instance of ours.

        Raises:
            KubeError: there is none.
        """
        return self._wait(find_scaler(self._api, scaler_address, namespace))

    def forward(self, instance: ScalerPod) -> str:
        """Return an address of this machine that is the instance's, until ``hang_up``.

        Raises:
            KubeError: the API server refuses.
        """
        stack = contextlib.AsyncExitStack()
        port = self._wait(stack.enter_async_context(self._api.forward(instance.namespace, instance.pod, instance.port)))
        self._forwards.append(stack)
        return f"127.0.0.1:{port}"

    def hang_up(self) -> None:
        """End every forwarded connection."""
        while self._forwards:
            self._wait(self._forwards.pop().aclose())

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@contextlib.contextmanager
def patience(text: str) -> Iterator[None]:
    """Say on a terminal what takes so long, after a second, and wipe it away when it is done."""
    if not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(_PATIENCE_SECONDS, lambda: click.echo(f"\r{text} …", nl=False, err=True))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        click.echo(f"\r{' ' * (len(text) + 2)}\r", nl=False, err=True)
