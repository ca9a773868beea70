# SPDX-License-Identifier: Apache-2.0
"""What would keep it from working, here or in the cluster? A line for each finding, with its remedy."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from keda_gpu_scaler.cli.doctor.findings import Finding, Outcome
from keda_gpu_scaler.cli.kube_session import access_of
from keda_gpu_scaler.cli.options import config_of, flags
from keda_gpu_scaler.cli.output import printable
from keda_gpu_scaler.config import Config, ConfigError
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.kube.auth import in_cluster

_OUTCOME, _LABEL = 9, 14
_NARROWEST = 60
_COLOURS = {Outcome.OK: "green", Outcome.SKIPPED: None, Outcome.WARNING: "yellow", Outcome.PROBLEM: "red"}


HELP = """Check what must be so before anything can be scaled; change nothing.

On a node: the driver and its devices, the device files, the kubelet's allocations, the ports, the clock and the
certificates. Give it the flags that `serve` has there.

With --cluster, from a pod or from your machine: the API server, KEDA, the ScaledObjects that name us, the rights
that the chart grants, the Service, the agents and how old their snapshots are, clocks and certificates.

\b
keda-gpu-scaler doctor
    this machine, as an agent would find it
keda-gpu-scaler doctor --backend replay:gpus.csv --pod-resources off
    a laptop that plays a recording
keda-gpu-scaler doctor --cluster --workloads-in ai
    the cluster that kubectl reaches
kubectl -n keda exec svc/keda-gpu-scaler -- keda-gpu-scaler doctor --cluster
    the same from within, which sees more: names, pods, the rights themselves
keda-gpu-scaler doctor --format json | jq 'select(.outcome != "ok")'
    for programs: check, outcome, text, remedy and link

What could not be looked at is skipped, and says why.

Exit status: 0 no problem (warnings aside, unless --strict), 1 a problem, 2 wrong usage, or a kubeconfig that
cannot be used.
"""


@click.command(help=HELP)
@click.option("--cluster", is_flag=True, help="Check the cluster instead of this machine.")
@click.option(
    "--kubeconfig", "path", metavar="PATH",
    help="How to reach the cluster; implies --cluster.  [default: the pod's service account, or what kubectl uses]",
)  # fmt: skip
@click.option("--namespace", metavar="NAME", help="Where the scaler is installed.  [default: the pod's own, or keda]")
@click.option(
    "--service", default="keda-gpu-scaler", show_default=True, metavar="NAME",
    help="The name of its Service and its service account, the chart's fullnameOverride.",
)  # fmt: skip
@click.option("--cluster-domain", default="cluster.local", show_default=True, metavar="NAME", help="The DNS domain.")
@click.option(
    "--workloads-in", multiple=True, metavar="NAMESPACE",
    help="Where workloads are, if not everywhere: the chart's rbac.namespaces. Repeat it for more.",
)  # fmt: skip
@click.option(
    "--format", "style", type=click.Choice(["text", "github", "json"]), default="text", show_default=True,
    metavar="[text|github|json]", help="For people, as GitHub's annotations, or one JSON object a line.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
@flags(
    "backend", "nvml_library", "node_name", "pod_resources", "host", "port", "metrics_port", "probe_port",
    "stale_after", "tls_cert", "tls_key", "tls_client_ca", "tls_ca", "tls_peer_name",
)  # fmt: skip
@click.pass_context
def doctor(ctx: click.Context, /, **given: Any) -> None:
    """Run the command."""
    style, strict, wants_cluster = given.pop("style"), given.pop("strict"), given.pop("cluster")
    where = {name: given.pop(name) for name in ("path", "namespace", "service", "cluster_domain", "workloads_in")}
    try:
        config = config_of(given)
    except ConfigError as error:
        raise click.UsageError(str(error), ctx) from error
    # The core library writes its own lines to the terminal when a connection is refused; ours says it better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    progress = _Progress()
    found: Counter[Outcome] = Counter()
    try:
        findings = (
            _of_cluster(config, where, progress) if wants_cluster or where["path"] else _of_node(config, progress)
        )
        for finding in findings:
            found[finding.outcome] += 1
            progress.clear()
            _say(shown(finding, style, _width()))
    except KubeError as error:
        progress.clear()
        raise click.UsageError(str(error), ctx) from error
    progress.clear()
    if style == "text":
        click.echo(", ".join(f"{found[outcome]} {outcome}" for outcome in Outcome if found[outcome]), err=True)
    ctx.exit(int(bool(found[Outcome.PROBLEM] or (strict and found[Outcome.WARNING]))))


def shown(finding: Finding, style: str, width: int | None = None) -> str:
    """Return a finding as it is printed; ``width`` is a terminal's, None where it is one line however long."""
    if style == "json":
        told = {"check": finding.check, "outcome": finding.outcome, "text": finding.text, "remedy": finding.remedy}
        return json.dumps({**told, "link": finding.link})
    advice = [f"{finding.remedy} ({finding.link})" if finding.link else finding.remedy] if finding.remedy else []
    if style == "github" and finding.outcome in (Outcome.WARNING, Outcome.PROBLEM):
        # The workflow command's own escapes.
        text = "; ".join([printable(finding.text), *map(printable, advice)]).replace("%", "%25")
        kind = "error" if finding.outcome is Outcome.PROBLEM else "warning"
        return f"::{kind} title=doctor {finding.check}::{text}"
    outcome = f"{finding.outcome:<{_OUTCOME}}" if style == "github" else _coloured(finding.outcome)
    label = f"{finding.check:<{_LABEL}}"
    if width is None:
        return outcome + label + "; ".join([printable(finding.text), *map(printable, advice)])
    indent = " " * (_OUTCOME + _LABEL)
    lines = _wrapped(printable(finding.text), width, indent, "")
    for text in advice:
        lines += _wrapped(printable(text), width, indent, "→ ")
    return outcome + label + "\n".join([lines[0].removeprefix(indent), *lines[1:]])


