# SPDX-License-Identifier: Apache-2.0
"""Finds what is wrong with a workflow: each problem is a sentence."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_PINNED = re.compile(r"^[\w.-]+/[\w./-]+@[0-9a-f]{40}$")
_UNTRUSTED = re.compile(
    r"\$\{\{\s*(github\.event\.|github\.head_ref|github\.ref_name|inputs\.|steps\.|needs\.|matrix\.|secrets\.)"
)
_WRITES = frozenset({"packages", "contents", "id-token", "attestations"})


def problems(text: str, read: Mapping[Any, Any]) -> list[str]:
    """Everything that is wrong with a workflow: its text, and the same as YAML reads it."""
    found = []
    # YAML 1.1 reads the key `on` as true.
    triggers = read.get("on", read.get(True, {}))
    if "pull_request_target" in triggers or "workflow_run" in triggers:
        found.append("on: strangers' code would run with the repository's rights")
    if read.get("permissions") != {"contents": "read"}:
        found.append("permissions: must be contents: read; a job asks for more itself")
    for name, job in read["jobs"].items():
        found += [f"jobs.{name}: {problem}" for problem in _job(job, triggers)]
    for line in re.findall(r"uses: (.*)", text):
        if not re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line):
            found.append(f"uses: {line}: must be a commit, with the version it is in a comment")
    return found


def _job(job: Mapping[str, Any], triggers: Any) -> Iterator[str]:
    writes = {what for what, level in job.get("permissions", {}).items() if level == "write"}
    if unknown := writes - _WRITES:
        yield f"permissions: {', '.join(sorted(unknown))}: nothing here needs to write that"
    if writes and "pull_request" in triggers:
        yield "permissions: a pull request's job writes nothing"
    if writes and job.get("environment") != "release":
        yield "environment: what writes is under the release environment's protection"
    if "timeout-minutes" not in job:
        yield "timeout-minutes: a job that hangs would do so for six hours"
    if str(job["runs-on"]).endswith("-latest"):
        yield f"runs-on: {job['runs-on']}: changes under our feet"
    for step in job["steps"]:
        yield from _step(step)


def _step(step: Mapping[str, Any]) -> Iterator[str]:
    uses, script = step.get("uses", ""), step.get("run", "")
    if uses and not _PINNED.match(uses):
        yield f"uses: {uses}: not pinned to a commit"
    if uses.startswith("actions/checkout@") and step.get("with", {}).get("persist-credentials") is not False:
        yield "actions/checkout: leaves a token in .git/config; persist-credentials: false"
    if found := _UNTRUSTED.search(script):
        yield f"run: {found[0]} }}}} in a script is code; pass it by env"
    if re.search(r"\b(curl|wget)\b.*\|\s*(ba)?sh", script):
        yield "run: pipes what it fetches into a shell"
