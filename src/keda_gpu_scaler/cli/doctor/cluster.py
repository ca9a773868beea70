# SPDX-License-Identifier: Apache-2.0
"""Does the cluster let us work? Rights, agents and their clocks, the Service, KEDA, and the ScaledObjects that name us.

The law of this module: it asks what an instance asks, of the same addresses, and what cannot be reached from where it
runs is skipped, not called broken.

Facts about KEDA are of 2.20: the labels of its operator's Deployment, and the conditions of its objects.
"""

import asyncio
import contextlib
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from keda_gpu_scaler.cli.doctor.endpoints import Health, Peer, health, peers
from keda_gpu_scaler.cli.doctor.findings import (
    Finding,
    Findings,
    Looked,
    Outcome,
    ok,
    parted,
    problem,
    skipped,
    warning,
)
from keda_gpu_scaler.cli.validate.rules import Severity
from keda_gpu_scaler.cli.validate.rules import check as check_manifest
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.access_review import AccessReviewer, Permission
from keda_gpu_scaler.kube.auth import ClientConfig
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.endpointslices import EndpointSlices
from keda_gpu_scaler.kube.parse import (
    condition,
    first_image,
    has_accelerators,
    is_name,
    labels,
    part,
    trigger_metadata,
)
from keda_gpu_scaler.kube.reflector import ResourceQuery
from keda_gpu_scaler.kube.scaler_discovery import DEFAULT_PORT, ScalerService, scaler_service
from keda_gpu_scaler.wire.tls import ClientTls

SKEW_SECONDS = 5.0
"""A clock that is this far off is worth a word: pods' ages are judged by it, in tens of seconds."""
FLOAT_FIELDS_SINCE = (2, 17)
MOST_LINES = 20
"""Of one kind of finding; more are counted."""

GRANTED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("keda.sh", "scaledobjects", ("list", "watch")),
    ("keda.sh", "scaledjobs", ("list", "watch")),
    ("", "pods", ("list", "watch")),
    ("apps", "deployments", ("list", "watch")),
    ("apps", "statefulsets", ("list", "watch")),
    ("apps", "deployments/scale", ("get",)),
    ("apps", "statefulsets/scale", ("get",)),
    ("", "events", ("create",)),
)
"""What the chart grants in the namespaces of workloads: group, resource, verbs."""
GRANTED_ON_NODES = ("", "nodes", ("list", "watch"))
GRANTED_BESIDE_US = ("discovery.k8s.io", "endpointslices", ("list", "watch"))

_API, _CLOCKS, _RIGHTS = "getmetrics-fails-unavailable", "clocks-differ", "the-api-server-denies-access"
_UNSEEN, _REACH, _NO_DEVICE = "pods-have-no-value", "keda-does-not-reach-the-scaler", "an-agent-reads-no-device"
_KEDA, _WORKLOADS, _METADATA = (
    "keda-is-old-or-not-ready",
    "a-scaledobject-is-not-ready",
    "getmetrics-fails-invalid_argument",
)
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:\.\d+)?\b", re.ASCII)
_FORBIDDEN, _NOT_FOUND = 403, 404
_GRAVITY = list(Outcome)


@dataclass(frozen=True, slots=True)
class Installation:
    """Where we are installed, as the chart calls it: ``service`` is its fullname; and where workloads are."""

    namespace: str = "keda"
    service: str = "keda-gpu-scaler"
    cluster_domain: str = "cluster.local"
    workload_namespaces: tuple[str, ...] = ()

    @property
    def agents(self) -> str:
        """The headless Service of the agents."""
        return f"{self.service}-agents"

    @property
    def host(self) -> str:
        """The host of a scalerAddress."""
        return f"{self.service}.{self.namespace}.svc.{self.cluster_domain}"

    @property
    def from_within(self) -> str:
        """How to run this in a pod."""
        exec_ = f"kubectl -n {self.namespace} exec svc/{self.service}"
        return f"ask from within: {exec_} -- keda-gpu-scaler doctor --cluster"

    def is_named_by(self, address: str, service: str) -> bool:
        """Whether a scalerAddress means one of our Services; a name without a namespace is of KEDA's own."""
        return scaler_service(address) in (ScalerService(service), ScalerService(service, self.namespace))


