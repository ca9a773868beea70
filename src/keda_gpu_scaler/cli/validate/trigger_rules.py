# SPDX-License-Identifier: Apache-2.0
"""Checks one trigger of this scaler: its metadata, its address, its metricType, and targets of memory."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from keda_gpu_scaler.cli.validate.documents import YamlPath, as_text, json_value, mapping
from keda_gpu_scaler.cli.validate.findings import Severity
from keda_gpu_scaler.cli.validate.foreign_keys import check_environment_keys, check_foreign_keys, foreign_key_hint
from keda_gpu_scaler.cli.validate.problem import Problem
from keda_gpu_scaler.cli.validate.target_rules import check_targets
from keda_gpu_scaler.core.hpa.reported_value import REPORT_OF_TYPE
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.metadata import nearest
from keda_gpu_scaler.core.trigger.metric_type import ASSUMED
from keda_gpu_scaler.core.trigger.near_keys import FROM_ENVIRONMENT
from keda_gpu_scaler.core.trigger.own_trigger import SCALER_NAME, TRIGGER_TYPES, host_of, scheme_of
from keda_gpu_scaler.core.trigger.parser import Scope, Trigger, TriggerError, parse_trigger

_KEY = re.compile(r'metadata(?:\.([^:]+)|: "([^"]+)")')
_AGENTS_SUFFIX = "-agents"
_MEMORY_METRICS = frozenset({"memory_used_percent", "memory_used_mib"})
_PREALLOCATING_PROFILES = {"vllm-inference": "vLLM", "tgi-inference": "TGI"}
_RESOLVER_SCHEMES = ("dns", "passthrough")
"""The schemes of gRPC-Go that stand before HOST:PORT."""


def check_trigger(path: YamlPath, trigger: Mapping[str, Any], engine: str | None) -> Iterator[Problem]:
    """Yield the problems of a trigger.

    Args:
        path: of the trigger.
        trigger: the trigger.
        engine: the engine of the scale target, if it allocates its memory at its start; None if it is not known.
    """
    metadata = mapping(trigger.get("metadata"))
    metadata_path = (*path, "metadata")
    for key, value in metadata.items():
        if not isinstance(value, str):
            message = f"metadata.{quoted(str(key))[1:-1]}: Invalid value: {quoted(json_value(value))}"
            yield Problem(Severity.ERROR, (*metadata_path, key), f"{message}: must be text: quote it")
    yield from _check_type(path, trigger)
    yield from _check_address(metadata_path, metadata)
    yield from check_foreign_keys(metadata_path, metadata)
    yield from check_environment_keys(metadata_path, metadata)
    texts = {str(key): as_text(value) for key, value in metadata.items() if not str(key).endswith(FROM_ENVIRONMENT)}
    try:
        parsed = parse_trigger(texts)
    except TriggerError as error:
        for sentence in error.problems:
            if _is_from_environment(sentence, metadata):
                continue
            yield Problem(Severity.ERROR, (*metadata_path, _key_of(sentence)), sentence)
        return
    for hint in parsed.hints:
        if foreign_key_hint(_key_of(hint)) is None:
            yield Problem(Severity.WARNING, (*metadata_path, _key_of(hint)), hint)
    yield from check_targets(metadata_path, texts, parsed)
    yield from _check_metric_type(path, trigger, parsed)
    yield from _check_memory_target(metadata_path, texts, parsed, engine)
    yield from _check_ca(metadata_path, trigger, texts)


def _check_type(path: YamlPath, trigger: Mapping[str, Any]) -> Iterator[Problem]:
    given = trigger.get("type")
    if given in TRIGGER_TYPES:
        return
    near = nearest(as_text(given).replace("_", "-"), tuple(reversed(TRIGGER_TYPES)))
    remedy = f'did you mean "{near}"?' if near else "must be external or external-push"
    yield Problem(
        Severity.ERROR, (*path, "type"),
        f"type: Unsupported value: {quoted(json_value(given))}: KEDA has no scaler of this type with a scalerAddress: "
        f"{remedy}",
    )  # fmt: skip


def _check_address(metadata_path: YamlPath, metadata: Mapping[str, Any]) -> Iterator[Problem]:
    if "scalerAddress" + FROM_ENVIRONMENT in metadata:
        return
    address = metadata.get("scalerAddress")
    if address is None:
        message = f"metadata.scalerAddress: Required value: for example {SCALER_NAME}.keda.svc.cluster.local:6000"
        yield Problem(Severity.ERROR, metadata_path, message)
        return
    address_path = (*metadata_path, "scalerAddress")
    scheme = scheme_of(str(address))
    # dns://AUTHORITY/HOST:PORT names a server of names; dns:///HOST:PORT is the usual form.
    is_resolved = scheme.partition(":")[0] in _RESOLVER_SCHEMES
    rest = str(address)[len(scheme) :]
    if scheme and not is_resolved:
        yield Problem(
            Severity.ERROR, address_path,
            f"metadata.scalerAddress: Invalid value: {quoted(str(address), 100)}: must be HOST:PORT, without a scheme: "
            f"remove {quoted(scheme)}",
        )  # fmt: skip
        return
    host, _, port = (rest.rpartition("/")[2] if is_resolved else rest).rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        message = f"metadata.scalerAddress: Invalid value: {quoted(str(address))}: must be HOST:PORT, without a scheme"
        yield Problem(Severity.ERROR, address_path, message)
        return
    service, _, domain = host_of(host).partition(".")
    if service.endswith(_AGENTS_SUFFIX):
        called = f"{service.removesuffix(_AGENTS_SUFFIX)}.{domain}".rstrip(".")
        yield Problem(
            Severity.WARNING, address_path,
            f"metadata.scalerAddress: Invalid value: {quoted(str(address), 100)}: is the Service of the agents, and an "
            f"agent behind a front end has the readings of its own node only; name the Service for KEDA: "
            f"{called}:{port}",
        )  # fmt: skip


def _check_metric_type(path: YamlPath, trigger: Mapping[str, Any], parsed: Trigger) -> Iterator[Problem]:
    metric_type = trigger.get("metricType", ASSUMED)
    if metric_type not in REPORT_OF_TYPE:
        yield Problem(
            Severity.ERROR, (*path, "metricType"),
            f"metricType: Unsupported value: {quoted(json_value(metric_type))}: must be AverageValue or Value",
        )  # fmt: skip
    elif parsed.report not in ("auto", REPORT_OF_TYPE[metric_type]):
        report = REPORT_OF_TYPE[metric_type]
        yield Problem(
            Severity.ERROR, (*path, "metadata", "report"),
            f"metadata.report: Invalid value: {quoted(parsed.report)}: with metricType {metric_type} the HPA expects "
            f"the {report}: set report: {report}, or remove the key",
        )  # fmt: skip


def _check_memory_target(
    metadata_path: YamlPath, texts: Mapping[str, str], parsed: Trigger, target_engine: str | None
) -> Iterator[Problem]:
    if parsed.metric.name not in _MEMORY_METRICS:
        return
    is_target_only = parsed.scope not in (Scope.FLEET, Scope.NODE)
    engine = (target_engine if is_target_only else None) or _PREALLOCATING_PROFILES.get(parsed.profile or "")
    if engine:
        key = next((key for key in ("targetMemoryUtilization", "metricType", "profile") if key in texts), "")
        yield Problem(
            Severity.WARNING, (*metadata_path, key),
            f"metadata.{key}: Invalid value: {quoted(texts.get(key, ''))}: {engine} allocates its memory when it "
            "starts and keeps it, so the workload may never scale down; use profile: llm instead",
        )  # fmt: skip


def _check_ca(metadata_path: YamlPath, trigger: Mapping[str, Any], texts: Mapping[str, str]) -> Iterator[Problem]:
    if texts.get("enableTLS", "").lower() == "true" and "authenticationRef" not in trigger:
        yield Problem(
            Severity.WARNING, (*metadata_path, "enableTLS"),
            'metadata.enableTLS: Invalid value: "true": without an authenticationRef KEDA trusts only the CAs of its '
            "image: name a TriggerAuthentication with caCert",
        )  # fmt: skip


def _is_from_environment(sentence: str, metadata: Mapping[Any, Any]) -> bool:
    """Whether the parser misses a key that KEDA reads from the environment."""
    return ": Required value: " in sentence and _key_of(sentence) + FROM_ENVIRONMENT in metadata


def _key_of(sentence: str) -> str:
    """Return the metadata key that a sentence of the parser is about."""
    found = _KEY.match(sentence)
    return (found[1] or found[2]) if found else ""
