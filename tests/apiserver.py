# SPDX-License-Identifier: Apache-2.0
"""A fake API server that is strict about lists and watches, with a cluster that a test changes.

It refuses what the real one refuses: unknown parameters and media types, dropped versions, unknown tokens. It runs in a
thread of its own, so that tests and the processes they start can call it.
"""

import asyncio
import contextlib
import copy
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from keda_gpu_scaler.kube.auth import ClientConfig
from tests.reviews import REVIEWS, FakeReviews

TOKEN = "a-token-of-the-tests"  # noqa: S105 - not a real secret
_LIST_PARAMETERS = {"limit", "continue", "labelSelector", "fieldSelector", "resourceVersion"}
_WATCH_PARAMETERS = {
    "watch", "allowWatchBookmarks", "resourceVersion", "timeoutSeconds", "labelSelector", "fieldSelector",
}  # fmt: skip
_PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
KINDS = {
    "pods": ("", "v1", "Pod"),
    "nodes": ("", "v1", "Node"),
    "namespaces": ("", "v1", "Namespace"),
    "deployments": ("apps", "v1", "Deployment"),
    "statefulsets": ("apps", "v1", "StatefulSet"),
    "replicasets": ("apps", "v1", "ReplicaSet"),
    "jobs": ("batch", "v1", "Job"),
    "rayclusters": ("ray.io", "v1", "RayCluster"),
    "modelservers": ("example.com", "v1", "ModelServer"),
    "jobsets": ("jobset.x-k8s.io", "v1alpha2", "JobSet"),
    "rayclusterfleets": ("orchestration.aibrix.ai", "v1alpha1", "RayClusterFleet"),
    "rollouts": ("argoproj.io", "v1alpha1", "Rollout"),
    "leaderworkersets": ("leaderworkerset.x-k8s.io", "v1", "LeaderWorkerSet"),
    "scaledobjects": ("keda.sh", "v1alpha1", "ScaledObject"),
    "scaledjobs": ("keda.sh", "v1alpha1", "ScaledJob"),
    "endpointslices": ("discovery.k8s.io", "v1", "EndpointSlice"),
    "events": ("", "v1", "Event"),
    "horizontalpodautoscalers": ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    "services": ("", "v1", "Service"),
    "serviceaccounts": ("", "v1", "ServiceAccount"),
    "daemonsets": ("apps", "v1", "DaemonSet"),
    "runtimeclasses": ("node.k8s.io", "v1", "RuntimeClass"),
    "resourceclaims": ("resource.k8s.io", "v1", "ResourceClaim"),
    "resourceslices": ("resource.k8s.io", "v1", "ResourceSlice"),
    **REVIEWS,
}
_LONGEST_MESSAGE = 1024  # an event's
_BOOKMARK_SECONDS = 60.0  # about as often as the real one
_VERBS = {"POST": "create", "PATCH": "patch"}
SCALE_PATHS = {
    "rollouts": ("HPAReplicas", "selector"),
    "leaderworkersets": ("replicas", "hpaPodSelector"),
    "rayclusterfleets": ("replicas", "scalingTargetSelector"),
    "modelservers": ("replicas", "selector"),
}
"""The fields of the status with the replicas and the selector of a custom resource's scale subresource.

A controller writes them; before that the selector is empty. Sources: the definitions of Argo Rollouts 1.8,
LeaderWorkerSet 0.8 and AIBrix (rayclusterfleet_types.go). A RayCluster, a RayService and a JobSet have none.
"""
_SCALABLE = {"deployments", "statefulsets", *SCALE_PATHS}
_LEADERS = "leaderworkerset.sigs.k8s.io/name={},leaderworkerset.sigs.k8s.io/worker-index=0"


@dataclass(frozen=True)
class Asked:
    """One request as RBAC describes it: resource "deployments/scale"; the namespace "" is the whole cluster."""

    verb: str
    group: str
    resource: str
    namespace: str


@dataclass
class _Event:
    version: int
    resource: str
    namespace: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class _StatusError(Exception):
    def __init__(self, code: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.code, self.headers = code, dict(headers or {})
        self.body = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code,
        }  # fmt: skip