@dataclass(frozen=True, slots=True)
class World:
    """What is outside of the API server; tests bring their own.

    ``is_inside`` says whether we run in a pod of the cluster; ``port`` is the Service's.
    """

    is_inside: bool
    tls: ClientTls | None = None
    stale_after_seconds: float = 10.0
    unix_clock: Callable[[], float] = time.time
    resolve: Callable[[str], Awaitable[Sequence[str]]] = lambda host: _resolve(host)
    port: int = DEFAULT_PORT


async def examine(
    access: ClientConfig, installation: Installation, world: World, say: Callable[[str], object]
) -> AsyncIterator[Finding]:
    """Make every check of a cluster, one after the other.

    Args:
        access: the API server, and as whom it is asked.
        installation: where we are installed.
        world: everything else.
        say: told the title of each check before it is made.

    Raises:
        KubeError: the certificates of the access cannot be used.
    """
    api = AccessReviewer(access)
    try:
        cluster = _Cluster(api, access, installation, world)
        for title, look in (
            ("asking the API server", cluster.greeted),
            ("looking for KEDA", cluster.keda),
            ("reading ScaledObjects", cluster.workloads),
            ("reviewing the rights", cluster.rights),
            ("looking for the Service", cluster.reach),
            ("looking for the agents", cluster.agents),
            ("asking the agents", cluster.peers),
            ("comparing with the nodes", cluster.nodes),
        ):
            say(title)
            async for finding in look():
                yield finding
            if not cluster.is_there:
                return
    finally:
        await api.close()


