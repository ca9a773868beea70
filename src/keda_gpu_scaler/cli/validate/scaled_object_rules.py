# SPDX-License-Identifier: Apache-2.0
"""Checks the replica counts, the activation and the cooldown of a ScaledObject or ScaledJob."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keda_gpu_scaler.cli.validate.documents import Document, YamlPath, integer, mapping, value_at
from keda_gpu_scaler.cli.validate.endpoint_rules import check_endpoints
from keda_gpu_scaler.cli.validate.engine_images import ManifestWorkload, engine_of
from keda_gpu_scaler.cli.validate.engine_rules import check_engine_triggers
from keda_gpu_scaler.cli.validate.findings import Severity, ValidationFinding
from keda_gpu_scaler.cli.validate.named_engine_rules import check_named_engines
from keda_gpu_scaler.cli.validate.object_rules import check_object
from keda_gpu_scaler.cli.validate.problem import Problem
from keda_gpu_scaler.cli.validate.trigger_rules import check_trigger
from keda_gpu_scaler.cli.validate.trigger_set_rules import check_trigger_set
from keda_gpu_scaler.core.evaluate.report_type import JOBS_NEED_AVERAGE_VALUE
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.scaling_rules import Formula
from keda_gpu_scaler.core.trigger.demand_presets import DEMANDS, DemandPreset
from keda_gpu_scaler.core.trigger.near_keys import FROM_ENVIRONMENT
from keda_gpu_scaler.core.trigger.own_trigger import host_of, is_own_trigger, is_taken_for_own
from keda_gpu_scaler.core.trigger.parser import Scope
from keda_gpu_scaler.kube.keda_objects import formula, job_rules

_COOLDOWN_SECONDS = 300
"""KEDA's default. A 70B model starts in 60 to 130 s with cached weights, and in 2 to 7 minutes without."""
_POLLING_SECONDS = 30


@dataclass(frozen=True, slots=True)
class ScaledManifest:
    """A ScaledObject or ScaledJob at a path of a document.

    ``workloads`` are possible scale targets. ``hosts`` are hosts of this scaler beside those with its name.
    """

    document: Document
    path: YamlPath
    workloads: Sequence[ManifestWorkload]
    hosts: Sequence[str] = ()

    @property
    def spec(self) -> Mapping[str, Any]:
        """The object's spec."""
        return mapping(mapping(value_at(self.document.value, self.path)).get("spec"))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The object's own metadata."""
        return mapping(mapping(value_at(self.document.value, self.path)).get("metadata"))

    @property
    def triggers(self) -> Sequence[Any]:
        """The triggers of every scaler."""
        triggers = self.spec.get("triggers")
        return triggers if isinstance(triggers, list) else ()

    @property
    def own_triggers(self) -> list[int]:
        """The indexes of this scaler's triggers."""
        return [number for number, trigger in enumerate(self.triggers) if is_own_trigger(mapping(trigger), self.hosts)]

    @property
    def can_be_at_zero(self) -> bool:
        """Whether KEDA can scale it to zero replicas."""
        return integer(self.spec, "minReplicaCount", 0) == 0 or self.spec.get("idleReplicaCount") == 0

    @property
    def engine(self) -> str | None:
        """The engine of the scale target, if it allocates its memory at its start and its manifest is known."""
        if "jobTargetRef" in self.spec:
            return engine_of(self.spec["jobTargetRef"])
        return self.scale_target.engine if self.scale_target else None

    @property
    def scale_target(self) -> ManifestWorkload | None:
        """The scale target, if it runs such an engine and its manifest is known."""
        target = mapping(self.spec.get("scaleTargetRef"))
        kind, namespace = str(target.get("kind") or "Deployment"), str(self.metadata.get("namespace") or "")
        name = str(target.get("name"))
        return next((one for one in self.workloads if one.matches(kind, namespace, name)), None)

    @property
    def title(self) -> str:
        """The object's "namespace/name"."""
        names = [str(self.metadata[key]) for key in ("namespace", "name") if self.metadata.get(key)]
        return ascii("/".join(names)[:317])[1:-1]

    def trigger_metadata(self, number: int) -> Mapping[Any, Any]:
        """Return the metadata of a trigger."""
        return mapping(mapping(self.triggers[number]).get("metadata"))


def check_scaled_manifest(manifest: ScaledManifest) -> Iterator[ValidationFinding]:
    """Yield the findings about an object with triggers of this scaler."""
    for problem in _problems(manifest):
        position = manifest.document.position((*manifest.path, *problem.path))
        yield ValidationFinding(*position, problem.severity, manifest.title, problem.message)


