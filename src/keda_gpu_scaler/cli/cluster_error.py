# SPDX-License-Identifier: Apache-2.0
"""Prints why the cluster cannot be used, and what a person at a shell can do about it."""

from collections.abc import Mapping
from types import MappingProxyType

from keda_gpu_scaler.cli.output import say, say_error
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import ApiError

NOT_ACCEPTED = "the credentials have expired or are not valid: log in again, then check with: kubectl auth whoami"
"""The remedy where the API server accepts no credentials."""

_ADVICE: Mapping[int, str] = MappingProxyType(
    {
        0: "check the network and the address in the kubeconfig: kubectl cluster-info",
        401: NOT_ACCEPTED,
        403: "use an account that may do it (--context or --kubeconfig), or ask for the right; what yours may do: "
        "kubectl auth can-i --list --namespace NAMESPACE",
    }
)


def say_cluster_error(error: KubeError) -> None:
    """Print the sentence of an error, and below it the next step where the sentence has none."""
    say_error(str(error))
    if isinstance(error, ApiError) and (advice := _ADVICE.get(error.status)):
        say(advice, err=True)
