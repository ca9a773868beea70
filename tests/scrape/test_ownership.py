# SPDX-License-Identifier: Apache-2.0
"""Tests of what the URLs of a trigger reach: what its namespace owns, and what the operator lists."""

import asyncio
import contextlib
from ipaddress import ip_address

import pytest

from keda_gpu_scaler.core.state.scrape import Endpoint
from keda_gpu_scaler.core.urls import parse_url
from keda_gpu_scaler.scrape import tcp_stream
from keda_gpu_scaler.scrape.dns_resolver import LookupAnswer
from keda_gpu_scaler.scrape.ownership import Ownership, cluster_domain
from keda_gpu_scaler.scrape.targets import RESOLVE_INTERVAL_SECONDS, UrlTargets
from keda_gpu_scaler.scrape.types import FailureKind, FetchError, ResolvedHost, Target
from tests.scrape.clients import error_of, http_client

ADDRESS = "10.1.2.3"
PODS = {"ai": {"10.8.0.1", "fd00::1"}, "web": {"10.8.0.2"}}
CLUSTER = {
    "llama.ai.svc": LookupAnswer((ADDRESS,), "llama.ai.svc.cluster.local"),
    "llama-0.llama.ai.svc": LookupAnswer((ADDRESS,), "llama-0.llama.ai.svc.cluster.local"),
    "alias.ai.svc": LookupAnswer((ADDRESS,), "secrets.web.svc.cluster.local"),
    "trap.ai.svc": LookupAnswer((ADDRESS,), "trap.ai.svc.cluster.local.example.com"),
    "unnamed.ai.svc": LookupAnswer((ADDRESS,)),
    "stolen.ai.svc": LookupAnswer(("169.254.169.254",), "stolen.ai.svc.cluster.local"),
    "gateway.web.svc": LookupAnswer((ADDRESS,), "gateway.web.svc.cluster.local"),
}


def pod_addresses(namespace: str) -> set[str]:
    return PODS.get(namespace, set())


async def lookup(host: str, port: int) -> LookupAnswer:
    with contextlib.suppress(ValueError):
        return LookupAnswer((str(ip_address(host)),))
    name = host.removesuffix(".cluster.local").rstrip(".")
    return CLUSTER.get(name) or LookupAnswer((ADDRESS,), host)


def resolved(host: str, namespace: str | None, allowed: str | None = None) -> ResolvedHost | str:
    client = http_client(allowed=allowed, lookup=lookup, ownership=Ownership(pod_addresses))
    try:
        return asyncio.run(client.resolve(parse_url(f"http://{host}:8000/metrics"), namespace))
    except FetchError as error:
        return str(error) if error.kind is FailureKind.DENIED else f"not denied: {error}"


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("llama", id="a Service without its namespace, which is the trigger's"),
        pytest.param("llama.ai", id="a Service with its namespace"),
        pytest.param("llama.ai.svc", id="a Service with svc"),
        pytest.param("llama.ai.svc.cluster.local", id="a Service with its full name"),
        pytest.param("LLAMA.ai.svc.cluster.local.", id="a full name with a final dot, in upper case"),
        pytest.param("llama-0.llama.ai.svc.cluster.local", id="a pod behind a headless Service"),
    ],
)
def test_a_url_reaches_the_services_of_its_namespace(host: str) -> None:
    assert resolved(host, "ai") == ResolvedHost((ADDRESS,), is_own=True)


@pytest.mark.parametrize(
    ("host", "is_reached"),
    [
        pytest.param("10.8.0.1", True, id="a pod of the namespace"),
        pytest.param("[fd00::1]", True, id="a pod of the namespace in IPv6"),
        pytest.param("[fd00:0:0::1]", True, id="another notation of the address"),
        pytest.param("10.8.0.2", False, id="a pod of another namespace"),
        pytest.param("10.8.0.3", False, id="an address of no watched pod"),
    ],
)
def test_a_url_with_an_address_reaches_the_watched_pods_of_its_namespace(host: str, is_reached: bool) -> None:
    found = resolved(host, "ai")
    assert (found == ResolvedHost((host.replace("[fd00:0:0::1]", "fd00::1").strip("[]"),), is_own=True)) == is_reached
    assert isinstance(found, str) != is_reached