def _problems(manifest: ScaledManifest) -> Iterator[Problem]:
    yield from _note_other_scalers(manifest)
    if not manifest.own_triggers:
        return
    value = mapping(value_at(manifest.document.value, manifest.path))
    yield from check_object(value)
    yield from _check_replica_counts(manifest)
    if "jobTargetRef" in manifest.spec:
        yield from _check_jobs(manifest)
    else:
        found = formula(manifest.spec)
        if found is not None:
            yield from _check_formula(manifest, found)
        yield from check_trigger_set(manifest.spec, manifest.own_triggers, found)
    if manifest.can_be_at_zero:
        yield from _check_activation(manifest)
        yield from _check_demand_at_zero(manifest)
        yield from _check_push(manifest)
        yield from _check_cooldown(manifest)
    for number in manifest.own_triggers:
        trigger = mapping(manifest.triggers[number])
        yield from check_trigger(("spec", "triggers", number), trigger, manifest.engine)
    triggers = {number: manifest.trigger_metadata(number) for number in manifest.own_triggers}
    yield from check_engine_triggers(value, triggers, manifest.scale_target)
    yield from check_named_engines(triggers, manifest.scale_target)
    yield from check_endpoints(str(manifest.metadata.get("namespace") or ""), triggers)


def _note_other_scalers(manifest: ScaledManifest) -> Iterator[Problem]:
    for number, trigger in enumerate(manifest.triggers):
        if is_taken_for_own(mapping(trigger), manifest.hosts):
            address = str(manifest.trigger_metadata(number)["scalerAddress"])
            yield Problem(
                Severity.INFO, ("spec", "triggers", number, "metadata", "scalerAddress"),
                f"metadata.scalerAddress: {quoted(address, 100)} is not an address of this scaler, so trigger "
                f"{number + 1} is not checked: if it is, add --address {quoted(host_of(address), 100)[1:-1]}",
            )  # fmt: skip


def _check_replica_counts(manifest: ScaledManifest) -> Iterator[Problem]:
    least, most = integer(manifest.spec, "minReplicaCount", 0), integer(manifest.spec, "maxReplicaCount", 100)
    if most < least:
        yield Problem(
            Severity.ERROR, ("spec", "maxReplicaCount"),
            f"spec.maxReplicaCount: Invalid value: {most}: must not be below minReplicaCount ({least})",
        )  # fmt: skip
    idle = integer(manifest.spec, "idleReplicaCount", 0)
    if "idleReplicaCount" in manifest.spec and idle >= least:
        yield Problem(
            Severity.ERROR, ("spec", "idleReplicaCount"),
            f"spec.idleReplicaCount: Invalid value: {idle}: KEDA refuses it, because it must be below minReplicaCount "
            f"({least})",
        )  # fmt: skip
    elif idle > 0:
        yield Problem(
            Severity.WARNING, ("spec", "idleReplicaCount"),
            f"spec.idleReplicaCount: Invalid value: {idle}: the HPA scales up to minReplicaCount again: use 0",
        )  # fmt: skip


def _check_jobs(manifest: ScaledManifest) -> Iterator[Problem]:
    if problem := job_rules(manifest.spec).problem():
        yield Problem(Severity.ERROR, tuple(problem.partition(":")[0].split(".")), problem)
    for number in manifest.own_triggers:
        if mapping(manifest.triggers[number]).get("metricType") == ValueType.VALUE:
            yield Problem(Severity.ERROR, ("spec", "triggers", number, "metricType"), JOBS_NEED_AVERAGE_VALUE)


def _check_formula(manifest: ScaledManifest, found: Formula) -> Iterator[Problem]:
    path = ("spec", "advanced", "scalingModifiers")
    if not found.target:
        message = "spec.advanced.scalingModifiers.target: Required value: KEDA refuses a formula without a target"
        yield Problem(Severity.ERROR, path, message)
    names = [mapping(trigger).get("name") for trigger in manifest.triggers]
    for number in manifest.own_triggers:
        name, key = names[number], ("spec", "triggers", number, "name")
        if not name:
            yield Problem(Severity.ERROR, key, "name: Required value: a formula takes a trigger by its name")
        elif names.count(name) > 1:
            message = f"name: Duplicate value: {quoted(str(name), 100)}: a formula takes a trigger by its name"
            yield Problem(Severity.ERROR, key, message)
        metric_type = mapping(manifest.triggers[number]).get("metricType", found.metric_type)
        if metric_type != found.metric_type:
            yield Problem(
                Severity.WARNING, ("spec", "triggers", number, "metricType"),
                f"metricType: Invalid value: {quoted(str(metric_type), 100)}: has no effect: the HPA uses that of the "
                f"formula, {found.metric_type}, and the trigger reports the number for it",
            )  # fmt: skip


