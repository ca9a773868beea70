# SPDX-License-Identifier: Apache-2.0
"""A real API server with the methods of the fake one, for the tests that need no faults.

The environment variable KEDA_GPU_SCALER_TEST_KUBECONFIG names the kubeconfig of a cluster administrator. The tests use
a namespace of their own, which is removed afterwards. They need no controller: a test writes the status that a
controller would write (a pod's readiness, a Deployment's size). The definitions of KEDA's objects are installed where
they are missing, and are not removed.
"""

import ssl
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from keda_gpu_scaler.kube.auth import ClientConfig, kubeconfig
from tests.apiserver import KINDS, SCALE_PATHS, owner_references, scale_status
from tests.polling import pause

VARIABLE = "KEDA_GPU_SCALER_TEST_KUBECONFIG"
_CONTAINER = {"name": "server", "image": "example.com/server"}
_REQUIRED: Mapping[str, dict[str, Any]] = {
    "leaderworkersets": {
        "leaderWorkerTemplate": {"size": 2, "workerTemplate": {"spec": {"containers": [_CONTAINER]}}},
    },
}
"""The spec of a scale target whose real definition has no selector."""


class RealApiServer:
    """A client of the server, for as long as its ``with`` block lasts."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.access: ClientConfig = kubeconfig(path, scratch)
        self.namespace = f"keda-gpu-scaler-{uuid.uuid4().hex[:8]}"
        verify: ssl.SSLContext | bool = self.access.is_verified
        if self.access.ca_data:
            verify = ssl.create_default_context(cadata=self.access.ca_data)
        self._installed: set[str] = set()
        self._slices: set[str] = set()
        self._http = httpx.Client(
            base_url=self.access.server, verify=verify, headers=self.access.authorization(), trust_env=False
        )

    def __enter__(self) -> Self:
        self._install("scaledobjects")
        self._install("scaledjobs")
        self._send("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for resource in ("pods", "deployments", "statefulsets", "resourceclaims", *sorted(self._installed)):
            self._http.delete(self._path(resource), params={"gracePeriodSeconds": "0"})
        for name in self._slices:
            self._http.delete(f"{self._path('resourceslices')}/{name}")
        self._http.delete(f"/api/v1/namespaces/{self.namespace}")
        self._http.close()

    # ---- the cluster, with the methods of the fake ----

    def scale(self, name: str, replicas: int, actual: int | None = None, *, resource: str = "deployments") -> None:
        labels = {"app": name}
        spec: dict[str, Any] = {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [_CONTAINER]}},
        }
        if resource == "statefulsets":
            spec["serviceName"] = name
        if resource in SCALE_PATHS:
            self._install(resource)
            # The fields that the real definitions require and the fake one does without.
            spec = _REQUIRED.get(resource, spec) | {"replicas": replicas}
        self._put(resource, name, spec=spec)
        status = scale_status(resource, name, replicas if actual is None else actual)
        self._patch(f"{self._path(resource)}/{name}/status", {"status": status})

    def scaled_object(
        self,
        name: str,
        *,
        kind: str = "Deployment",
        api_version: str = "apps/v1",
        target: str | None = None,
        metric_type: str | None = None,
        resolved: bool = True,
        **metadata: str,
    ) -> None:
        trigger = {"type": "external", "metadata": metadata, **({"metricType": metric_type} if metric_type else {})}
        reference = {"name": target or name, "kind": kind, "apiVersion": api_version}
        self._put("scaledobjects", name, spec={"scaleTargetRef": reference, "triggers": [trigger]})

    def put(self, resource: str, name: str, **parts: Any) -> None:
        if "." in KINDS[resource][0] and not KINDS[resource][0].endswith(".k8s.io"):
            self._install(resource)
        if resource == "resourceslices":
            self._slices.add(name)
        status = parts.pop("status", None)
        self._put(resource, name, **parts)
        if status is not None:
            self._patch(f"{self._path(resource)}/{name}/status", {"status": status})

    def pod(
        self,
        name: str,
        node: str | None = None,
        *,
        app: str = "llama",
        ready: bool = True,
        phase: str | None = None,
        deleting: bool = False,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        spec: Mapping[str, Any] | None = None,
        owner: str = "",
    ) -> None:
        path = f"{self._path('pods')}/{name}"
        found = self._http.get(path)
        metadata: dict[str, Any] = {"name": name, "labels": dict(labels) if labels is not None else {"app": app}}
        if owner:
            metadata["ownerReferences"] = owner_references(owner)
        if annotations:
            metadata["annotations"] = dict(annotations)
        if found.status_code == 404:
            made = {"containers": [_CONTAINER], **({"nodeName": node} if node else {}), **(spec or {})}
            self._send("POST", self._path("pods"), {"metadata": metadata, "spec": made})
        else:
            gone: dict[str, str | None] = dict.fromkeys(found.json()["metadata"]["labels"])
            self._patch(path, {"metadata": {"labels": gone | metadata["labels"]}})
            if node and not found.json()["spec"].get("nodeName"):
                binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": node}}
                self._send("POST", f"{path}/binding", binding)
        conditions = [{"type": "Ready", "status": str(ready)}]
        phase = phase or ("Running" if node else "Pending")
        self._patch(f"{path}/status", {"status": {"phase": phase, "conditions": conditions}})
        if deleting:
            self._http.delete(path, params={"gracePeriodSeconds": "600"}).raise_for_status()

    def delete(self, resource: str, name: str) -> None:
        path = f"{self._path(resource)}/{name}"
        self._http.delete(path, params={"gracePeriodSeconds": "0"}).raise_for_status()

    # ---- requests ----

    @property
    def http(self) -> httpx.Client:
        """The client, for objects that the methods above do not write."""
        return self._http

    def _path(self, resource: str) -> str:
        group, version, _ = KINDS[resource]
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        if resource == "resourceslices":
            return f"{root}/{resource}"
        return f"{root}/namespaces/{self.namespace}/{resource}"

    def _put(self, resource: str, name: str, **parts: Any) -> None:
        group, version, kind = KINDS[resource]
        path = f"{self._path(resource)}/{name}"
        found = self._http.get(path)
        item = {
            "apiVersion": f"{group}/{version}" if group else version,
            "kind": kind,
            **parts,
            "metadata": {**parts.get("metadata", {}), "name": name},
        }
        if found.status_code == 404:
            self._send("POST", self._path(resource), item)
        else:
            item["metadata"] = found.json()["metadata"] | item["metadata"]
            self._send("PUT", path, item)

    def _patch(self, path: str, parts: Mapping[str, Any]) -> None:
        media = {"Content-Type": "application/merge-patch+json"}
        self._http.patch(path, json=parts, headers=media).raise_for_status()

    def _send(self, verb: str, path: str, item: Mapping[str, Any]) -> None:
        response = self._http.request(verb, path, json=item)
        if not response.is_success:
            raise AssertionError(response.text)

    def _install(self, plural: str) -> None:
        """Install a minimal definition of a kind where the server has none; one that is there stays as it is."""
        self._installed.add(plural)
        group, version, kind = KINDS[plural]
        root = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        if self._http.get(f"{root}/{plural}.{group}").status_code == 404:
            schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
            subresources: dict[str, Any] = {"status": {}}
            if plural in SCALE_PATHS:
                replicas, selector = SCALE_PATHS[plural]
                subresources["scale"] = {
                    "specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": f".status.{replicas}",
                    "labelSelectorPath": f".status.{selector}",
                }
            served = {
                "name": version, "served": True, "storage": True, "schema": schema, "subresources": subresources
            }  # fmt: skip
            names = {"plural": plural, "singular": kind.lower(), "kind": kind}
            metadata: dict[str, Any] = {"name": f"{plural}.{group}"}
            if group.endswith(".k8s.io"):
                # The API server accepts groups of the Kubernetes community only with a reference to their review.
                metadata["annotations"] = {"api-approved.kubernetes.io": "unapproved, a definition of the tests"}
            spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [served]}
            definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
            self._send("POST", root, {**definition, "metadata": metadata, "spec": spec})
        while self._http.get(self._path(plural)).status_code == 404:
            pause()  # the API server needs a moment after the definition is created