class _Cluster:
    """The checks; each may know what those before it found."""

    def __init__(self, api: AccessReviewer, access: ClientConfig, installation: Installation, world: World) -> None:
        self._api = api
        self._access = access
        self._here = installation
        self._world = world
        self._scaled: list[Mapping[str, Any]] = []
        self._addresses: Mapping[str, str] = {}
        self._are_addresses_known = False
        self.is_there = True

    # ---- the API server ----

    async def greeted(self) -> Looked:
        """Ask for its version and the time."""
        try:
            greeting = await self._api.server_info(self._world.unix_clock)
        except ApiError as error:
            self.is_there = False
            remedy = "see whether this machine reaches it: NetworkPolicies, a VPN, the kubeconfig's server"
            yield problem("api", str(error), remedy, _API)
            return
        yield ok("api", f"{greeting.version} at {self._access.server}")
        ahead = greeting.ahead_seconds
        if ahead is None:
            yield skipped("clock", "the API server does not tell what time it is there")
        elif abs(ahead) - greeting.doubt_seconds > SKEW_SECONDS:
            text = f"this machine's clock is {_off(ahead)} the API server's"
            yield warning("clock", text, "keep both right with NTP: pods' ages are judged by them", _CLOCKS)
        else:
            yield ok("clock", "this machine's clock and the API server's agree")

    # ---- KEDA ----

    async def keda(self) -> Looked:
        """Find KEDA's operator, its version, and whether it is up."""
        try:
            operators = await self._operators()
        except ApiError as error:
            yield self._unlisted("keda", "Deployments", error)
            return
        if not operators:
            text = "no Deployment of KEDA's operator is found by its labels (app: keda-operator)"
            yield warning("keda", text, "install KEDA 2.17 or later, if it is not there under other labels", _KEDA)
        for operator in operators:
            for finding in _operator(operator):
                yield finding

    async def _operators(self) -> Sequence[Mapping[str, Any]]:
        for label in ("app.kubernetes.io/name=keda-operator", "app=keda-operator"):
            if found := await self._api.items(ResourceQuery("deployments", "apps", labels=label)):
                return found
        return ()

    async def workloads(self) -> Looked:
        """Read the ScaledObjects that name us, and what KEDA says of each."""
        try:
            self._scaled = [one async for one in self._named()]
        except ApiError as error:
            if error.status == _NOT_FOUND:
                text = "the API server knows no ScaledObjects"
                yield problem("workloads", text, "install KEDA, with its CustomResourceDefinitions", _KEDA)
            else:
                yield self._unlisted("workloads", "ScaledObjects", error)
            return
        if not self._scaled:
            remedy = "write one: docs/reference/trigger.md has its keys, deploy/examples some to begin with"
            yield skipped("workloads", f"no ScaledObject names {self._here.host}", remedy)
            return
        found = [finding for one in self._scaled for finding in self._workload(one)]
        for finding in _shortened(found, "workloads"):
            yield finding
        ready = sum(_condition(one, "Ready") == "True" for one in self._scaled)
        active = sum(_condition(one, "Active") == "True" for one in self._scaled)
        if ready:
            text = f"{ready} of {len(self._scaled)} ScaledObjects that name us are ready, {active} active"
            yield ok("workloads", text)

    async def _named(self) -> AsyncIterator[Mapping[str, Any]]:
        for namespace in self._here.workload_namespaces or ("",):
            for one in await self._api.items(ResourceQuery("scaledobjects", "keda.sh", "v1alpha1", namespace)):
                if any(True for _ in self._addresses_in(one)):
                    yield one

    def _addresses_in(self, scaled: Mapping[str, Any]) -> Iterator[str]:
        for metadata in trigger_metadata(scaled):
            address = str(metadata.get("scalerAddress") or "")
            names = (self._here.service, self._here.agents)
            if any(self._here.is_named_by(address, name) for name in names):
                yield address

    def _workload(self, scaled: Mapping[str, Any]) -> Findings:
        title = _title(scaled)
        for address in self._addresses_in(scaled):
            if self._here.is_named_by(address, self._here.agents):
                text = f"{title}: scalerAddress {address} is the agents' headless Service: KEDA asks each in turn"
                yield problem("workloads", text, f"name {self._here.host}:{self._world.port}", _REACH)
        yield from _as_written(scaled, title)
        # What KEDA has not looked at yet is "Unknown": of Ready alone that is worth a word.
        for kind, wrong, text, remedy in (
            ("Ready", ("False", "Unknown"), "KEDA does not call it ready", "ask KEDA: kubectl describe scaledobject"),
            ("Paused", ("True",), "it is paused", "take KEDA's annotation away when it is to scale again"),
            ("Fallback", ("True",), "KEDA uses its fallback: we give no answer", "ask why with probe"),
        ):
            if _condition(scaled, kind) in wrong:
                make, said = problem if kind == "Ready" else warning, _said(scaled, kind)
                yield make("workloads", f"{title}: {text}{f': {said}' if said else ''}", remedy, _WORKLOADS)

    # ---- rights ----

    async def rights(self) -> Looked:
        """Review every right that the chart grants, and those on the scale targets that are in use."""
        allowed, lacking = 0, list[Finding]()
        who = "" if self._world.is_inside else f"{self._here.namespace}:{self._here.service}"
        try:
            for wanted, is_needed in self._wanted():
                missing = [right for right in wanted if not await self._api.is_allowed(right, who)]
                allowed += len(wanted) - len(missing)
                lacking += [finding async for finding in self._instead(missing, is_needed, who)]
        except ApiError as error:
            if error.status != _FORBIDDEN:
                yield problem("rights", str(error), "see the API server's log", _RIGHTS)
                return
            yield skipped("rights", f"you may not ask what {who} may", self._here.from_within, _RIGHTS)
            return
        for finding in _shortened(lacking, "rights"):
            yield finding
        name = f"service account {self._here.service} of {self._here.namespace}" if who else "whoever asks here"
        if allowed:
            yield ok("rights", f"{name} has {_number(allowed, 'right')} of those that are needed")

    def _wanted(self) -> Iterator[tuple[list[Permission], bool]]:
        """Yield groups of rights, and whether an answer needs them."""
        for group, resource, verbs in (*GRANTED, *self._targets()):
            yield [Permission(verb, resource, group) for verb in verbs], True
        group, resource, verbs = GRANTED_BESIDE_US
        yield [Permission(verb, resource, group, self._here.namespace) for verb in verbs], True
        group, resource, verbs = GRANTED_ON_NODES
        is_used = any(_uses_node_selector(one) for one in self._scaled)
        yield [Permission(verb, resource, group) for verb in verbs], is_used

    def _targets(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Yield the kinds of scale targets in use that are not granted anyway."""
        kinds = {
            (str(found.get("group") or ""), str(found.get("resource") or ""))
            for found in (part(part(one, "status"), "scaleTargetGVKR") for one in self._scaled)
        }
        known = {(group, resource) for group, resource, _ in GRANTED}
        for group, resource in sorted(kinds - known):
            if is_name(resource):
                yield group, resource, ("list", "watch")
                yield group, f"{resource}/scale", ("get",)

    async def _instead(self, missing: Sequence[Permission], is_needed: bool, who: str) -> Looked:
        """Say what is lacking; what is not granted in the whole cluster may be in each namespace."""
        if not missing:
            return
        first = missing[0]
        if first.resource == "nodes":
            text, remedy = f"may not {_several(missing)}", "let it read nodes' labels (chart: rbac.nodes)"
            if is_needed:
                yield problem("rights", f"{text}, and a trigger has a nodeSelector", remedy, _RIGHTS)
            else:
                yield skipped("rights", f"{text}, which triggers with a nodeSelector alone need", remedy, _RIGHTS)
            return
        remedy = "grant them (chart: rbac.create)"
        if first.group not in ("", "apps", "keda.sh", "discovery.k8s.io"):
            remedy = f"add {first.kind.partition('/')[0]} (chart: rbac.scaleTargets)"
        # Without events everything is answered all the same.
        make = warning if first.resource == "events" else problem
        if first.namespace:
            yield make("rights", f"may not {_several(missing)}", remedy, _RIGHTS)
            return
        namespaces = self._namespaces()
        if not namespaces:
            yield make("rights", f"may not {_several(missing)}", f"{remedy}, or name --workloads-in", _RIGHTS)
        for namespace in namespaces:
            there = [replace(right, namespace=namespace) for right in missing]
            if lacking := [right for right in there if not await self._api.is_allowed(right, who)]:
                yield make("rights", f"may not {_several(lacking)}", remedy, _RIGHTS)

    def _namespaces(self) -> Sequence[str]:
        found = {str(part(one, "metadata").get("namespace") or "") for one in self._scaled}
        return sorted({*self._here.workload_namespaces, *found} - {""})

    # ---- the Service ----

    async def reach(self) -> Looked:
        """Resolve the Service's name and ask at it, as KEDA does."""
        host = self._here.host
        if not self._world.is_inside:
            yield skipped("service", f"{host} is a name within the cluster", self._here.from_within, _REACH)
            return
        try:
            addresses = await self._world.resolve(host)
        except OSError as error:
            text = f"{host} cannot be resolved: {(error.strerror or str(error)).lower()}"
            yield problem("service", text, "see --service, --namespace and --cluster-domain, then CoreDNS", _REACH)
            return
        yield ok("service", f"{host} is {', '.join(addresses[:4])}")
        # At what was resolved, and by the name that KEDA knows: it resolves for itself, too.
        tls = self._world.tls and replace(self._world.tls, server_name=self._world.tls.server_name or host)
        near = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        state = await health(f"{near}:{self._world.port}", tls)
        if state is None:
            text = f"nothing of ours answers at {host}:{self._world.port}"
            remedy = "see whether its pods are ready, whether it speaks TLS (name --tls-cert, --tls-key and --tls-ca), "
            yield problem("service", text, f"{remedy}and NetworkPolicies", _REACH)
        elif state is Health.NOT_READY:
            text = f"what answers at {host}:{self._world.port} is not ready"
            yield problem("service", text, "see its log: it says what it waits for", _NO_DEVICE)
        else:
            yield ok(
                "service",
                f"{host}:{self._world.port} serves; whether KEDA's namespace is let in shows in its ScaledObjects",
            )

    # ---- the agents ----

    async def agents(self) -> Looked:
        """Find the agents as an instance finds them."""
        place = f"{self._here.namespace}/{self._here.agents}"
        slices = EndpointSlices(self._api, self._here.namespace, self._here.agents)
        try:
            async with contextlib.aclosing(slices.addresses()) as listings:  # type: ignore[type-var]
                self._addresses = await anext(aiter(listings))
        except KubeError as error:
            text = str(error).removeprefix("--peers: ")
            yield problem("agents", text, "let endpointslices be read there (chart: rbac.create)", _RIGHTS)
            return
        self._are_addresses_known = True
        if self._addresses:
            yield ok("agents", f"the headless Service {place} has {_number(len(self._addresses), 'endpoint')}")
        else:
            remedy = "see --namespace and --service, and whether the DaemonSet has pods"
            yield problem("agents", f"the headless Service {place} has no endpoint", remedy, _UNSEEN)

    async def peers(self) -> Looked:
        """Ask every agent for its snapshot."""
        if not self._addresses:
            return
        told = await peers(self._addresses, self._world.tls, self._world.unix_clock())
        if not self._world.is_inside and not any(peer.was_reached for peer in told):
            yield skipped("peers", "pods' addresses are not reached from here", self._here.from_within, _UNSEEN)
            return
        for finding in _shortened([*self._unavailable(told), *self._odd(told)], "peers"):
            yield finding
        seen = [peer for peer in told if not peer.silence and (peer.snapshot or peer.is_deviceless)]
        if seen:
            oldest = max(peer.age_seconds for peer in seen)
            devices = sum(len(peer.snapshot.samples) for peer in seen if peer.snapshot)
            text = f"{len(seen)} of {len(told)} agents tell {_number(devices, 'device')}"
            yield ok("peers", f"{text}; the oldest snapshot is {oldest:.1f} s old")

    def _unavailable(self, told: Iterable[Peer]) -> Findings:
        limit = self._world.stale_after_seconds
        for peer in told:
            name = _name(peer, self._addresses)
            if peer.silence:
                heading = _NO_DEVICE if peer.was_reached else _UNSEEN
                yield problem("peers", f"{name}: {peer.silence}", "see its log", heading)
            elif peer.age_seconds > limit:
                text = f"{name}: its snapshot is {peer.age_seconds:.0f} s old (limit {limit:g} s)"
                yield problem("peers", text, "see its log, and whether its driver hangs", _NO_DEVICE)

    def _odd(self, told: Iterable[Peer]) -> Findings:
        names: Counter[str] = Counter()
        for peer in told:
            if peer.snapshot is None:
                continue
            node = peer.snapshot.node
            names[node] += 1
            if (runs_on := self._addresses[peer.address]) not in ("", node):
                text = f"{peer.address} says that it is node {node}, and it runs on node {runs_on}"
                yield problem("peers", text, "pass spec.nodeName to it as KEDA_GPU_SCALER_NODE_NAME", _UNSEEN)
            if peer.ahead_seconds is not None and abs(peer.ahead_seconds) > SKEW_SECONDS:
                text = f"node {node}: its clock is {_off(peer.ahead_seconds)} this machine's"
                yield warning("peers", text, "keep both right with NTP", _CLOCKS)
        for node, count in sorted(names.items()):
            if count > 1:
                text = f"{count} agents say that they are node {node}"
                yield problem("peers", text, "give each machine a --node-name of its own", _UNSEEN)

    async def nodes(self) -> Looked:
        """Look for nodes with accelerators and without an agent."""
        if not self._are_addresses_known:
            return
        try:
            nodes = await self._api.items(ResourceQuery("nodes"))
        except ApiError as error:
            yield self._unlisted("nodes", "nodes", error)
            return
        with_gpu = sorted(str(part(node, "metadata").get("name")) for node in nodes if has_accelerators(node))
        without = [node for node in with_gpu if node not in self._addresses.values()]
        if without:
            shown = ", ".join(without[:MOST_LINES]) + (", …" if len(without) > MOST_LINES else "")
            text = f"{_number(len(without), 'node')} with accelerators and without an agent: {shown}"
            yield warning("nodes", text, "mend its nodeSelector or its tolerations in the chart's values", _UNSEEN)
        elif with_gpu:
            yield ok("nodes", f"each of {_number(len(with_gpu), 'node')} with accelerators has an agent")
        else:
            yield skipped("nodes", "no node tells Kubernetes of an accelerator: is a device plugin running?")

    def _unlisted(self, check: str, what: str, error: ApiError) -> Finding:
        if error.status != _FORBIDDEN:
            return problem(check, str(error), "see the API server's log", _API)
        remedy = "ask as somebody who may read them: --kubeconfig PATH"
        if what == "ScaledObjects":
            remedy += ", or name their namespaces with --workloads-in"
        return skipped(check, f"you may not list {what} here", remedy, _RIGHTS)


def _operator(operator: Mapping[str, Any]) -> Findings:
    """Judge one Deployment of KEDA's operator."""
    title = _title(operator)
    image = first_image(operator)
    version = _version(image, operator)
    if version is None:
        yield skipped("keda", f"{title}: its version cannot be told from its image {image}")
    elif version < FLOAT_FIELDS_SINCE:
        text = f"{title} is KEDA {version[0]}.{version[1]}, which reads whole numbers alone"
        yield warning("keda", text, "upgrade to 2.17 or later: values are rounded up for it until then", _KEDA)
    else:
        yield ok("keda", f"{title} is KEDA {version[0]}.{version[1]}, which reads fractions")
    if not part(operator, "status").get("readyReplicas"):
        yield problem("keda", f"{title} has no ready pod", "see its log: until then nothing is asked of us", _KEDA)


def _version(image: str, operator: Mapping[str, Any]) -> tuple[int, int] | None:
    """Read a version from an image's tag, or else from the label that says it."""
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    label = labels(operator).get("app.kubernetes.io/version", "")
    for text in (tag, label):
        if found := _VERSION.match(text):
            return int(found[1]), int(found[2])
    return None


def _as_written(scaled: Mapping[str, Any], title: str) -> Findings:
    """Hold a ScaledObject against what ``validate`` knows."""
    shown = {key: scaled.get(key) for key in ("metadata", "spec")}
    text = yaml.safe_dump({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", **shown})
    for finding in check_manifest(text).findings:
        make = problem if finding.severity is Severity.ERROR else warning
        message, remedy = parted(finding.message, "mend its trigger's metadata")
        yield make("workloads", f"{title}: {message}", remedy, _METADATA)


def _uses_node_selector(scaled: Mapping[str, Any]) -> bool:
    return any("nodeSelector" in metadata for metadata in trigger_metadata(scaled))


def _condition(scaled: Mapping[str, Any], kind: str) -> str | None:
    found = condition(scaled, kind)
    return str(found.get("status")) if found else None


def _said(scaled: Mapping[str, Any], kind: str) -> str:
    return str(condition(scaled, kind).get("message") or "")[:200]


def _shortened(findings: Sequence[Finding], check: str) -> Findings:
    """Yield so many findings, the worst first, and how many there are beside them."""
    findings = sorted(findings, key=lambda one: -_GRAVITY.index(one.outcome))
    yield from findings[:MOST_LINES]
    if rest := findings[MOST_LINES:]:
        yield replace(rest[0], check=check, text=f"and {len(rest)} more", remedy="mend these first")


def _several(rights: Sequence[Permission]) -> str:
    """Say several verbs on one resource at once."""
    return f"{' and '.join(right.verb for right in rights[:-1])}{' and ' if rights[1:] else ''}{rights[-1]}"


def _name(peer: Peer, nodes: Mapping[str, str]) -> str:
    node = nodes.get(peer.address) or (peer.snapshot.node if peer.snapshot else "")
    return f"node {node} ({peer.address})" if node else peer.address


def _title(item: Mapping[str, Any]) -> str:
    metadata = part(item, "metadata")
    return f"{metadata.get('namespace')}/{metadata.get('name')}"


def _off(ahead_seconds: float) -> str:
    return f"{abs(ahead_seconds):.0f} s {'ahead of' if ahead_seconds > 0 else 'behind'}"


def _number(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


async def _resolve(host: str) -> Sequence[str]:
    """Ask the system's resolver.

    Raises:
        OSError: it has no answer.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