def _check_activation(manifest: ScaledManifest) -> Iterator[Problem]:
    if any(_can_activate(manifest, number) for number in range(len(manifest.triggers))):
        return
    key = "idleReplicaCount" if manifest.spec.get("idleReplicaCount") == 0 else "minReplicaCount"
    yield Problem(
        Severity.WARNING, ("spec", key),
        f"spec.{key}: Invalid value: 0: no trigger here can activate it: a workload at zero holds no GPU; set "
        "minReplicaCount: 1, name a demandEndpoint, or add a trigger that reads the demand",
    )  # fmt: skip


def _check_demand_at_zero(manifest: ScaledManifest) -> Iterator[Problem]:
    activating = [number for number in range(len(manifest.triggers)) if _can_activate(manifest, number)]
    presets = [_preset_that_needs_a_replica(manifest, number) for number in activating]
    if not presets or (preset := presets[0]) is None or None in presets:
        return
    yield Problem(
        Severity.WARNING, ("spec", "triggers", activating[0], "metadata", "demand"),
        f'metadata.demand: Invalid value: "{preset.name}": it shows no request while no replica runs, so the workload '
        f"stays at zero; set minReplicaCount: 1, or begin demandMetric with {' or '.join(preset.counters)} "
        "(docs/reference/trigger.md, sources of demand)",
    )  # fmt: skip


def _preset_that_needs_a_replica(manifest: ScaledManifest, number: int) -> DemandPreset | None:
    """Return the preset of a trigger whose series show no request at zero replicas, None where they show them."""
    if number not in manifest.own_triggers:
        return None
    metadata = manifest.trigger_metadata(number)
    preset = DEMANDS.get(str(metadata.get("demand", "")))
    name = str(metadata.get("demandMetric", "")).partition("{")[0].strip()
    if preset is None or not preset.needs_replica or (name and name not in preset.series):
        return None
    return preset


def _check_push(manifest: ScaledManifest) -> Iterator[Problem]:
    with_demand = [number for number in manifest.own_triggers if _has_demand(manifest, number)]
    types = {manifest.triggers[number].get("type") for number in with_demand}
    if "external" not in types or any(
        manifest.triggers[number].get("type") == "external-push" for number in with_demand
    ):
        return
    seconds = integer(manifest.spec, "pollingInterval", _POLLING_SECONDS)
    yield Problem(
        Severity.WARNING, ("spec", "triggers", with_demand[0], "type"),
        f'type: Invalid value: "external": demand activates the workload only when KEDA polls, every {seconds} s; use '
        "external-push",
    )  # fmt: skip


def _check_cooldown(manifest: ScaledManifest) -> Iterator[Problem]:
    seconds = integer(manifest.spec, "cooldownPeriod", _COOLDOWN_SECONDS)
    follows_others = all(_follows_other_workloads(manifest, number) for number in manifest.own_triggers)
    if seconds < _COOLDOWN_SECONDS and not follows_others:
        yield Problem(
            Severity.WARNING, ("spec", "cooldownPeriod"),
            f"spec.cooldownPeriod: Invalid value: {seconds}: after so short a pause in the load, the workload may have "
            "to start again, which takes a large model 60 to 130 s with cached weights and 2 to 7 minutes without; set "
            f"{_COOLDOWN_SECONDS} or more",
        )  # fmt: skip


def _can_activate(manifest: ScaledManifest, number: int) -> bool:
    """Whether a trigger can be active at zero replicas: by demand, by other workloads, or as another scaler's."""
    return (
        number not in manifest.own_triggers
        or _has_demand(manifest, number)
        or _follows_other_workloads(manifest, number)
    )


def _has_demand(manifest: ScaledManifest, number: int) -> bool:
    return bool(manifest.trigger_metadata(number).keys() & {"demandEndpoint", "demandEndpoint" + FROM_ENVIRONMENT})


def _follows_other_workloads(manifest: ScaledManifest, number: int) -> bool:
    return manifest.trigger_metadata(number).get("scope") in (Scope.FLEET, Scope.NODE)
