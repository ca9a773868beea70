# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``doctor``: its flags, the checks of a node or of a cluster, and its exit status."""

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from keda_gpu_scaler.cli.arguments import kubeconfig_option
from keda_gpu_scaler.cli.doctor.findings import Finding, Outcome
from keda_gpu_scaler.cli.doctor.render import Progress, formatted, terminal_width
from keda_gpu_scaler.cli.kube_session import access_of, is_own_pod
from keda_gpu_scaler.cli.options import config_of, flags
from keda_gpu_scaler.cli.output import say
from keda_gpu_scaler.config import Config, ConfigError
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.server.status_assets import DOCUMENTS

_CLUSTER_FLAGS = ("path", "kube_context", "namespace", "service", "cluster_domain", "workloads_in")

HELP = """Check whether this machine or a cluster is ready for the scaler. It changes nothing.

On a node it checks the driver and its devices, the device files, the kubelet's allocations, the ports, the clock and
the certificates. Use the flags of `serve` on that node.

With --cluster, in a pod or on your machine, it checks the API server, KEDA, the ScaledObjects that name this scaler,
the permissions that the chart grants, the Service, the agents and the age of their snapshots, clocks and certificates.

\b
keda-gpu-scaler doctor
    this machine, as an agent uses it
keda-gpu-scaler doctor --backend replay:gpus.csv --pod-resources off
    a machine that plays a recording
keda-gpu-scaler doctor --cluster --workloads-in ai
    the cluster that kubectl reaches
kubectl -n keda exec svc/keda-gpu-scaler -- keda-gpu-scaler doctor --cluster
    the cluster from a pod, which also reaches names, pods and its own rights
keda-gpu-scaler doctor --format json | jq 'select(.outcome != "ok")'
    for programs: check, outcome, text, remedy and link

A check that cannot be made is skipped, with the reason.

\b
Exit status:
  0  no problem; with --strict also no warning
  1  a problem
  2  wrong usage, or a kubeconfig that cannot be used
"""


@click.command(help=HELP)
@click.option("--cluster", is_flag=True, help="Check the cluster instead of this machine.")
@kubeconfig_option(
    "The kubeconfig of the cluster; implies --cluster.  [default: the pod's service account, or the file that "
    "kubectl uses]",
    "path",
)
@click.option(
    "--context", "kube_context", metavar="NAME",
    help="The context of the kubeconfig; implies --cluster.  [default: its current one]",
)  # fmt: skip
@click.option(
    "--namespace", metavar="NAME", help="The namespace of the scaler.  [default: in a pod its own, otherwise keda]"
)
@click.option(
    "--service", default="keda-gpu-scaler", show_default=True, metavar="NAME",
    help="The name of its Service and of its service account: the chart's fullnameOverride.",
)  # fmt: skip
@click.option(
    "--cluster-domain", default="cluster.local", show_default=True, metavar="NAME", help="The cluster's DNS domain."
)
@click.option(
    "--workloads-in", multiple=True, metavar="NAMESPACE",
    help="A namespace of workloads: the chart's rbac.namespaces. Can be repeated.  [default: every namespace]",
)  # fmt: skip
@click.option(
    "--format", "style", type=click.Choice(["text", "github", "json"]), default="text", show_default=True,
    metavar="[text|github|json]", help="Text, annotations of GitHub, or one JSON object on each line.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings too.")
@flags(
    "backend", "nvml_library", "sysfs_root", "node_name", "pod_resources", "host", "port", "metrics_port", "probe_port",
    "stale_after", "tls_cert", "tls_key", "tls_client_ca", "tls_ca", "tls_peer_name",
)  # fmt: skip
@click.pass_context
def doctor(ctx: click.Context, /, **given: Any) -> None:
    """Run the command."""
    style, is_strict, is_cluster = given.pop("style"), given.pop("strict"), given.pop("cluster")
    cluster_flags = {name: given.pop(name) for name in _CLUSTER_FLAGS}
    try:
        config = config_of(given)
    except ConfigError as error:
        raise click.UsageError(str(error), ctx) from error
    progress = Progress()
    outcomes: Counter[Outcome] = Counter()
    try:
        if is_cluster or cluster_flags["path"] or cluster_flags["kube_context"]:
            findings = _cluster_findings(config, cluster_flags, progress)
        else:
            findings = _node_findings(config, progress)
        for finding in findings:
            outcomes[finding.outcome] += 1
            progress.clear()
            say(formatted(finding, style, terminal_width()))
    except KubeError as error:
        progress.clear()
        raise click.UsageError(str(error), ctx) from error
    progress.clear()
    if style == "text":
        say(", ".join(f"{outcomes[outcome]} {outcome}" for outcome in Outcome if outcomes[outcome]), err=True)
        if outcomes[Outcome.PROBLEM] or outcomes[Outcome.WARNING]:
            say(f"docs is {DOCUMENTS}", err=True)
    ctx.exit(int(bool(outcomes[Outcome.PROBLEM] or (is_strict and outcomes[Outcome.WARNING]))))


def _node_findings(config: Config, progress: Progress) -> Iterator[Finding]:
    from keda_gpu_scaler.cli.doctor.host_access import HostAccess
    from keda_gpu_scaler.cli.doctor.node import node_checks

    host = HostAccess(is_pod=bool(os.environ.get("KUBERNETES_SERVICE_HOST")))
    for check in node_checks(config, host):
        progress.show(check.title)
        yield from check.run()
    yield from _certificate_findings(config, progress)


def _cluster_findings(config: Config, cluster_flags: dict[str, Any], progress: Progress) -> Iterator[Finding]:
    """Yield the findings of a cluster. The event loop runs between the findings only.

    Raises:
        KubeError: the access cannot be used.
    """
    from keda_gpu_scaler.cli.doctor.cluster import check_cluster
    from keda_gpu_scaler.cli.doctor.endpoints import tls_between_instances
    from keda_gpu_scaler.cli.doctor.installation import ClusterOptions, Installation

    with tempfile.TemporaryDirectory(prefix="keda-gpu-scaler-") as scratch, asyncio.Runner() as runner:
        place = (cluster_flags["path"], cluster_flags["kube_context"])
        access = access_of(place[0], Path(scratch), place[1])
        is_in_cluster = is_own_pod(*place)
        installation = Installation(
            namespace=cluster_flags["namespace"] or (access.namespace if is_in_cluster else "keda"),
            service=cluster_flags["service"],
            cluster_domain=cluster_flags["cluster_domain"],
            workload_namespaces=cluster_flags["workloads_in"],
        )
        options = ClusterOptions(is_in_cluster, tls_between_instances(config), config.stale_after)
        findings = check_cluster(access, installation, options, progress.show)
        while (finding := runner.run(anext(findings, None))) is not None:
            yield finding
    if config.tls_cert is not None:
        yield from _certificate_findings(config, progress)


def _certificate_findings(config: Config, progress: Progress) -> Iterator[Finding]:
    from keda_gpu_scaler.cli.doctor.certificates import certificate_checks

    for check in certificate_checks(config, lambda: datetime.now(UTC)):
        progress.show(check.title)
        yield from check.run()