def _generation(before: Mapping[str, Any] | None, parts: Mapping[str, Any]) -> int:
    """The number of the object's specification: a change of anything but the status is a new one."""
    if before is None:
        return 1
    is_changed = any(before.get(key) != value for key, value in parts.items() if key not in ("metadata", "status"))
    return int(before["metadata"].get("generation", 1)) + is_changed


class FakeApiServer:
    """Serves while its ``with`` block lasts. Every method may be called from the test's thread.

    ``requests`` counts the requests ("list pods", "watch pods", "get scale", …), and ``watches`` the open watches.
    ``asked`` holds every request for an object, including those that were refused. ``forwards`` has the local port of a
    pod's port (by namespace, name and port), and ``forwarded_bytes`` is the largest size of a forwarded message.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._log: list[_Event] = []
        self._version = 100
        self._oldest = 0
        self._forbidden: set[tuple[str, str]] = set()
        self._missing: set[str] = set()
        self._refusals: list[_StatusError] = []
        self._broken: set[tuple[str, str]] = set()
        self._pages: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        self._changed: set[asyncio.Event] = set()
        self._connections: dict[int, web.BaseRequest] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self._hangs = False
        self.namespace = "ai"
        self.page_limit = 500
        self.between_pages: Callable[[], object] = lambda: None
        self.requests: Counter[str] = Counter()
        self.watches: Counter[str] = Counter()
        self.asked: list[Asked] = []
        self.forwards: dict[tuple[str, str, int], int] = {}
        self.forwarded_bytes = 65536
        self.port = 0
        self.tokens = {TOKEN}
        self.caller_reviews = FakeReviews()

    # ---- start and stop ----

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def access(self) -> ClientConfig:
        """The configuration of a client."""
        return ClientConfig(server=self.url, namespace="gpu", token=TOKEN)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, after a stop on the same port as before."""
        self._await(self._start())

    def stop(self) -> None:
        """Stop listening and cut every connection; the cluster's objects stay."""
        self._await(self._stop())

    def cut(self) -> None:
        """Abort every connection."""
        self._loop.call_soon_threadsafe(self._cut)

    def hang(self, hangs: bool = True) -> None:
        """Answer no request, and send nothing on open watches, until called with False."""
        self._hangs = hangs
        self._wake()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server; return its path."""
        path.write_text(
            json.dumps(
                {
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "gpu"}}],
                    "clusters": [{"name": "c", "cluster": {"server": self.url}}],
                    "users": [{"name": "u", "user": {"token": TOKEN}}],
                }
            )
        )
        return path

    # ---- faults ----

    def forbid(self, verb: str, resource: str) -> None:
        with self._lock:
            self._forbidden.add((verb, resource))

    def forbid_everywhere(self, verb: str, resource: str) -> None:
        """Forbid requests for the objects of all namespaces at once, and not those in one namespace."""
        with self._lock:
            self._forbidden.add((verb, f"{resource} of all namespaces"))

    def allow(self, verb: str, resource: str) -> None:
        with self._lock:
            self._forbidden.discard((verb, resource))

    def break_down(self, verb: str, resource: str) -> None:
        """Answer 503 to these requests, until ``repair``."""
        with self._lock:
            self._broken.add((verb, resource))

    def repair(self, verb: str, resource: str) -> None:
        with self._lock:
            self._broken.discard((verb, resource))

    def uninstall(self, resource: str) -> None:
        with self._lock:
            self._missing.add(resource)

    def refuse_next(self, code: int, reason: str = "TooManyRequests", retry_after: str | None = None) -> None:
        headers = {"Retry-After": retry_after} if retry_after is not None else {}
        with self._lock:
            self._refusals.append(_StatusError(code, reason, "requested by the test", headers))

    def compact(self, keep: str | None = None) -> None:
        """Drop old versions (those before ``keep``): a client that goes on from one of them must list again."""
        with self._lock:
            if keep is None:
                self._version += 10
            self._oldest = self._version if keep is None else int(keep)

    def bookmark(self) -> str:
        """Send every watch that allows it a bookmark; return its version."""
        with self._lock:
            self._version += 1
            self._log.append(_Event(self._version, "", "", None, None))
        self._wake()
        return str(self._version)

    # ---- the cluster ----

    def put(self, resource: str, name: str, namespace: str = "ai", **parts: Any) -> None:
        """Create or replace an object; ``parts`` are the fields of its document."""
        group, version, kind = KINDS[resource]
        with self._lock:
            self._version += 1
            before = self._objects.get((resource, namespace, name))
            metadata = {
                "name": name,
                "namespace": namespace,
                "uid": f"uid-{self._version}",
                "creationTimestamp": _now(),
                **((before or {}).get("metadata") or {}),
                "generation": _generation(before, parts),
                **parts.pop("metadata", {}),
                "resourceVersion": str(self._version),
            }
            after = {
                "apiVersion": f"{group}/{version}" if group else version,
                "kind": kind,
                **(before or {}),
                **parts,
                "metadata": metadata,
            }
            self._objects[resource, namespace, name] = after
            self._log.append(_Event(self._version, resource, namespace, before, after))
        self._wake()

    def events(self) -> list[dict[str, Any]]:
        """Return the events that clients have written, oldest first."""
        with self._lock:
            return [copy.deepcopy(one) for (resource, _, _), one in self._objects.items() if resource == "events"]

    def annotations(self, resource: str, name: str, namespace: str = "ai") -> dict[str, str]:
        with self._lock:
            return dict(self._objects[resource, namespace, name]["metadata"].get("annotations", {}))

    def delete(self, resource: str, name: str, namespace: str = "ai") -> None:
        with self._lock:
            self._version += 1
            before = self._objects.pop((resource, namespace, name))
            self._log.append(_Event(self._version, resource, namespace, before, None))
        self._wake()

    def scaled_object(
        self,
        name: str,
        *,
        namespace: str = "ai",
        kind: str = "Deployment",
        api_version: str = "apps/v1",
        target: str | None = None,
        metric_type: str | None = None,
        resolved: bool = True,
        **metadata: str,
    ) -> None:
        group, _, version = api_version.rpartition("/")
        trigger = {"type": "external", "metadata": metadata, **({"metricType": metric_type} if metric_type else {})}
        reference = {"name": target or name}
        if (kind, api_version) != ("Deployment", "apps/v1"):
            reference |= {"kind": kind, "apiVersion": api_version}
        resource = next(plural for plural, known in KINDS.items() if known == (group, version, kind))
        gvkr = {"group": group, "version": version, "kind": kind, "resource": resource}
        self.put(
            "scaledobjects", name, namespace,
            spec={"scaleTargetRef": reference, "triggers": [trigger]},
            status={"scaleTargetGVKR": gvkr} if resolved else {},
        )  # fmt: skip

    def scale(
        self,
        name: str,
        replicas: int,
        actual: int | None = None,
        *,
        namespace: str = "ai",
        resource: str = "deployments",
    ) -> None:
        """Create a scale target of this size, or change its size."""
        status = scale_status(resource, name, replicas if actual is None else actual)
        self.put(
            resource, name, namespace,
            spec={"replicas": replicas, "selector": {"matchLabels": {"app": name}}}, status=status,
        )  # fmt: skip

    def pod(
        self,
        name: str,
        node: str | None = None,
        *,
        app: str = "llama",
        namespace: str = "ai",
        ready: bool = True,
        phase: str | None = None,
        created: str | None = None,
        deleting: bool = False,
        labels: Mapping[str, str] | None = None,
        address: str = "",
        annotations: Mapping[str, str] | None = None,
        spec: Mapping[str, Any] | None = None,
        owner: str = "",
    ) -> None:
        """Create or replace a pod; ``owner`` is its controller, "ReplicaSet llama-5d4f"."""
        metadata: dict[str, Any] = {"labels": dict(labels) if labels is not None else {"app": app}}
        if owner:
            metadata["ownerReferences"] = owner_references(owner)
        if annotations:
            metadata["annotations"] = dict(annotations)
        if created is not None:
            metadata["creationTimestamp"] = created
        if deleting:
            metadata["deletionTimestamp"] = _now()
        conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": str(ready)}]
        self.put(
            "pods", name, namespace,
            metadata=metadata,
            spec={**({"nodeName": node} if node else {}), **(spec or {})},
            status={
                "phase": phase or ("Running" if node else "Pending"),
                "conditions": conditions,
                **({"podIP": address} if address else {}),
            },
        )  # fmt: skip

    # ---- serving ----

    def _await(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def _wake(self) -> None:
        def wake() -> None:
            for event in self._changed:
                event.set()

        self._loop.call_soon_threadsafe(wake)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        app.router.add_post("/{path:.*}", self._answer)
        app.router.add_patch("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        assert self._runner.addresses
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        self._cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _cut(self) -> None:
        for request in list(self._connections.values()):
            if request.transport is not None:
                request.transport.abort()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._connections[id(request)] = request
        try:
            while self._hangs:
                await self._change()
            return await self._route(request)
        except _StatusError as error:
            return web.json_response(error.body, status=error.code, headers=error.headers)
        finally:
            del self._connections[id(request)]

    async def _change(self) -> None:
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            await changed.wait()
        finally:
            self._changed.discard(changed)

    async def _route(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            raise _StatusError(401, "Unauthorized", "Unauthorized")
        with self._lock:
            if self._refusals:
                raise self._refusals.pop(0)
        group, version, namespace, resource, name, subresource = _parse_path(request.path)
        if not resource:
            return web.json_response(self._discovery(group, version))
        reading = "get" if name else "watch" if request.query.get("watch") == "true" else "list"
        verb = _VERBS.get(request.method, reading)
        self.asked.append(Asked(verb, group, f"{resource}/{subresource}" if subresource else resource, namespace))
        if KINDS.get(resource, ("", "", ""))[:2] != (group, version) or resource in self._missing:
            raise _StatusError(404, "NotFound", "the server could not find the requested resource")
        if verb == "create":
            return await self._create(request, namespace, resource)
        if verb == "patch":
            return await self._patch(request, namespace, resource, name)
        if name:
            return await self._named(request, namespace, resource, name, subresource)
        is_watch = verb == "watch"
        unknown = set(request.query) - (_WATCH_PARAMETERS if is_watch else _LIST_PARAMETERS)
        if unknown:
            raise _StatusError(400, "BadRequest", f"unknown query parameters {sorted(unknown)}")
        self._check(verb, resource, namespace)
        self.requests[f"{verb} {resource}"] += 1
        if is_watch:
            return await self._watch(request, resource, namespace)
        return web.json_response(self._list(request, resource, namespace))

    def _check(self, verb: str, resource: str, namespace: str) -> None:
        if {(verb, resource), (verb, resource if namespace else f"{resource} of all namespaces")} & self._forbidden:
            group = KINDS[resource.partition("/")[0]][0]
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            raise _StatusError(
                403,
                "Forbidden",
                f'{f"{resource}.{group}" if group else resource} is forbidden: User "test" cannot {verb} resource '
                f'"{resource}" in API group "{group}" {where}',
            )
        if (verb, resource) in self._broken:
            self.requests[f"{verb} {resource.rpartition('/')[2]}"] += 1
            raise _StatusError(503, "ServiceUnavailable", "the server is currently unable to handle the request")

    def _group(self, group: str) -> dict[str, Any]:
        """The versions of a group, the preferred one first."""
        served = {its_version for its_group, its_version, _ in KINDS.values() if its_group == group}
        if not served or all(plural in self._missing for plural, known in KINDS.items() if known[0] == group):
            raise _StatusError(404, "NotFound", "the server could not find the requested resource")
        versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in sorted(served)]
        return {"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": versions}

    def _discovery(self, group: str, version: str) -> dict[str, Any]:
        if group and not version:
            return self._group(group)
        resources = [
            {
                "name": plural,
                "kind": kind,
                "namespaced": plural not in ("nodes", "resourceslices", "runtimeclasses"),
                "verbs": ["get", "list", "watch"],
            }
            for plural, (its_group, its_version, kind) in KINDS.items()
            if (its_group, its_version) == (group, version) and plural not in self._missing
        ]
        if not resources:
            raise _StatusError(404, "NotFound", "the server could not find the requested resource")
        scales = [
            {"name": f"{one['name']}/scale", "kind": "Scale", "namespaced": True, "verbs": ["get"]}
            for one in resources
            if one["name"] in _SCALABLE
        ]
        self.requests["discover"] += 1
        return {"kind": "APIResourceList", "groupVersion": f"{group}/{version}", "resources": [*scales, *resources]}

    async def _create(self, request: web.Request, namespace: str, resource: str) -> web.StreamResponse:
        self._check("create", resource, namespace)
        document = await request.json()
        if resource in REVIEWS:
            self.requests[f"create {resource}"] += 1
            return web.json_response(self.caller_reviews.reviewed(document), status=201)
        metadata = document["metadata"]
        if resource != "events":
            raise _StatusError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
            )
        if metadata["namespace"] != namespace or document["involvedObject"]["namespace"] != namespace:
            raise _StatusError(422, "Invalid", "involvedObject.namespace: does not match event.namespace")
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", metadata["name"], re.ASCII):
            raise _StatusError(422, "Invalid", "metadata.name: a lowercase RFC 1123 subdomain must consist of …")
        if len(document["message"]) > _LONGEST_MESSAGE:
            raise _StatusError(422, "Invalid", "message: can have at most 1024 characters")
        with self._lock:
            if (resource, namespace, metadata["name"]) in self._objects:
                raise _StatusError(409, "AlreadyExists", f'events "{metadata["name"]}" already exists')
        self.requests["create events"] += 1
        self.put(resource, metadata["name"], namespace, **document)
        return web.json_response(document, status=201)

    async def _patch(self, request: web.Request, namespace: str, resource: str, name: str) -> web.StreamResponse:
        self._check("patch", resource, namespace)
        if request.content_type != "application/merge-patch+json":
            raise _StatusError(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
        changes = (await request.json())["metadata"]["annotations"]
        with self._lock:
            item = self._objects.get((resource, namespace, name))
            if item is None:
                raise _StatusError(404, "NotFound", f'{resource} "{name}" not found')
            merged = {**item["metadata"].get("annotations", {}), **changes}
        if not all(value is None or isinstance(value, str) for value in merged.values()):
            raise _StatusError(400, "BadRequest", "json: cannot unmarshal number into Go struct field of type string")
        self.requests[f"patch {resource}"] += 1
        annotations = {key: value for key, value in merged.items() if value is not None}
        self.put(resource, name, namespace, metadata={"annotations": annotations})
        return web.json_response(item)

    def _get(
        self, request: web.Request, namespace: str, resource: str, name: str, subresource: str
    ) -> web.StreamResponse:
        full = f"{resource}/{subresource}" if subresource else resource
        self._check("get", full, namespace)
        self.requests[f"get {subresource or resource}"] += 1
        with self._lock:
            found = copy.deepcopy(self._objects.get((resource, namespace, name)))
        if found is None or (subresource and (subresource != "scale" or resource not in _SCALABLE)):
            raise _StatusError(404, "NotFound", f'{full} "{name}" not found')
        if not subresource:
            return web.json_response(found)
        return web.json_response(
            {
                "kind": "Scale",
                "apiVersion": "autoscaling/v1",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"replicas": found["spec"].get("replicas", 0)},
                "status": _scale_status_of(resource, found),
            }
        )

    async def _named(
        self, request: web.Request, namespace: str, resource: str, name: str, subresource: str
    ) -> web.StreamResponse:
        if (resource, subresource) == ("pods", "portforward"):
            return await self._forward(request, namespace, name)
        return self._get(request, namespace, resource, name, subresource)

    async def _forward(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        """Copy bytes between a WebSocket and a pod's local port, as a kubelet does."""
        self._check("get", "pods/portforward", namespace)
        if ("pods", namespace, name) not in self._objects:
            raise _StatusError(404, "NotFound", f'pods "{name}" not found')
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise _StatusError(400, "BadRequest", "Upgrade request required")
        self.requests["portforward"] += 1
        port = int(request.query["ports"])
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        for channel in (0, 1):
            await socket.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.forwards[namespace, name, port])
        except (KeyError, OSError):
            await socket.send_bytes(b"\x01" + f"connection to port {port} inside the pod refused".encode())
            await socket.close()
            return socket

        async def down() -> None:
            while chunk := await reader.read(self.forwarded_bytes):
                await socket.send_bytes(b"\x00" + chunk)
            await socket.close()

        task = asyncio.create_task(down())
        try:
            async for message in socket:
                assert message.data[0] == 0, "a client writes to the data channel only"
                writer.write(message.data[1:])
            return socket
        finally:
            writer.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _list(self, request: web.Request, resource: str, namespace: str) -> dict[str, Any]:
        shown, is_partial = _shown(request, _PARTIAL_LIST)
        chosen = _selected(request)
        token = request.query.get("continue")
        with self._lock:
            if token is None:
                version = self._version
                own = [
                    (key, item)
                    for key, item in self._objects.items()
                    if key[0] == resource and (not namespace or key[1] == namespace) and chosen(item)
                ]
                left = [shown(item) for _, item in sorted(own, key=lambda one: one[0])]
            else:
                version, left = self._pages.get(token, (-1, []))
                if version < self._oldest:
                    message = "The provided continue parameter is too old to display a consistent list result."
                    raise _StatusError(410, "Expired", message)
            metadata: dict[str, Any] = {"resourceVersion": str(version)}
            # As the real one: a list without a limit has no pages.
            limit = min(int(request.query["limit"]), self.page_limit) if "limit" in request.query else len(left)
            page, rest = left[:limit], left[limit:]
            if rest:
                token = f"token-{len(self._pages)}"
                self._pages[token] = (version, rest)
                metadata |= {"continue": token, "remainingItemCount": len(rest)}
        if rest:
            self.between_pages()
        group, api_version, kind = KINDS[resource]
        if is_partial:
            return {
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": page
            }  # fmt: skip
        # As the real one: the items of a list have no kind and no apiVersion.
        items = [{key: value for key, value in item.items() if key not in ("kind", "apiVersion")} for item in page]
        return {
            "kind": f"{kind}List", "apiVersion": f"{group}/{api_version}", "metadata": metadata, "items": items
        }  # fmt: skip

    async def _watch(self, request: web.Request, resource: str, namespace: str) -> web.StreamResponse:
        shown, _ = _shown(request, _PARTIAL)
        chosen = _selected(request)
        text = request.query.get("resourceVersion", "")
        if not text.isdigit():
            raise _StatusError(400, "BadRequest", f"invalid resource version {text!r}")
        seen = int(text)
        ending = self._loop.time() + float(request.query.get("timeoutSeconds", "1800"))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self.watches[resource] += 1
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            if seen < self._oldest:
                gone = _StatusError(410, "Expired", f"too old resource version: {seen} ({self._oldest})")
                await _send(response, "ERROR", gone.body)
                return response
            while (left := ending - self._loop.time()) > 0:
                changed.clear()
                if not self._hangs:
                    with self._lock:
                        news = [event for event in self._log if event.version > seen]
                    for event in news:
                        seen = event.version
                        if not event.resource:
                            if request.query.get("allowWatchBookmarks") == "true":
                                await _send(response, "BOOKMARK", {"metadata": {"resourceVersion": str(seen)}})
                        elif event.resource == resource and (not namespace or event.namespace == namespace):
                            await _send_event(response, event, chosen, shown)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _BOOKMARK_SECONDS)):
                        await changed.wait()
                        continue
                if not self._hangs and request.query.get("allowWatchBookmarks") == "true":
                    await _send(response, "BOOKMARK", {"metadata": {"resourceVersion": str(seen)}})
            return response
        finally:
            self._changed.discard(changed)
            self.watches[resource] -= 1


