# SPDX-License-Identifier: Apache-2.0
"""Checks the ScaledObjects and ScaledJobs in a text of YAML documents.

Law: a finding names its place, the error and the remedy. Triggers of other scalers are not checked.
"""

from collections.abc import Iterable, Iterator, Sequence

from keda_gpu_scaler.cli.validate.documents import Document, YamlPath, mapping, read_documents, value_at
from keda_gpu_scaler.cli.validate.engine_images import ManifestWorkload, serving
from keda_gpu_scaler.cli.validate.findings import Severity, ValidationFinding, ValidationReport
from keda_gpu_scaler.cli.validate.scaled_object_rules import ScaledManifest, check_scaled_manifest

KINDS = ("ScaledObject", "ScaledJob")
_TOO_DEEP = ValidationFinding(1, 1, Severity.ERROR, "", "not readable as YAML: it is nested too deeply")


def validate_text(
    text: str, other_workloads: Iterable[ManifestWorkload] = (), hosts: Sequence[str] = ()
) -> ValidationReport:
    """Read YAML documents, and check every trigger of this scaler.

    Args:
        text: the documents.
        other_workloads: workloads in other texts, which can be scale targets of this one (``workloads_in``).
        hosts: hosts of this scaler beside those with its name.
    """
    findings: list[ValidationFinding] = []
    trigger_count = 0
    try:
        documents, syntax_errors = read_documents(text)
        findings += syntax_errors
        workloads = (*other_workloads, *serving(document.value for document in documents))
        for document in documents:
            for manifest in _scaled_manifests(document, workloads, hosts):
                trigger_count += len(manifest.own_triggers)
                findings += check_scaled_manifest(manifest)
    except RecursionError:
        findings.append(_TOO_DEEP)
    return ValidationReport(tuple(sorted(findings)), trigger_count)


def workloads_in(text: str) -> list[ManifestWorkload]:
    """Return the workloads in YAML documents whose engine allocates its memory when it starts."""
    if "containers" not in text:
        return []
    try:
        return list(serving(document.value for document in read_documents(text)[0]))
    except RecursionError:
        return []


def _scaled_manifests(
    document: Document, workloads: Sequence[ManifestWorkload], hosts: Sequence[str]
) -> Iterator[ScaledManifest]:
    """Yield KEDA's objects in a document, also those in a List."""
    items = mapping(document.value).get("items")
    paths: list[YamlPath] = [()]
    if isinstance(items, list):
        paths = [("items", number) for number in range(len(items))]
    for path in paths:
        value = mapping(value_at(document.value, path))
        if value.get("kind") in KINDS:
            yield ScaledManifest(document, path, workloads, hosts)
