# SPDX-License-Identifier: Apache-2.0
"""A stand-in of kubectl that asks the API server of the kubeconfig, as far as the pages use it.

Law: a flag, a resource or an object that does not exist is an error. The flags are those of kubectl 1.32.
"""

import json
import os
import re
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.apiserver import TOKEN

_PLACEHOLDERS = {"POD": "pods"}
"""Names in capitals that a reader replaces; the first object in the namespace is taken."""
_SHORT = {"svc": "services", "hpa": "horizontalpodautoscalers"}
_RESOURCES: Mapping[str, str] = {
    "pods": "/api/v1", "nodes": "/api/v1", "services": "/api/v1", "events": "/api/v1", "serviceaccounts": "/api/v1",
    "daemonsets": "/apis/apps/v1", "deployments": "/apis/apps/v1", "scaledobjects": "/apis/keda.sh/v1alpha1",
    "horizontalpodautoscalers": "/apis/autoscaling/v2", "runtimeclasses": "/apis/node.k8s.io/v1",
}  # fmt: skip
_CLUSTER = {"nodes", "runtimeclasses"}


FOREVER = -1
"""The exit status of a command that goes on until it is ended."""


class UsageError(Exception):
    """The command has a flag or an argument that kubectl does not have, or an object does not exist."""


@dataclass(frozen=True)
class Call:
    """The command that a pod or a plugin runs."""

    words: list[str]


@dataclass(frozen=True)
class _Given:
    """The arguments of a command, its flags, and what comes after ``--``."""

    names: list[str]
    flags: Mapping[str, list[str]]
    command: list[str]

    @property
    def namespace(self) -> str:
        return (self.flags.get("-n") or self.flags.get("--namespace") or ["default"])[0]

    def one(self, flag: str) -> str:
        return (self.flags.get(flag) or [""])[0]


def run(words: list[str]) -> int | Call:
    """Run a command; return its exit status, or what it runs elsewhere."""
    for at, word in enumerate(words):
        if word in _VERBS:
            values, switches, handle = _VERBS[word]
            return handle(_read([*words[:at], *words[at + 1 :]], values | {"-n", "--namespace"}, switches))
        if not word.startswith("-") and not (at and words[at - 1] in ("-n", "--namespace")):
            break
    plugin = f"kubectl-{words[0].replace('-', '_')}"
    if shutil.which(plugin) is None:
        raise UsageError(f'unknown command "{words[0]}", and there is no {plugin} on the PATH')
    return Call([plugin, *words[1:]])


def _read(words: list[str], values: set[str], switches: set[str]) -> _Given:
    before, command = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    names: list[str] = []
    flags: dict[str, list[str]] = {}
    left = list(before)
    while left:
        word = left.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            names.append(word)
        elif flag in values:
            flags.setdefault(flag, []).append(value if equals else left.pop(0))
        elif word in switches:
            flags[word] = []
        else:
            raise UsageError(f"unknown flag: {word}")
    return _Given(names, flags, command)


# ---- the API server ----


def _ask(path: str, query: Mapping[str, str] | None = None, patch: object = None) -> Any:
    config = yaml.safe_load(Path(os.environ["HOME"], ".kube", "config").read_text())
    url = f"{config['clusters'][0]['cluster']['server']}{path}?{urllib.parse.urlencode(query or {})}"
    headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
    if patch is not None:
        headers["Content-Type"] = "application/merge-patch+json"
    data, method = (json.dumps(patch).encode(), "PATCH") if patch is not None else (None, "GET")
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - an http URL
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - an http URL
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise UsageError(json.load(error)["message"]) from error


def _path(resource: str, namespace: str) -> str:
    where = "" if resource in _CLUSTER or not namespace else f"/namespaces/{namespace}"
    return f"{_RESOURCES[resource]}{where}/{resource}"


def _resource(word: str) -> str:
    for plural in (_SHORT.get(word, ""), word, f"{word}s", f"{word}es"):
        if plural in _RESOURCES:
            return plural
    raise UsageError(f'the server doesn\'t have a resource type "{word}"')


def _objects(given: _Given) -> list[dict[str, Any]]:
    """Return the objects that ``RESOURCE [NAME…]`` or ``RESOURCE/NAME`` and the selectors choose."""
    kind, slash, name = given.names[0].partition("/")
    names = [name] if slash else given.names[1:]
    resource = _resource(kind)
    if names:
        return [_ask(f"{_path(resource, given.namespace)}/{name}") for name in names]
    query = {"labelSelector": given.one("-l")} if given.one("-l") else {}
    items = _ask(_path(resource, "" if "-A" in given.flags else given.namespace), query)["items"]
    field, _, value = given.one("--field-selector").partition("=")
    found = [item for item in items if not field or _field(item, field) == [value]]
    if not found:
        raise UsageError(f"No resources found in {given.namespace} namespace.")
    return found


def _field(item: object, path: str) -> list[str]:
    """Return the values at a path such as ``.spec.triggers[*].metadata.scalerAddress``."""
    found = [item]
    for step in re.findall(r"(?:\\.|[^.\[])+|\[\*\]", path):
        key = step.replace("\\", "")
        if step == "[*]":
            found = [one for inner in found if isinstance(inner, list) for one in inner]
        else:
            found = [inner[key] for inner in found if isinstance(inner, dict) and key in inner]
    return [str(one) for one in found]


# ---- the commands ----


