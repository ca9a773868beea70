# SPDX-License-Identifier: Apache-2.0
"""Runs the checks of a cluster in their order, and checks the API server and its clock.

Law: the checks call the same addresses as an instance does. A check of an address that
this machine cannot reach is skipped, and is not reported as a problem.
"""

from collections.abc import AsyncIterator, Callable

from keda_gpu_scaler.cli.doctor.agents import check_agent_service, check_agents, check_nodes, check_service
from keda_gpu_scaler.cli.doctor.findings import Finding, Heading, ok, problem, skipped, warning
from keda_gpu_scaler.cli.doctor.installation import (
    MAX_CLOCK_DIFFERENCE_SECONDS,
    ClusterContext,
    ClusterOptions,
    Installation,
    clock_difference,
)
from keda_gpu_scaler.cli.doctor.keda import check_keda
from keda_gpu_scaler.cli.doctor.permissions import check_permissions
from keda_gpu_scaler.cli.doctor.scaledobjects import check_scaled_objects
from keda_gpu_scaler.kube.access_review import AccessReviewer
from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.kube.client import ApiError


async def check_cluster(
    access: ClientConfig, installation: Installation, options: ClusterOptions, on_check: Callable[[str], object]
) -> AsyncIterator[Finding]:
    """Make every check of a cluster, one after the other.

    Args:
        access: the API server and the credentials.
        installation: the names of the installation.
        options: how the instances are reached.
        on_check: called with the title of each check before it is made.

    Raises:
        KubeError: the certificates of the access cannot be used.
    """
    api = AccessReviewer(access)
    try:
        context = ClusterContext(api, access.server, installation, options)
        for title, check in _CHECKS:
            on_check(title)
            async for finding in check(context):
                yield finding
            if not context.is_reachable:
                return
    finally:
        await api.close()


async def _check_api_server(context: ClusterContext) -> AsyncIterator[Finding]:
    """Read the API server's version and time."""
    try:
        info = await context.api.server_info(context.options.unix_clock)
    except ApiError as error:
        context.is_reachable = False
        remedy = "check the access from this machine: NetworkPolicies, a VPN, the server in the kubeconfig"
        yield problem("api", str(error), remedy, Heading.UNAVAILABLE)
        return
    yield ok("api", f"{info.version} at {context.server}")
    ahead = info.ahead_seconds
    if ahead is None:
        yield skipped("clock", "the API server's response has no time")
    elif abs(ahead) - info.doubt_seconds > MAX_CLOCK_DIFFERENCE_SECONDS:
        text = f"this machine's clock is {clock_difference(ahead)} the API server's"
        yield warning("clock", text, "synchronize both with NTP: the ages of pods depend on them", Heading.CLOCKS)
    else:
        yield ok("clock", "this machine's clock and the API server's agree")


_CHECKS: tuple[tuple[str, Callable[[ClusterContext], AsyncIterator[Finding]]], ...] = (
    ("calling the API server", _check_api_server),
    ("looking for KEDA", check_keda),
    ("reading ScaledObjects", check_scaled_objects),
    ("reviewing the permissions", check_permissions),
    ("calling the Service", check_service),
    ("looking for the agents", check_agent_service),
    ("calling the agents", check_agents),
    ("comparing with the nodes", check_nodes),
)