OTHERS = [
    pytest.param("gateway.web.svc", id="a Service of another namespace"),
    pytest.param("gateway.web.svc.cluster.local", id="its full name"),
    pytest.param("gateway.web", id="its short name"),
    pytest.param("alias.ai.svc", id="an ExternalName Service of the namespace"),
    pytest.param("trap.ai.svc", id="an alias whose target begins like the Service"),
    pytest.param("unnamed.ai.svc", id="a name whose aliases are not known"),
    pytest.param("llama.ai.svc.example.com", id="a name under another domain"),
    pytest.param("10-8-0-2.ai.pod.cluster.local", id="an address as a name of a pod"),
    pytest.param("a.b.llama.ai.svc", id="too many labels"),
    pytest.param("ai.svc", id="a namespace without a name"),
    pytest.param("example.com", id="a host outside the cluster"),
]


@pytest.mark.parametrize("host", OTHERS)
def test_a_url_reaches_nothing_else_unless_the_operator_lists_it(host: str) -> None:
    problem = resolved(host, "ai")
    assert isinstance(problem, str)
    assert problem == (
        f'"{host}" leads to no Service and no watched pod of the trigger\'s namespace "ai": the operator may allow it '
        f"with --allow-endpoints={host} (chart: engines.allowEndpoints)"
    )
    assert ADDRESS not in problem
    for allowed in (host, "10.1.0.0/16", "*"):
        assert resolved(host, "ai", allowed) == ResolvedHost((ADDRESS,))
    assert isinstance(resolved(host, "ai", "10.9.0.0/16,other.web.svc"), str)


def test_a_host_that_nothing_allows_is_not_resolved() -> None:
    async def fails(host: str, port: int) -> LookupAnswer:
        raise AssertionError("a trigger asks the cluster's DNS about another namespace")

    client = http_client(allowed="*.keda.svc", lookup=fails, ownership=Ownership(pod_addresses))
    with pytest.raises(FetchError, match="leads to no Service"):
        asyncio.run(client.resolve(parse_url("http://gateway.web.svc/"), "ai"))


def test_the_rules_apply_to_what_the_namespace_owns() -> None:
    assert "never scraped" in str(resolved("stolen.ai.svc", "ai", "*"))


def test_without_a_known_namespace_the_list_alone_decides() -> None:
    assert resolved("gateway.web.svc", None) == ResolvedHost((ADDRESS,))
    assert "not among the allowed endpoints" in str(resolved("gateway.web.svc", None, "*.ai.svc"))


@pytest.mark.parametrize("host", ["llama", "llama.ai.svc", "10.8.0.1", "svc"])
def test_an_empty_namespace_owns_nothing(host: str) -> None:
    assert isinstance(resolved(host, ""), str)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        pytest.param("search keda.svc.a.org svc.a.org a.org\nnameserver 10.96.0.10", "a.org", id="of kubelet"),
        pytest.param("search corp.example.com\n", "cluster.local", id="no cluster"),
        pytest.param("", "cluster.local", id="no file"),
        pytest.param("# search svc.a\nsearch\nsearch SVC. svc.B.", "b", id="odd lines"),
    ],
)
def test_the_domain_of_the_cluster_is_that_of_the_search_list(text: str, domain: str) -> None:
    assert cluster_domain(text) == domain


def test_a_service_under_another_cluster_domain_is_owned() -> None:
    ownership = Ownership(cluster_domain="example.org")
    assert ownership.service("llama.ai.svc.example.org", "ai") == "llama.ai.svc"
    assert ownership.service("llama.ai.svc.cluster.local", "ai") is None
    assert ownership.owns_name("llama.ai.svc", "llama.ai.svc.example.org.")
    assert not ownership.owns_name("llama.ai.svc", "llama.ai.svc.cluster.local")


def test_the_address_of_a_pod_is_checked_again_because_another_pod_may_get_it() -> None:
    pods = {"10.8.0.1"}
    client = http_client(allowed=None, lookup=lookup, ownership=Ownership(lambda namespace: pods))
    targets = UrlTargets(Endpoint(url="http://10.8.0.1:8000/metrics", namespace="ai"))
    assert asyncio.run(targets.discover(client)) == RESOLVE_INTERVAL_SECONDS
    assert [it.address for it in targets.targets] == ["10.8.0.1"]
    pods.clear()
    assert asyncio.run(targets.discover(client)) == RESOLVE_INTERVAL_SECONDS
    assert targets.targets == ()


def test_the_list_does_not_apply_to_a_fetch_from_the_own_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(tcp_stream, "connect", refuse)
    client, url = http_client(allowed="*.web.svc"), parse_url("http://llama.ai.svc:8000/metrics")
    for target, kind in (
        (Target(url, ADDRESS, is_own=True), FailureKind.REFUSED),
        (Target(url, ADDRESS), FailureKind.DENIED),
        (Target(url, "169.254.169.254", is_own=True), FailureKind.DENIED),
    ):
        assert asyncio.run(error_of(client.collect(target))).kind is kind
