# SPDX-License-Identifier: Apache-2.0
"""Checks KEDA's operator: its version, and whether it has a ready pod.

Source: KEDA 2.20, for the labels of its operator's Deployment.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from keda_gpu_scaler.cli.doctor.findings import Finding, Heading, ok, problem, skipped, warning
from keda_gpu_scaler.cli.doctor.installation import ClusterContext, list_error, object_name
from keda_gpu_scaler.kube.client import ApiError
from keda_gpu_scaler.kube.parse import first_image, labels, part
from keda_gpu_scaler.kube.resource_query import ResourceQuery

FLOAT_VALUES_SINCE = (2, 17)
"""The version of KEDA that reads fractions."""

_OPERATOR_LABELS = ("app.kubernetes.io/name=keda-operator", "app=keda-operator")
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:\.\d+)?\b", re.ASCII)


async def check_keda(context: ClusterContext) -> AsyncIterator[Finding]:
    """Find KEDA's operator, and check it."""
    try:
        operators = await _operators(context)
    except ApiError as error:
        yield list_error("keda", "Deployments", error)
        return
    if not operators:
        text = "no Deployment of KEDA's operator is found by its labels (app: keda-operator)"
        yield warning("keda", text, "install KEDA 2.17 or later, unless it has other labels here", Heading.KEDA)
    for operator in operators:
        for finding in _check_operator(operator):
            yield finding


async def _operators(context: ClusterContext) -> Sequence[Mapping[str, Any]]:
    for selector in _OPERATOR_LABELS:
        if found := await context.api.items(ResourceQuery("deployments", "apps", labels=selector)):
            return found
    return ()


def _check_operator(operator: Mapping[str, Any]) -> Iterator[Finding]:
    name, image = object_name(operator), first_image(operator)
    version = _version(image, operator)
    if version is None:
        yield skipped("keda", f"{name}: its image {image} does not contain its version")
    elif version < FLOAT_VALUES_SINCE:
        text = f"{name} is KEDA {version[0]}.{version[1]}, which reads integers only"
        remedy = "upgrade to 2.17 or later; until then, values are rounded up for it"
        yield warning("keda", text, remedy, Heading.KEDA)
    else:
        yield ok("keda", f"{name} is KEDA {version[0]}.{version[1]}, which reads fractions")
    if not part(operator, "status").get("readyReplicas"):
        remedy = "see its log; until it is ready, KEDA does not call the scaler"
        yield problem("keda", f"{name} has no ready pod", remedy, Heading.KEDA)


def _version(image: str, operator: Mapping[str, Any]) -> tuple[int, int] | None:
    """Read the version from the image's tag, or else from the operator's label."""
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    label = labels(operator).get("app.kubernetes.io/version", "")
    for text in (tag, label):
        if found := _VERSION.match(text):
            return int(found[1]), int(found[2])
    return None
