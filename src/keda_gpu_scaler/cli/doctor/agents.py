# SPDX-License-Identifier: Apache-2.0
"""Checks the Service that KEDA calls, the agents, and the nodes without an agent."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from keda_gpu_scaler.cli.doctor.endpoints import AgentReply, Health, agent_replies, health
from keda_gpu_scaler.cli.doctor.findings import Finding, Heading, counted, limited, ok, problem, skipped, warning
from keda_gpu_scaler.cli.doctor.installation import (
    MAX_CLOCK_DIFFERENCE_SECONDS,
    ClusterContext,
    clock_difference,
    list_error,
)
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.endpointslices import EndpointSlices
from keda_gpu_scaler.kube.parse import has_accelerators, part
from keda_gpu_scaler.kube.resource_query import ResourceQuery

_MAX_NAMED_NODES = 20
_MAX_NAMED_ADDRESSES = 4


# ---- the Service ----


async def check_service(context: ClusterContext) -> AsyncIterator[Finding]:
    """Resolve the Service's name, and call its health, as KEDA does."""
    host, options = context.installation.host, context.options
    if not options.is_in_cluster:
        text = f"{host} is a name in the cluster only"
        yield skipped("service", text, context.installation.run_in_pod, Heading.NOT_REACHED)
        return
    try:
        addresses = await options.resolve(host)
    except OSError as error:
        text = f"{host} cannot be resolved: {(error.strerror or str(error)).lower()}"
        remedy = "check --service, --namespace and --cluster-domain, then CoreDNS"
        yield problem("service", text, remedy, Heading.NOT_REACHED)
        return
    yield ok("service", f"{host} is {', '.join(addresses[:_MAX_NAMED_ADDRESSES])}")
    yield await _check_service_health(context, addresses[0])


async def _check_service_health(context: ClusterContext, address: str) -> Finding:
    host, options = context.installation.host, context.options
    # The call uses the resolved address, because gRPC resolves names on its own. The certificate must have the name.
    tls = options.tls and replace(options.tls, server_name=options.tls.server_name or host)
    literal = f"[{address}]" if ":" in address else address
    state = await health(f"{literal}:{options.port}", tls)
    name = f"{host}:{options.port}"
    if state is None:
        remedy = (
            "check whether its pods are ready, whether it uses TLS (then set --tls-cert, --tls-key and --tls-ca), and "
            "the NetworkPolicies"
        )
        return problem("service", f"no instance answers at {name}", remedy, Heading.NOT_REACHED)
    if state is Health.NOT_READY:
        return problem("service", f"the instance at {name} is not ready", "see its log", Heading.NO_DEVICE)
    text = f"{name} serves; the ScaledObjects show whether KEDA's namespace has access"
    return ok("service", text)


# ---- the agents ----


async def check_agent_service(context: ClusterContext) -> AsyncIterator[Finding]:
    """Find the agents as an instance finds them."""
    namespace, service = context.installation.namespace, context.installation.agent_service
    slices = EndpointSlices(context.api, namespace, service)
    try:
        async with contextlib.aclosing(slices.addresses()) as listings:  # type: ignore[type-var]
            context.agents = await anext(aiter(listings))
    except KubeError as error:
        text = str(error).removeprefix("--peers: ")
        remedy = "grant access to the endpointslices there (chart: rbac.create)"
        yield problem("agents", text, remedy, Heading.FORBIDDEN)
        return
    name = f"the headless Service {namespace}/{service}"
    if context.agents:
        yield ok("agents", f"{name} has {counted(len(context.agents), 'endpoint')}")
    else:
        remedy = "check --namespace and --service, and whether the DaemonSet has pods"
        yield problem("agents", f"{name} has no endpoint", remedy, Heading.NO_VALUE)