def scale_status(resource: str, name: str, replicas: int) -> dict[str, Any]:
    """Return the status that the controller of a scale target writes."""
    replicas_field, selector_field = SCALE_PATHS.get(resource, ("replicas", ""))
    selector = _LEADERS.format(name) if resource == "leaderworkersets" else f"app={name}"
    return {"replicas": replicas, replicas_field: replicas, **({selector_field: selector} if selector_field else {})}


def _scale_status_of(resource: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status of a scale subresource: a custom resource's is what its controller has written."""
    status = item.get("status") or {}
    replicas_field, selector_field = SCALE_PATHS.get(resource, ("replicas", ""))
    selector = status.get(selector_field, "") if selector_field else _selector_text(item["spec"].get("selector") or {})
    return {"replicas": status.get(replicas_field, 0), "selector": selector}


def owner_references(owner: str) -> list[dict[str, Any]]:
    """Return the ownerReferences of an object whose controller is ``owner``, "ReplicaSet llama-5d4f"."""
    kind, _, name = owner.partition(" ")
    group, version = next((one[0], one[1]) for one in KINDS.values() if one[2] == kind)
    return [
        # The first one is no controller: an object may have further owners.
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "settings", "uid": "uid-settings"},
        {
            "apiVersion": f"{group}/{version}" if group else version, "kind": kind, "name": name,
            "uid": f"uid-{name}", "controller": True, "blockOwnerDeletion": True,
        },
    ]  # fmt: skip


