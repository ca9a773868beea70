# SPDX-License-Identifier: Apache-2.0
"""Renders the chart with some values, and checks how its objects fit together."""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from scripts import chart

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML was built with it


class Rendered:
    """The objects that one set of flags gives, by kind and name."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.objects: list[dict[str, Any]] = [one for one in yaml.load_all(text, _LOADER) if one]

    def all(self, *kinds: str) -> list[dict[str, Any]]:
        return [one for one in self.objects if one["kind"] in kinds]

    def one(self, kind: str, name: str) -> dict[str, Any]:
        [found] = [one for one in self.all(kind) if one["metadata"]["name"] == name]
        return found

    def pods(self) -> dict[str, dict[str, Any]]:
        """Every pod that there will be, by its component: metadata and spec.

        The agents of an entry of additionalAgents are "agent-" and its name.
        """
        made = {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in self.all("Pod")}
        for one in self.all("DaemonSet", "Deployment"):
            template = one["spec"]["template"]
            assert matches(one["spec"]["selector"]["matchLabels"], template), "the selector misses its own pods"
            labels = template["metadata"]["labels"]
            agents = labels.get("keda-gpu-scaler/agents", "default")
            component = labels["app.kubernetes.io/component"]
            made[component if agents == "default" else f"{component}-{agents}"] = template
        return made

    def selected(self, selector: Mapping[str, str]) -> set[str]:
        """The components of the pods with these labels."""
        return {component for component, pod in self.pods().items() if matches(selector, pod)}

    def grants(self, service_account: str) -> Iterator["Grant"]:
        """What an account may do."""
        for binding in self.all("RoleBinding", "ClusterRoleBinding"):
            if service_account not in {subject["name"] for subject in binding["subjects"]}:
                continue
            namespace = binding["metadata"].get("namespace", "") if binding["kind"] == "RoleBinding" else ""
            reference = binding["roleRef"]
            [role] = [
                one
                for one in self.all(reference["kind"])
                if one["metadata"]["name"] == reference["name"] and one["metadata"].get("namespace", "") == namespace
            ]
            for rule in role["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        for verb in rule["verbs"]:
                            yield (verb, group, resource, namespace)


Grant = tuple[str, str, str, str]
"""Verb, group, resource with its subresource, and the namespace that it holds in: "" is everywhere."""


def matches(selector: Mapping[str, str], pod: Mapping[str, Any]) -> bool:
    return bool(selector.items() <= pod["metadata"]["labels"].items())


class Renderings:
    """What helm renders, in a folder that the processes of the tests share: helm renders each shape once."""

    def __init__(self) -> None:
        self.folder: Path | None = None

    def text(self, flags: Sequence[str], namespace: str, release: str) -> str:
        if self.folder is None:
            return chart.template(*flags, namespace=namespace, release=release)
        key = hashlib.sha256(json.dumps([flags, namespace, release]).encode()).hexdigest()
        path = self.folder / f"{key}.yaml"
        if not path.exists():
            self.folder.mkdir(exist_ok=True)
            own = path.with_suffix(f".{os.getpid()}")
            own.write_text(chart.template(*flags, namespace=namespace, release=release))
            own.replace(path)
        return path.read_text()


RENDERINGS = Renderings()


@functools.cache
def render(*flags: str, namespace: str = "keda", release: str = "keda-gpu-scaler") -> Rendered:
    return Rendered(RENDERINGS.text(flags, namespace, release))


def container(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The chart's own container, which is the first one."""
    return dict(pod["spec"]["containers"][0])


def sets(*pairs: str) -> Sequence[str]:
    """Write --set before each."""
    return [word for pair in pairs for word in ("--set", pair)]
