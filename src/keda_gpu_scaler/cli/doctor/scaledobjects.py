# SPDX-License-Identifier: Apache-2.0
"""Checks the ScaledObjects and ScaledJobs that name this installation, and KEDA's conditions.

Source: KEDA 2.20, for the conditions of its objects.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import yaml

from keda_gpu_scaler.cli.doctor.findings import (
    Finding,
    Heading,
    limited,
    ok,
    problem,
    skipped,
    split_remedy,
    warning,
)
from keda_gpu_scaler.cli.doctor.installation import NOT_FOUND, ClusterContext, list_error, object_name
from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.rules import validate_text
from keda_gpu_scaler.core.trigger.own_trigger import host_of
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.keda_objects import trigger_metadata
from keda_gpu_scaler.kube.parse import condition
from keda_gpu_scaler.kube.resource_query import ResourceQuery

_CHECK = "workloads"
_RESOURCES = {"ScaledObject": "scaledobjects", "ScaledJob": "scaledjobs"}
_MAX_MESSAGE_LENGTH = 200
# A condition, the states that are a finding, the finding, and its remedy. A condition that KEDA has not evaluated yet
# is "Unknown", which is a finding for Ready only.
_CONDITIONS = (
    ("Ready", ("False", "Unknown"), "KEDA reports it as not ready", "see: kubectl describe {kind}"),
    ("Paused", ("True",), "it is paused", "remove KEDA's annotation to scale it again"),
    ("Fallback", ("True",), "KEDA uses its fallback, because the scaler has no value", "run explain to see the reason"),
)


async def check_scaled_objects(context: ClusterContext) -> AsyncIterator[Finding]:
    """Read the ScaledObjects and ScaledJobs that name this installation, and check each of them."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for kind, resource in _RESOURCES.items():
        try:
            found[kind] = [item async for item in _naming_this_installation(context, resource)]
        except ApiError as error:
            if error.status == NOT_FOUND:
                text = f"the API server does not know {kind}s"
                yield problem(_CHECK, text, "install KEDA with its CustomResourceDefinitions", Heading.KEDA)
                return
            yield list_error(_CHECK, f"{kind}s", error)
    context.scaled_objects = [item for items in found.values() for item in items]
    if not context.scaled_objects:
        if len(found) == len(_RESOURCES):
            text = f"no ScaledObject and no ScaledJob names {context.installation.host}"
            remedy = "create one: see the keys in docs/reference/trigger.md and the examples in deploy/examples"
            yield skipped(_CHECK, text, remedy)
        return
    findings = [one for kind, items in found.items() for item in items for one in _check_object(context, kind, item)]
    for finding in limited(findings, _CHECK):
        yield finding
    for kind, items in found.items():
        ready = sum(_status(item, "Ready") == "True" for item in items)
        active = sum(_status(item, "Active") == "True" for item in items)
        if ready:
            yield ok(_CHECK, f"{ready} of {len(items)} {kind}s that name this scaler are ready, {active} active")


async def _naming_this_installation(context: ClusterContext, resource: str) -> AsyncIterator[Mapping[str, Any]]:
    for namespace in context.installation.workload_namespaces or ("",):
        query = ResourceQuery(resource, "keda.sh", "v1alpha1", namespace)
        for item in await context.api.items(query):
            if any(True for _ in _own_addresses(context, item)):
                yield item


def _own_addresses(context: ClusterContext, scaled: Mapping[str, Any]) -> Iterator[str]:
    """Yield each scalerAddress that names a Service of this installation."""
    installation = context.installation
    for metadata in trigger_metadata(scaled):
        address = str(metadata.get("scalerAddress") or "")
        services = (installation.service, installation.agent_service)
        if any(installation.is_named_by(address, service) for service in services):
            yield address


def _check_object(context: ClusterContext, kind: str, scaled: Mapping[str, Any]) -> Iterator[Finding]:
    name, installation = object_name(scaled), context.installation
    for address in _own_addresses(context, scaled):
        if installation.is_named_by(address, installation.agent_service):
            text = f"{name}: scalerAddress {address} is the agents' headless Service, so KEDA calls each agent in turn"
            remedy = f"name {installation.host}:{context.options.port}"
            yield problem(_CHECK, text, remedy, Heading.NOT_REACHED)
    yield from _validate(context, kind, scaled)
    for condition_type, states, text, remedy in _CONDITIONS:
        if _status(scaled, condition_type) in states:
            report = problem if condition_type == "Ready" else warning
            message = str(condition(scaled, condition_type).get("message") or "")[:_MAX_MESSAGE_LENGTH]
            suffix = f": {message}" if message else ""
            yield report(_CHECK, f"{name}: {text}{suffix}", remedy.format(kind=kind.lower()), Heading.SCALEDOBJECT)


def _validate(context: ClusterContext, kind: str, scaled: Mapping[str, Any]) -> Iterator[Finding]:
    """Apply the rules of ``validate`` to the triggers with an address of this installation, whatever its name."""
    shown = {key: scaled.get(key) for key in ("metadata", "spec")}
    text = yaml.safe_dump({"apiVersion": "keda.sh/v1alpha1", "kind": kind, **shown})
    hosts = [host_of(address) for address in _own_addresses(context, scaled)]
    for finding in validate_text(text, hosts=hosts).findings:
        report = problem if finding.severity is Severity.ERROR else warning
        message, remedy = split_remedy(finding.message, "correct the trigger's metadata")
        yield report(_CHECK, f"{object_name(scaled)}: {message}", remedy, Heading.INVALID_METADATA)


def _status(scaled_object: Mapping[str, Any], kind: str) -> str | None:
    """Return the status of a condition, None where KEDA has not written it."""
    found = condition(scaled_object, kind)
    return str(found.get("status")) if found else None