def _parse_path(path: str) -> tuple[str, str, str, str, str, str]:
    """Cut a path into group, version, namespace, resource, name, subresource; missing parts are empty."""
    root, *parts = path.strip("/").split("/")
    if root == "api":
        group, parts = "", parts
    elif root == "apis" and parts:
        group, parts = parts[0], parts[1:]
    else:
        raise _StatusError(404, "NotFound", "the server could not find the requested resource")
    version, *parts = parts or [""]
    namespace = ""
    if len(parts) > 2 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = (*parts, "", "", "")[:3]
    return group, version, namespace, resource, name, subresource


def _shown(request: web.Request, partial: str) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], bool]:
    """Return how to present objects to this request: by the first known media type that it accepts."""
    for accepted in (part.strip() for part in request.headers.get("Accept", "application/json").split(",")):
        if accepted == partial:
            return _partial, True
        if accepted in ("application/json", "*/*"):
            return copy.deepcopy, False
    raise _StatusError(406, "NotAcceptable", "only the following media types are accepted: application/json")


def _partial(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": copy.deepcopy(item["metadata"])
    }  # fmt: skip


def _selected(request: web.Request) -> Callable[[dict[str, Any]], bool]:
    """Return a predicate for the objects that a request selects by labels and by name."""
    conditions = [_condition(part) for part in _parts(request.query.get("labelSelector", ""))]
    field, equals, name = request.query.get("fieldSelector", "").partition("=")
    if field and (field, equals) != ("metadata.name", "="):
        raise _StatusError(400, "BadRequest", f"field label not supported: {field}")

    def chosen(item: dict[str, Any]) -> bool:
        labels = item["metadata"].get("labels") or {}
        return all(condition(labels) for condition in conditions) and (not field or item["metadata"]["name"] == name)

    return chosen