async def check_agents(context: ClusterContext) -> AsyncIterator[Finding]:
    """Get the snapshot of every agent, and check it."""
    if not context.agents:
        return
    options = context.options
    replies = await agent_replies(context.agents, options.tls, options.unix_clock())
    if not options.is_in_cluster and not any(reply.was_reached for reply in replies):
        text = "the addresses of pods are not reachable from here"
        yield skipped("peers", text, context.installation.run_in_pod, Heading.NO_VALUE)
        return
    findings = [
        *_unavailable(replies, context.agents, options.stale_after_seconds),
        *_inconsistent(replies, context.agents),
    ]
    for finding in limited(findings, "peers"):
        yield finding
    working = [reply for reply in replies if not reply.failure and (reply.snapshot or reply.is_deviceless)]
    if working:
        oldest = max(reply.age_seconds for reply in working)
        devices = sum(len(reply.snapshot.samples) for reply in working if reply.snapshot)
        text = f"{len(working)} of {len(replies)} agents report {counted(devices, 'device')}"
        yield ok("peers", f"{text}; the oldest snapshot is {oldest:.1f} s old")


def _unavailable(
    replies: Iterable[AgentReply], nodes: Mapping[str, str], stale_after_seconds: float
) -> Iterator[Finding]:
    """Report agents without a snapshot, and agents with a stale one."""
    for reply in replies:
        name = _agent_name(reply, nodes)
        if reply.failure:
            heading = Heading.NO_DEVICE if reply.was_reached else Heading.NO_VALUE
            yield problem("peers", f"{name}: {reply.failure}", "see its log", heading)
        elif reply.age_seconds > stale_after_seconds:
            text = f"{name}: its snapshot is {reply.age_seconds:.0f} s old (limit {stale_after_seconds:g} s)"
            yield problem("peers", text, "see its log, and check whether its driver hangs", Heading.NO_DEVICE)


def _inconsistent(replies: Iterable[AgentReply], nodes: Mapping[str, str]) -> Iterator[Finding]:
    """Report agents with the name of another node, with a name in common, or with another time."""
    agents_by_node: Counter[str] = Counter()
    for reply in replies:
        if reply.snapshot is None:
            continue
        node = reply.snapshot.node
        agents_by_node[node] += 1
        if (runs_on := nodes[reply.address]) not in ("", node):
            text = f"{reply.address} reports the node name {node}, and it runs on node {runs_on}"
            yield problem("peers", text, "set KEDA_GPU_SCALER_NODE_NAME to spec.nodeName", Heading.NO_VALUE)
        if reply.ahead_seconds is not None and abs(reply.ahead_seconds) > MAX_CLOCK_DIFFERENCE_SECONDS:
            text = f"node {node}: its clock is {clock_difference(reply.ahead_seconds)} this machine's"
            yield warning("peers", text, "synchronize both with NTP", Heading.CLOCKS)
    for node, agents in sorted(agents_by_node.items()):
        if agents > 1:
            text = f"{agents} agents report the node name {node}"
            yield problem("peers", text, "give each machine its own --node-name", Heading.NO_VALUE)


def _agent_name(reply: AgentReply, nodes: Mapping[str, str]) -> str:
    node = nodes.get(reply.address) or (reply.snapshot.node if reply.snapshot else "")
    return f"node {node} ({reply.address})" if node else reply.address


# ---- the nodes ----


async def check_nodes(context: ClusterContext) -> AsyncIterator[Finding]:
    """Find nodes with accelerators and without an agent."""
    if context.agents is None:
        return
    try:
        nodes = await context.api.items(ResourceQuery("nodes"))
    except ApiError as error:
        yield list_error("nodes", "nodes", error)
        return
    with_accelerators = sorted(str(part(node, "metadata").get("name")) for node in nodes if has_accelerators(node))
    without_agent = [node for node in with_accelerators if node not in context.agents.values()]
    if without_agent:
        text = f"{counted(len(without_agent), 'node')} with accelerators and without an agent: {_named(without_agent)}"
        remedy = "correct the nodeSelector or the tolerations in the chart's values"
        yield warning("nodes", text, remedy, Heading.NO_VALUE)
    elif with_accelerators:
        yield ok("nodes", f"each of {counted(len(with_accelerators), 'node')} with accelerators has an agent")
    else:
        yield skipped("nodes", "no node reports an accelerator to Kubernetes: is a device plugin running?")


def _named(nodes: Sequence[str]) -> str:
    return ", ".join(nodes[:_MAX_NAMED_NODES]) + (", …" if len(nodes) > _MAX_NAMED_NODES else "")
