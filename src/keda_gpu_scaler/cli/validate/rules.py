# SPDX-License-Identifier: Apache-2.0
"""What does a file ask of us? Its ScaledObjects and ScaledJobs, and what is wrong with them, line by line.

The law of this module: what is found says where it stands, what is wrong and what to do; a file of anybody's ends in
findings, never in a traceback. Triggers of other scalers are none of our business.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml

from keda_gpu_scaler.cli.validate.engine_images import ManifestWorkload, engine_of, serving
from keda_gpu_scaler.core.hpa.reported_value import REPORT_OF_TYPE
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.core.trigger.metric_type import ASSUMED
from keda_gpu_scaler.core.trigger.parser import PARAMETERS, Scope, Trigger, TriggerError, parse_trigger

NAME = "keda-gpu-scaler"
KINDS = ("ScaledObject", "ScaledJob")
_TYPES = ("external", "external-push")
_OURS = frozenset(parameter.key for parameter in PARAMETERS)
_FROM_ENVIRONMENT = "FromEnv"
_KEY = re.compile(r'metadata(?:\.([^:]+)|: "([^"]+)")')
_AGENTS = "-agents"
_MEMORY = frozenset({"memory_used_percent", "memory_used_mib"})
_PREALLOCATING = {"vllm-inference": "vLLM", "tgi-inference": "TGI"}
_COOLDOWN_SECONDS = 300
"""KEDA's own default. A 70B model whose weights are cached is back in 60 to 130 s, in 2 to 7 minutes otherwise."""
_POLLING_SECONDS = 30

_Path = tuple[str | int, ...]


class Severity(StrEnum):
    """Whether it cannot work, or will surprise somebody."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class ValidationFinding:
    """What is wrong, and where; lines and columns count from 1."""

    line: int
    column: int
    severity: Severity
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in one text, in order, and how many triggers of ours there were."""

    findings: tuple[ValidationFinding, ...]
    triggers: int


def check(text: str, beside: Iterable[ManifestWorkload] = ()) -> Checked:
    """Read YAML documents and check every trigger of ours in them.

    Args:
        text: the documents.
        beside: workloads that other texts hold (``workloads``), which may be scale targets of these.
    """
    findings: list[ValidationFinding] = []
    triggers = 0
    try:
        documents, broken = _read(text)
        findings += broken
        known = (*beside, *serving(document.value for document in documents))
        for document in documents:
            for scaled in _scaled(document, known):
                triggers += len(scaled.ours)
                findings += scaled.findings()
    except RecursionError:
        findings.append(
            ValidationFinding(1, 1, Severity.ERROR, "", "not YAML that can be read: it is nested without end")
        )
    return Checked(tuple(sorted(findings)), triggers)


def workloads(text: str) -> list[ManifestWorkload]:
    """Return the workloads in YAML documents that serve with an engine that keeps its memory."""
    if "containers" not in text:
        return []
    try:
        return list(serving(document.value for document in _read(text)[0]))
    except RecursionError:
        return []


def _read(text: str) -> tuple[list["_Document"], list[ValidationFinding]]:
    """Return the documents up to one that is none, and what is wrong with that."""
    documents = []
    try:
        for document in _documents(text):
            documents.append(document)  # noqa: PERF402 - those before one that cannot be read count too
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        message = f"not YAML that can be read: {what}; render templates first"
        return documents, [ValidationFinding(where[0], where[1], Severity.ERROR, "", message)]
    return documents, []


@dataclass(frozen=True, slots=True)
class _Document:
    """A value, and the nodes it was made of, which know where they stand."""

    value: Any
    node: yaml.Node

    def where(self, path: _Path) -> tuple[int, int]:
        """Return line and column of a key (or item), or of the nearest there is on the way to it."""
        node, mark = self.node, self.node.start_mark
        for step in path:
            found = _step(node, step)
            if found is None:
                break
            mark, node = found
        return mark.line + 1, mark.column + 1


def _step(node: yaml.Node, step: str | int) -> tuple[yaml.Mark, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark, value) for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark, node.value[step]
    return None


def _documents(text: str) -> Iterator[_Document]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield _Document(loader.construct_document(node), node)
    finally:
        loader.dispose()


