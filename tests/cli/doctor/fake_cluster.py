# SPDX-License-Identifier: Apache-2.0
"""A fake API server with KEDA, ScaledObjects, agents and nodes, and the run of ``doctor`` against it."""

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from keda_gpu_scaler.cli.doctor.cluster import check_cluster
from keda_gpu_scaler.cli.doctor.findings import Finding
from keda_gpu_scaler.cli.doctor.installation import ClusterOptions, Installation
from tests.apiserver import TOKEN, FakeApiServer
from tests.cli.doctor.support import described

INSTALLATION = Installation(namespace="gpu")
VALID_METADATA: dict[str, Any] = {"scalerAddress": f"{INSTALLATION.host}:6000", "profile": "triton-inference"}


class FakeCluster(FakeApiServer):
    """An API server that also reports its version and reviews permissions.

    Every account has every permission except those ``denied``, by verb, resource and namespace. ``reviews`` are the
    requested reviews, by kind and user. ``may_review`` says whether an account may review another one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.denied: set[tuple[str, str, str]] = set()
        self.reviews: list[tuple[str, str]] = []
        self.may_review = True
        self.has_time = True

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        app.on_response_prepare.append(self._date)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        assert self._runner.addresses
        self.port = self._runner.addresses[0][1]

    async def _date(self, request: web.Request, response: web.StreamResponse) -> None:
        if not self.has_time:
            response.headers["Date"] = "some day"

    async def _route(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({"gitVersion": "v1.34.1"})
        if request.method != "POST":
            return await super()._route(request)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"message": "Unauthorized"}, status=401)
        return await self._review(request)

    async def _review(self, request: web.Request) -> web.Response:
        review = await request.json()
        kind, spec = review["kind"], review["spec"]
        assert request.path == f"/apis/authorization.k8s.io/v1/{kind.lower()}s"
        assert review["apiVersion"] == "authorization.k8s.io/v1"
        self.reviews.append((kind, spec.get("user", "")))
        if kind == "SubjectAccessReview" and not self.may_review:
            return web.json_response({"message": "subjectaccessreviews is forbidden"}, status=403)
        wanted = spec["resourceAttributes"]
        assert set(wanted) == {"verb", "group", "resource", "subresource", "namespace"}
        resource = "/".join(filter(None, (wanted["resource"], wanted["subresource"])))
        allowed = (wanted["verb"], resource, wanted["namespace"]) not in self.denied
        return web.json_response({**review, "status": {"allowed": allowed}}, status=201)

    # ---- objects ----

    def keda(self, image: str = "ghcr.io/kedacore/keda:2.20.1", ready: int = 1, **labels: str) -> None:
        self.put(
            "deployments", "keda-operator", "keda",
            metadata={"labels": labels or {"app": "keda-operator"}},
            spec={"template": {"spec": {"containers": [{"image": image}]}}},
            status={"readyReplicas": ready},
        )  # fmt: skip

    def own_scaled_object(
        self,
        name: str,
        *,
        ready: str = "True",
        active: str = "True",
        message: str = "",
        fallback: str = "False",
        paused: str = "False",
        **metadata: str,
    ) -> None:
        self.scaled_object(name, resolved=True, **{**VALID_METADATA, **metadata})
        conditions = [
            {"type": "Ready", "status": ready, "message": message},
            {"type": "Active", "status": active},
            {"type": "Fallback", "status": fallback},
            {"type": "Paused", "status": paused},
        ]
        before = self._objects["scaledobjects", "ai", name]
        spec, status = {**before["spec"], "minReplicaCount": 1}, {**before["status"], "conditions": conditions}
        self.put("scaledobjects", name, "ai", spec=spec, status=status)

    def own_scaled_job(self, name: str, *, ready: str = "True", **metadata: str) -> None:
        trigger = {"type": "external", "metadata": {**VALID_METADATA, "report": "total", **metadata}}
        conditions = [{"type": "Ready", "status": ready}, {"type": "Active", "status": "True"}]
        job = {"template": {"spec": {"containers": [{"name": "job", "image": "job"}]}}}
        self.put(
            "scaledjobs", name, "ai",
            spec={"jobTargetRef": job, "minReplicaCount": 1, "triggers": [trigger]}, status={"conditions": conditions},
        )  # fmt: skip

    def agents(self, addresses: Mapping[str, int], namespace: str = "gpu") -> None:
        """Add the agents of these nodes at these ports of 127.0.0.1, each in its own EndpointSlice."""
        for node, port in addresses.items():
            self.put(
                "endpointslices", node, namespace,
                metadata={"labels": {"kubernetes.io/service-name": "keda-gpu-scaler-agents"}},
                ports=[{"name": "grpc", "port": port, "protocol": "TCP"}],
                endpoints=[{"addresses": ["127.0.0.1"], "nodeName": node, "targetRef": {"uid": node}}],
            )  # fmt: skip

    def node(self, name: str, **allocatable: str) -> None:
        counts = {
            kind.replace("_", "/", 1).replace("nvidia/", "nvidia.com/"): count for kind, count in allocatable.items()
        }
        self.put("nodes", name, "", status={"allocatable": {"cpu": "8", **counts}})


async def no_name(host: str) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def loopback(host: str) -> list[str]:
    assert host == "keda-gpu-scaler.gpu.svc.cluster.local"
    return ["127.0.0.1"]


IN_CLUSTER = ClusterOptions(is_in_cluster=True, resolve=no_name)
OUTSIDE = ClusterOptions(is_in_cluster=False)


def findings_in(
    cluster: FakeCluster,
    *names: str,
    options: ClusterOptions = IN_CLUSTER,
    installation: Installation = INSTALLATION,
) -> list[str]:
    """Check the cluster, and describe the findings of these checks."""

    async def all_of_them() -> list[Finding]:
        return [finding async for finding in check_cluster(cluster.access, installation, options, lambda title: None)]

    return described(asyncio.run(all_of_them()), *names)