def _get(given: _Given) -> int:
    found, style = _objects(given), given.one("-o")
    kind, equals, columns = style.partition("=")
    if style == "json":
        print(json.dumps(found[0] if len(found) == 1 else {"kind": "List", "items": found}))
    elif kind == "custom-columns" and equals:
        pairs = [column.partition(":")[::2] for column in columns.split(",")]
        if not all(path.startswith(".") for _, path in pairs):
            raise UsageError(f"custom-columns format must be HEADER:.json.path, not {columns}")
        print(*(heading for heading, _ in pairs))
        for item in found:
            print(*(",".join(_field(item, path)) or "<none>" for _, path in pairs))
    elif style in ("", "wide"):
        labels = given.flags.get("-L", [""])[0].split(",")
        print("NAME", *(label.rpartition("/")[2].upper() for label in labels))
        for item in found:
            own = item["metadata"].get("labels", {})
            print(item["metadata"]["name"], *(own.get(label, "") for label in labels))
    else:
        raise UsageError(f"unable to match a printer suitable for the output format {style}")
    return 0


def _describe(given: _Given) -> int:
    for item in _objects(given):
        print(f"Name: {item['metadata']['name']}\n{yaml.safe_dump({'Status': item.get('status', {})})}")
    return 0


def _exists(given: _Given) -> int:
    _objects(given)
    return 0


def _rollout(given: _Given) -> int:
    if given.names[0] != "status":
        raise UsageError(f"rollout {given.names[0]}: the stand-in does not know it")
    return _exists(_Given(given.names[1:], given.flags, []))


def _logs(given: _Given) -> int:
    """Print the log of the instance for each pod."""
    log = Path(os.environ["NEWCOMER_STATE"], "instance.log").read_text().splitlines()
    for item in _objects(_Given(["pods", *given.names], given.flags, [])):
        [container] = item["spec"]["containers"]
        for line in log:
            print(f"[pod/{item['metadata']['name']}/{container['name']}] {line}")
    return 0


def _exec(given: _Given) -> Call:
    _objects(_with_kind(given))
    if not given.command:
        raise UsageError("you must specify at least one command for the container")
    return Call(given.command)


def _with_kind(given: _Given) -> _Given:
    """Return the arguments with ``pods`` before the name of a pod."""
    name = given.names[0]
    if name in _PLACEHOLDERS:
        name = _objects(_Given([_PLACEHOLDERS[name]], given.flags, []))[0]["metadata"]["name"]
    return _Given([name if "/" in name else f"pods/{name}"], given.flags, [])


def _port_forward(given: _Given) -> int:
    """Check the port; the instance itself listens on loopback. In the foreground it ends at once."""
    [item] = _objects(_with_kind(given))
    spec = item["spec"]
    declared = {port["port"] for port in spec.get("ports", ())}
    declared |= {port["containerPort"] for one in spec.get("containers", ()) for port in one.get("ports", ())}
    for pair in given.names[1:]:
        if int(pair.rpartition(":")[2]) not in declared:
            raise UsageError(f"{item['metadata']['name']} does not have a port {pair}")
    # A shell gives what it starts in the background an empty standard input.
    return FOREVER if Path("/dev/fd/0").samefile(os.devnull) else 0


def _label(given: _Given) -> int:
    if not re.fullmatch(r"[a-z0-9./-]+=[A-Za-z0-9._-]*", given.names[-1]):
        raise UsageError(f"{given.names[-1]}: no label")
    return _exists(_Given(given.names[:-1], given.flags, []))


def _annotate(given: _Given) -> int:
    resource, name, pair = given.names
    key, _, value = pair.partition("=")
    path = f"{_path(_resource(resource), given.namespace)}/{name}"
    _ask(path)
    _ask(path, patch={"metadata": {"annotations": {key: value}}})
    return 0


def _create(given: _Given) -> int:
    if given.names[0] == "token" and given.one("--audience"):
        _objects(_Given(["serviceaccounts", given.names[1]], given.flags, []))
        print(TOKEN)
        return 0
    if given.names[:2] != ["secret", "generic"] or not given.flags.get("--from-file"):
        raise UsageError(f"create {' '.join(given.names)}: the stand-in does not know it")
    for source in given.flags["--from-file"]:
        path = Path(source.rpartition("=")[2])
        if not path.read_text().startswith("-----BEGIN "):
            raise UsageError(f"{path}: no certificate and no key")
    return 0


def _apply(given: _Given) -> int:
    file = given.one("-f")
    documents = list(yaml.safe_load_all(sys.stdin.read() if file == "-" else Path(file).read_text()))
    for document in documents:
        if not document["apiVersion"] or not document["kind"] or not document["metadata"]["name"]:
            raise UsageError("error validating data: apiVersion, kind or name is not set")
    return 0 if documents else 1


def _krew(given: _Given) -> int:
    """Accept the manifest of a release; its content is tested in tests/image."""
    return 0 if given.one("--manifest-url").endswith("/gpu-scaler.yaml") else 1


_VERBS: Mapping[str, tuple[set[str], set[str], Callable[[_Given], int | Call]]] = {
    "get": ({"-l", "-o", "-L", "--field-selector"}, {"-A"}, _get),
    "describe": (set(), set(), _describe),
    "rollout": (set(), set(), _rollout),
    "logs": ({"-l", "--tail"}, {"--prefix"}, _logs),
    "exec": (set(), set(), _exec),
    "port-forward": (set(), set(), _port_forward),
    "label": (set(), {"--overwrite"}, _label),
    "annotate": (set(), {"--overwrite"}, _annotate),
    "create": ({"--audience", "--from-file"}, set(), _create),
    "apply": ({"-f"}, set(), _apply),
    "krew": (
        {"--manifest-url"},
        set(),
        lambda given: int(not given.one("--manifest-url").endswith("/gpu-scaler.yaml")),
    ),
}
"""The flags with a value, those without one, and what the command does."""