def _of_node(config: Config, progress: "_Progress") -> Iterator[Finding]:
    from keda_gpu_scaler.cli.doctor.certificates import certificate_steps
    from keda_gpu_scaler.cli.doctor.node import Machine, node_steps

    machine = Machine(is_pod=bool(os.environ.get("KUBERNETES_SERVICE_HOST")))
    for step in (*node_steps(config, machine), *certificate_steps(config, lambda: datetime.now(UTC))):
        progress.show(step.title)
        yield from step.look()


def _of_cluster(config: Config, where: dict[str, Any], progress: "_Progress") -> Iterator[Finding]:
    """Yield what is found in a cluster; an event loop turns between the findings.

    Raises:
        KubeError: the access cannot be used.
    """
    from keda_gpu_scaler.cli.doctor.certificates import certificate_steps
    from keda_gpu_scaler.cli.doctor.cluster import Installation, World, examine
    from keda_gpu_scaler.cli.doctor.endpoints import trusting

    with tempfile.TemporaryDirectory(prefix="keda-gpu-scaler-") as scratch, asyncio.Runner() as runner:
        access = access_of(where["path"], Path(scratch))
        is_inside = where["path"] is None and in_cluster()
        installation = Installation(
            namespace=where["namespace"] or (access.namespace if is_inside else "keda"),
            service=where["service"],
            cluster_domain=where["cluster_domain"],
            workload_namespaces=where["workloads_in"],
        )
        world = World(is_inside, trusting(config), config.stale_after)
        findings = examine(access, installation, world, progress.show)
        while (finding := runner.run(anext(findings, None))) is not None:
            yield finding
    if config.tls_cert is not None:
        for step in certificate_steps(config, lambda: datetime.now(UTC)):
            progress.show(step.title)
            yield from step.look()


class _Progress:
    """What is being looked at, on a terminal's last line while it takes longer than a moment."""

    def __init__(self) -> None:
        self._is_shown = False
        self._wants = sys.stderr.isatty()

    def show(self, title: str) -> None:
        """Say what begins."""
        if self._wants:
            self.clear()
            click.echo(f"{title} …", err=True, nl=False)
            self._is_shown = True

    def clear(self) -> None:
        """Wipe it away."""
        if self._is_shown:
            click.echo("\r\033[K", err=True, nl=False)
            self._is_shown = False


def _width() -> int | None:
    """Return the terminal's width; None where a pipe or a file takes lines of any length."""
    return max(shutil.get_terminal_size().columns, _NARROWEST) if sys.stdout.isatty() else None


def _wrapped(text: str, width: int, indent: str, mark: str) -> list[str]:
    beside = indent + " " * len(mark)
    return textwrap.wrap(
        text, width, initial_indent=indent + mark, subsequent_indent=beside,
        break_on_hyphens=False, break_long_words=False,
    ) or [indent]  # fmt: skip


def _coloured(outcome: Outcome) -> str:
    return click.style(outcome, fg=_COLOURS[outcome]) + " " * (_OUTCOME - len(outcome))


def _say(text: str) -> None:
    # None leaves it to click: colours on a terminal only.
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)