def _parts(selector: str) -> list[str]:
    """Cut a label selector at the commas outside of parentheses."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", selector) if part.strip()]


def _condition(text: str) -> Callable[[Mapping[str, str]], bool]:
    if found := re.fullmatch(r"([\w./-]+) (in|notin) \(([\w.,-]*)\)", text, re.ASCII):
        key, values, is_in = found[1], found[3].split(","), found[2] == "in"
        return lambda labels: (key in labels and labels[key] in values) is is_in
    if found := re.fullmatch(r"([\w./-]+)(!=|==|=)([\w.-]*)", text, re.ASCII):
        key, value, is_equal = found[1], found[3], found[2] != "!="
        return lambda labels: (key in labels and labels[key] == value) is is_equal
    if found := re.fullmatch(r"(!?)([\w./-]+)", text, re.ASCII):
        key, is_there = found[2], not found[1]
        return lambda labels: (key in labels) is is_there
    raise _StatusError(400, "BadRequest", f"unable to parse requirement: {text!r}")


def _selector_text(selector: Mapping[str, Any]) -> str:
    """Return a LabelSelector as the text of a scale subresource."""
    texts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for one in selector.get("matchExpressions") or ():
        key, values = one["key"], ",".join(one.get("values") or ())
        shapes = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        texts.append(shapes.get(one["operator"], f"!{key}"))
    return ",".join(texts)


async def _send_event(
    response: web.StreamResponse,
    event: _Event,
    chosen: Callable[[dict[str, Any]], bool],
    shown: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """Send an event to a watch with a selector: an object that leaves the selection is deleted for that watch."""
    was = event.before is not None and chosen(event.before)
    if event.after is not None and chosen(event.after):
        await _send(response, "MODIFIED" if was else "ADDED", shown(event.after))
    elif was and event.before is not None:
        last = shown(event.before)
        last["metadata"]["resourceVersion"] = str(event.version)
        await _send(response, "DELETED", last)


async def _send(response: web.StreamResponse, kind: str, item: dict[str, Any]) -> None:
    await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