def _scaled(document: _Document, known: Sequence[ManifestWorkload]) -> Iterator["_Scaled"]:
    """Find the objects of KEDA's in a document, also within a List."""
    items = _mapping(document.value).get("items")
    places: list[_Path] = [()]
    if isinstance(items, list):
        places = [("items", number) for number in range(len(items))]
    for place in places:
        value = _mapping(_at(document.value, place))
        if value.get("kind") in KINDS and str(value.get("apiVersion", "")).startswith("keda.sh/"):
            yield _Scaled(document, place, known)


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A ScaledObject or ScaledJob."""

    document: _Document
    place: _Path
    known: Sequence[ManifestWorkload]

    @property
    def spec(self) -> Mapping[str, Any]:
        return _mapping(_mapping(_at(self.document.value, self.place)).get("spec"))

    @property
    def triggers(self) -> Sequence[Any]:
        triggers = self.spec.get("triggers")
        return triggers if isinstance(triggers, list) else ()

    @property
    def ours(self) -> list[int]:
        return [number for number, trigger in enumerate(self.triggers) if _is_ours(_mapping(trigger))]

    @property
    def metadata(self) -> Mapping[str, Any]:
        return _mapping(_mapping(_at(self.document.value, self.place)).get("metadata"))

    @property
    def sleeps(self) -> bool:
        """Whether it may be at zero replicas."""
        return _count(self.spec, "minReplicaCount", 0) == 0 or self.spec.get("idleReplicaCount") == 0

    @property
    def engine(self) -> str | None:
        """What the scale target serves with, where that keeps its memory and its manifest is known."""
        if "jobTargetRef" in self.spec:
            return engine_of(self.spec["jobTargetRef"])
        target = _mapping(self.spec.get("scaleTargetRef"))
        meant = (str(target.get("kind") or "Deployment"), str(self.metadata.get("namespace") or ""))
        name = str(target.get("name"))
        return next((one.engine for one in self.known if one.matches(*meant, name)), None)

    @property
    def title(self) -> str:
        metadata = self.metadata
        names = [str(metadata[key]) for key in ("namespace", "name") if metadata.get(key)]
        return ascii("/".join(names)[:317])[1:-1]

    def findings(self) -> Iterator[ValidationFinding]:
        if not self.ours:
            return
        yield from self._of_sizes()
        if self.sleeps:
            yield from self._of_sleep()
        for number in self.ours:
            yield from self._of_trigger(("spec", "triggers", number), _mapping(self.triggers[number]))

    def _finding(self, severity: Severity, path: _Path, message: str) -> ValidationFinding:
        return ValidationFinding(*self.document.where((*self.place, *path)), severity, self.title, message)

    def _of_sizes(self) -> Iterator[ValidationFinding]:
        least, most = _count(self.spec, "minReplicaCount", 0), _count(self.spec, "maxReplicaCount", 100)
        if most < least:
            yield self._finding(
                Severity.ERROR, ("spec", "maxReplicaCount"),
                f"spec.maxReplicaCount: Invalid value: {most}: must not be below minReplicaCount ({least})",
            )  # fmt: skip

    def _of_sleep(self) -> Iterator[ValidationFinding]:
        if not any(map(self._wakes, range(len(self.triggers)))):
            key = "idleReplicaCount" if self.spec.get("idleReplicaCount") == 0 else "minReplicaCount"
            yield self._finding(
                Severity.WARNING, ("spec", key),
                f"spec.{key}: Invalid value: 0: nothing here can wake it: a workload at zero holds no GPU; set "
                "minReplicaCount: 1, name a demandEndpoint, or add a trigger that sees the demand",
            )  # fmt: skip
        demanding = [number for number in self.ours if self._has_demand(number)]
        if demanding and not any(self.triggers[number].get("type") == "external-push" for number in demanding):
            poll = _count(self.spec, "pollingInterval", _POLLING_SECONDS)
            yield self._finding(
                Severity.WARNING, ("spec", "triggers", demanding[0], "type"),
                f'type: Invalid value: "external": demand wakes the workload only when KEDA polls, every {poll} s; say '
                "external-push",
            )  # fmt: skip
        cooldown = _count(self.spec, "cooldownPeriod", _COOLDOWN_SECONDS)
        if cooldown < _COOLDOWN_SECONDS and not all(self._follows_others(number) for number in self.ours):
            yield self._finding(
                Severity.WARNING, ("spec", "cooldownPeriod"),
                f"spec.cooldownPeriod: Invalid value: {cooldown}: a pause that short may end in a cold start, which "
                "takes a large model 60 to 130 s with its weights cached and 2 to 7 minutes without; set "
                f"{_COOLDOWN_SECONDS} or more",
            )  # fmt: skip

    def _wakes(self, number: int) -> bool:
        """Whether a trigger can be active while the workload is at zero: ours by demand, or by others' devices."""
        return number not in self.ours or self._has_demand(number) or self._follows_others(number)

    def _has_demand(self, number: int) -> bool:
        return bool(self._said(number).keys() & {"demandEndpoint", "demandEndpoint" + _FROM_ENVIRONMENT})

    def _follows_others(self, number: int) -> bool:
        return self._said(number).get("scope") in (Scope.FLEET, Scope.NODE)

    def _said(self, number: int) -> Mapping[Any, Any]:
        return _mapping(_mapping(self.triggers[number]).get("metadata"))

    def _of_trigger(self, path: _Path, trigger: Mapping[str, Any]) -> Iterator[ValidationFinding]:
        metadata = _mapping(trigger.get("metadata"))
        inside = (*path, "metadata")
        for key, value in metadata.items():
            if not isinstance(value, str):
                message = f"metadata.{quoted(str(key))[1:-1]}: Invalid value: {quoted(_plain(value))}"
                yield self._finding(Severity.ERROR, (*inside, key), f"{message}: must be text: quote it")
        yield from self._of_address(inside, metadata)
        said = {str(key): _text(value) for key, value in metadata.items() if not str(key).endswith(_FROM_ENVIRONMENT)}
        try:
            parsed = parse_trigger(said)
        except TriggerError as error:
            for problem in error.problems:
                yield self._finding(Severity.ERROR, (*inside, _key(problem)), problem)
            return
        for hint in parsed.hints:
            yield self._finding(Severity.WARNING, (*inside, _key(hint)), hint)
        yield from self._of_type(path, trigger, parsed)
        yield from self._of_memory(inside, said, parsed)
        if said.get("enableTLS", "").lower() == "true" and "authenticationRef" not in trigger:
            yield self._finding(
                Severity.WARNING, (*inside, "enableTLS"),
                'metadata.enableTLS: Invalid value: "true": without an authenticationRef KEDA knows no CA but those of '
                "its image: name a TriggerAuthentication with caCert",
            )  # fmt: skip

    def _of_address(self, inside: _Path, metadata: Mapping[str, Any]) -> Iterator[ValidationFinding]:
        if "scalerAddress" + _FROM_ENVIRONMENT in metadata:
            return
        address = metadata.get("scalerAddress")
        if address is None:
            message = f"metadata.scalerAddress: Required value: for example {NAME}.keda.svc.cluster.local:6000"
            yield self._finding(Severity.ERROR, inside, message)
            return
        host, _, port = str(address).rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
            message = (
                f"metadata.scalerAddress: Invalid value: {quoted(str(address))}: must be HOST:PORT, without a scheme"
            )
            yield self._finding(Severity.ERROR, (*inside, "scalerAddress"), message)
            return
        service, _, domain = host.partition(".")
        if service.endswith(_AGENTS):
            asked = f"{service.removesuffix(_AGENTS)}.{domain}".rstrip(".")
            yield self._finding(
                Severity.WARNING, (*inside, "scalerAddress"),
                f"metadata.scalerAddress: Invalid value: {quoted(str(address), 100)}: leads to any one of the agents, "
                f"which behind a front end sees its own node alone; name the Service that KEDA asks: {asked}:{port}",
            )  # fmt: skip

    def _of_memory(self, inside: _Path, said: Mapping[str, str], parsed: Trigger) -> Iterator[ValidationFinding]:
        if parsed.metric.name not in _MEMORY:
            return
        seen = None if parsed.scope in (Scope.FLEET, Scope.NODE) else self.engine
        engine = seen or _PREALLOCATING.get(parsed.profile or "")
        if engine:
            key = next((key for key in ("targetMemoryUtilization", "metricType", "profile") if key in said), "")
            yield self._finding(
                Severity.WARNING, (*inside, key),
                f"metadata.{key}: Invalid value: {quoted(said.get(key, ''))}: {engine} takes its memory when it starts "
                "and keeps it, so the workload may never shrink; say profile: llm instead",
            )  # fmt: skip

    def _of_type(self, path: _Path, trigger: Mapping[str, Any], parsed: Trigger) -> Iterator[ValidationFinding]:
        kind = trigger.get("metricType", ASSUMED)
        if kind not in REPORT_OF_TYPE:
            yield self._finding(
                Severity.ERROR, (*path, "metricType"),
                f"metricType: Unsupported value: {quoted(_plain(kind))}: must be AverageValue or Value",
            )  # fmt: skip
        elif parsed.report not in ("auto", REPORT_OF_TYPE[kind]):
            yield self._finding(
                Severity.ERROR, (*path, "metadata", "report"),
                f"metadata.report: Invalid value: {quoted(parsed.report)}: of metricType {kind} the HPA expects the "
                f"{REPORT_OF_TYPE[kind]}: say report: {REPORT_OF_TYPE[kind]}, or leave it out",
            )  # fmt: skip


def _is_ours(trigger: Mapping[str, Any]) -> bool:
    """Whether a trigger is meant for this scaler: by the address, or else by keys that are ours."""
    if trigger.get("type") not in _TYPES:
        return False
    metadata = _mapping(trigger.get("metadata"))
    if NAME in str(metadata.get("scalerAddress", "")):
        return True
    return any(str(key).removesuffix(_FROM_ENVIRONMENT) in _OURS for key in metadata)


def _key(problem: str) -> str:
    """The metadata key that a sentence of the parser's is about."""
    found = _KEY.match(problem)
    return (found[1] or found[2]) if found else ""


def _count(spec: Mapping[str, Any], key: str, default: int) -> int:
    value = spec.get(key, default)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _at(value: Any, path: _Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _text(value: Any) -> str:
    """What KEDA would make of it, had it been quoted."""
    return value if isinstance(value, str) else str(_plain(value)).lower()


def _plain(value: Any) -> Any:
    """What JSON can hold: of YAML's dates and sets their text."""
    return value if value is None or isinstance(value, str | int | float | bool | list | dict) else str(value)
