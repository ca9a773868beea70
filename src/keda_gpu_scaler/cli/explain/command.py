# SPDX-License-Identifier: Apache-2.0
"""Why does a ScaledObject have the size it has? Asks a running instance, and shows how it comes to its answer.

The law of this module: the verdict is the one that KEDA is answered by, told by whoever answers KEDA; nothing of it is
worked out here.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from keda_gpu_scaler.cli.arguments import client_tls, host_and_port, metadata_pairs
from keda_gpu_scaler.cli.explain.forecast import forecast_of
from keda_gpu_scaler.cli.explain.render import ExplainResult, HpaStatus, as_json, hpa_status, screen
from keda_gpu_scaler.cli.explain.scaledobject import (
    ScaledObject,
    ScaledObjectError,
    ScaledObjectTrigger,
    read_scaled_object,
    scaled_object_of,
)
from keda_gpu_scaler.cli.kube_session import KubeSession, is_reachable, patience
from keda_gpu_scaler.cli.probe.client import Call, ProbeRequest, ScalerClient, Timing
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.wire.tls import ClientTls, TlsError

OK, NO_VALUE, CANNOT_CONNECT = 0, 1, 3
WIDTH = 80
"""Where the output is no terminal."""

_STDIN = "-"
_CLEARED = "\x1b[H\x1b[2J"


@click.command()
@click.argument("scaled_object", required=False, metavar="[[NAMESPACE/]SCALEDOBJECT]")
@click.option(
    "-f", "--filename", metavar="FILE",
    help="Read the ScaledObject from a YAML file (- for standard input), and not from the cluster.",
)  # fmt: skip
@click.option(
    "-m", "--metadata", multiple=True, metavar="KEY=VALUE", callback=metadata_pairs,
    help="One key of the trigger's metadata, for what if: it wins over the ScaledObject's. Repeat it for more.",
)  # fmt: skip
@click.option(
    "--trigger", "number", type=click.IntRange(min=1), metavar="N",
    help="Which of its triggers, counted from 1.  [default: all that are ours]",
)  # fmt: skip
@click.option(
    "--address", metavar="HOST:PORT", callback=host_and_port,
    help="The instance to ask.  [default: one that KEDA asks, through the API server]",
)  # fmt: skip
@click.option(
    "--kubeconfig", metavar="PATH",
    help="How to reach the cluster.  [default: the pod's service account, or what kubectl uses]",
)  # fmt: skip
@click.option(
    "--namespace-of-scaler", default="", metavar="NAME",
    help="Where to look for an instance.  [default: where the trigger's scalerAddress is, or anywhere]",
)  # fmt: skip
@click.option("--tls-ca", metavar="PATH", help="The CA (PEM) that signed the scaler's certificate; TLS is on with it.")
@click.option("--tls-cert", metavar="PATH", help="The client certificate to show (PEM).")
@click.option("--tls-key", metavar="PATH", help="Its private key (PEM).")
@click.option(
    "--tls-server-name", metavar="NAME",
    help="The name that the scaler's certificate must bear.  [default: the host of scalerAddress, or of --address]",
)  # fmt: skip
@click.option(
    "--value-type", type=click.Choice([kind.value for kind in ValueType], case_sensitive=False),
    metavar="[AverageValue|Value]", help="The trigger's KEDA metricType, where no ScaledObject says it.",
)  # fmt: skip
@click.option(
    "--replicas",
    type=click.IntRange(min=0),
    metavar="N",
    help="The workload's size, where the scaler does not know it.",
)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, metavar="SECONDS",
    help="For each answer.",
)  # fmt: skip
@click.option("--watch", is_flag=True, help="Explain again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True, metavar="SECONDS",
    help="How far apart the rounds of --watch begin.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Watch this many rounds, then stop.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "wide", "json"]), default="text", show_default=True,
    metavar="[text|wide|json]", help="wide shows every setting, pod and step; json one object a line.",
)  # fmt: skip
@click.option("--json", "as_lines", is_flag=True, help="The same as -o json.")
@click.pass_context
def explain(ctx: click.Context, /, **given: Any) -> None:
    """Show why KEDA is told what it is told about a ScaledObject, and what the HPA makes of it.

    Asks a running instance, one that KEDA itself would ask, and shows its verdict step by step: what the trigger
    means after its profile and the defaults; each pod, its devices, what they read and how old that is; what is
    unknown, and how it is treated; value, target and activity; what the HPA decides, and which limit bites.

    \b
    keda-gpu-scaler explain ai/llama
        by what kubectl reaches: reads the ScaledObject, forwards a port of ours to an instance
    keda-gpu-scaler explain ai/llama --watch
        again every two seconds
    keda-gpu-scaler explain ai/llama -m targetValue=60 -m windowSeconds=60
        what if the trigger said that?
    keda-gpu-scaler explain -f scaledobject.yaml
        before it is applied: a workload that is not there yet is unknown
    keda-gpu-scaler explain -m scope=fleet --address 127.0.0.1:6000 --replicas 3
        without a cluster
    keda-gpu-scaler explain ai/llama --json | jq .sights
        for programs

    It reads one ScaledObject and its HPA, and needs the right to create and get pods/portforward where the scaler
    is, unless --address says whom to ask.

    \b
    Exit status (with --watch, the highest of all rounds):
      0  every trigger has a value; also after Ctrl-C while watching
      1  one has none, or its metadata is refused: the reason is shown
      2  wrong usage, or a file or kubeconfig that cannot be used
      3  no instance, or no cluster, can be reached
    """
    if not (given["scaled_object"] or given["filename"] or given["metadata"]):
        raise click.UsageError("name a ScaledObject (ai/llama), a file (-f), or metadata (-m KEY=VALUE)", ctx)
    style = "json" if given["as_lines"] else given["output"]
    # The core library writes its own lines to the terminal when a connection is refused; ours says it better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    pace = ctx.find_object(Timing) or Timing()
    tls = client_tls(ctx, given)
    try:
        with contextlib.ExitStack() as stack:
            asker = _prepared(ctx, stack, given, pace, tls)
            code = _rounds(asker, pace, style, given)
    except ScaledObjectError as error:
        raise click.UsageError(f"{given['filename']}: {error}", ctx) from error
    except TlsError as error:
        raise click.UsageError(str(error), ctx) from error
    except KubeError as error:
        sys.stdout.flush()
        click.echo(f"keda-gpu-scaler: {error}", err=True)
        code = CANNOT_CONNECT
    ctx.exit(code)


def _prepared(
    ctx: click.Context, stack: contextlib.ExitStack, given: dict[str, Any], pace: Timing, tls: ClientTls | None
) -> "_Asker":
    """Find out what is to be explained, and by which way it is asked.

    Raises:
        DefinitionError: the file holds nothing that can be explained.
        KubeError: the cluster cannot be reached, or has no such ScaledObject.
    """
    cluster = None
    needs_cluster = not given["address"] or (given["scaled_object"] and not given["filename"])
    if needs_cluster and (given["kubeconfig"] or is_reachable(None)):
        cluster = KubeSession(given["kubeconfig"])
        try:
            stack.enter_context(cluster)
        except KubeError as error:
            raise click.UsageError(str(error), ctx) from error
    if cluster is None and not given["address"]:
        raise click.UsageError("--address: Required value: there is no kubeconfig to find an instance by", ctx)
    with patience("reading the ScaledObject"):
        definition = _definition(ctx, given, cluster)
    triggers = _triggers(ctx, definition, given)
    of_triggers = max(1, len(definition.triggers) + len(definition.others))
    return _Asker(given, pace, tls, cluster, replace(definition, triggers=triggers), of_triggers)


def _definition(ctx: click.Context, given: dict[str, Any], cluster: KubeSession | None) -> ScaledObject:
    said = given["scaled_object"] or ""
    namespace, _, name = said.rpartition("/")
    namespace = namespace or (cluster.namespace if cluster is not None else "default")
    if given["filename"]:
        found = read_scaled_object(_text(ctx, given["filename"]), namespace, name)
        return replace(found, namespace=found.namespace or namespace)
    if name and cluster is not None:
        found = scaled_object_of(cluster.scaled(namespace, name))
        return replace(found, namespace=namespace, name=name)
    if not given["metadata"]:
        raise click.UsageError(
            f"there is no kubeconfig to read {namespace}/{name} by: name a file (-f), or its trigger's metadata (-m)",
            ctx,
        )
    return ScaledObject(namespace, name, is_assumed=True)


def _text(ctx: click.Context, name: str) -> str:
    try:
        return sys.stdin.read() if name == _STDIN else Path(name).read_text()
    except OSError as error:
        raise click.UsageError(f"{name}: {(error.strerror or str(error)).lower()}", ctx) from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{name}: not UTF-8 text: is it a YAML file?", ctx) from error


def _triggers(ctx: click.Context, definition: ScaledObject, given: dict[str, Any]) -> tuple[ScaledObjectTrigger, ...]:
    """Choose the triggers that are meant, with what was given for what if."""
    found = definition.triggers or ((ScaledObjectTrigger(1, {}),) if definition.is_assumed else ())
    number = given["number"]
    meant = [one for one in found if number in (None, one.number)]
    if not meant:
        title = f"{definition.namespace}/{definition.name}"
        ours = ", ".join(str(one.number) for one in found)
        raise click.UsageError(
            f"--trigger: Invalid value: {number}: those of {title} that are ours are {ours}"
            if ours
            else f"{title}: none of its triggers can be ours: the type of ours is external or external-push",
            ctx,
        )
    kind = given["value_type"]
    return tuple(
        replace(one, metadata={**one.metadata, **given["metadata"]}, value_type=kind or one.value_type) for one in meant
    )


@dataclass(slots=True)
class _Asker:
    """Asks for every trigger's verdict, again where the way to an instance broke."""

    given: dict[str, Any]
    pace: Timing
    tls: ClientTls | None
    cluster: KubeSession | None
    definition: ScaledObject
    of_triggers: int
    address: str = ""
    asked: str = ""

    def round(self) -> Iterator[ExplainResult]:
        """Yield an explanation of each trigger.

        Raises:
            KubeError: there is no way to any instance, and never was.
        """
        for declared in self.definition.triggers:
            try:
                yield self._explained(declared)
            except KubeError as error:
                if not self.asked:
                    raise
                # Whoever watches sees it come back.
                call = Call("Explain", 0.0, "UNAVAILABLE", str(error))
                yield ExplainResult(
                    self.pace.utc(), self.definition, declared, self.of_triggers, self.asked, None, error=call
                )

    def _explained(self, declared: ScaledObjectTrigger) -> ExplainResult:
        if not self.address:
            self._find(declared)
        definition = self.definition
        tls = self.tls
        host = declared.metadata.get("scalerAddress", "").rpartition(":")[0]
        if tls is not None and tls.server_name is None and self.cluster is not None and not self.given["address"]:
            tls = replace(tls, server_name=host or None)
        question = ProbeRequest(
            self.address, definition.name, definition.namespace, declared.metadata, self.given["timeout"], tls
        )
        link = ScalerClient(question, self.pace)
        try:
            with patience(f"asking {self.asked}"):
                answer, evaluation = link.told()
        finally:
            link.close()
        shown = ExplainResult(
            self.pace.utc(), definition, declared, self.of_triggers, self.asked, evaluation, answer.error
        )
        if evaluation is None:
            return self._broken(shown, is_connected=answer.connected)
        return replace(
            shown,
            forecast=forecast_of(evaluation, definition, declared, self.given["replicas"]),
            status=self._status(),
        )

    def _find(self, declared: ScaledObjectTrigger) -> None:
        if self.given["address"]:
            self.address = self.asked = self.given["address"]
            return
        assert self.cluster is not None  # noqa: S101 - without one an address was required
        with patience("looking for an instance"):
            instance = self.cluster.instance(
                declared.metadata.get("scalerAddress", ""), self.given["namespace_of_scaler"]
            )
            self.address = self.cluster.forward(instance)
        self.asked = str(instance)

    def _broken(self, shown: ExplainResult, *, is_connected: bool) -> ExplainResult:
        """Say why a forwarded connection broke, and look for another instance the next time."""
        through = self.cluster is not None and not self.given["address"]
        if through and self.cluster is not None and (self.cluster.failure or not is_connected):
            why = self.cluster.failure
            self.cluster.hang_up()
            self.address = ""
            if why and shown.error is not None:
                return replace(shown, error=replace(shown.error, details=why))
        return shown

    def _status(self) -> HpaStatus | None:
        if self.cluster is None or self.definition.kind != "ScaledObject" or not self.definition.hpa_name:
            return None
        return hpa_status(self.cluster.hpa(self.definition.namespace, self.definition.hpa_name))


def _rounds(asker: _Asker, pace: Timing, style: str, given: dict[str, Any]) -> int:
    watching = given["watch"] or given["count"] is not None
    worst, done = OK, 0
    try:
        while True:
            began = pace.monotonic()
            shown = list(asker.round())
            _show(shown, style, is_first=done == 0, is_redrawn=watching)
            worst, done = max(worst, *map(_status_of, shown)), done + 1
            if not watching or done == given["count"]:
                return worst
            pace.sleep(max(0.0, began + given["interval"] - pace.monotonic()))
    except KeyboardInterrupt:
        click.echo("")
        return OK


def _show(shown: list[ExplainResult], style: str, *, is_first: bool, is_redrawn: bool) -> None:
    if style == "json":
        for one in shown:
            _say(as_json(one))
        return
    width = shutil.get_terminal_size((WIDTH, 24)).columns
    text = "\n\n".join(screen(one, width, wide=style == "wide") for one in shown)
    if is_redrawn and sys.stdout.isatty():
        click.echo(_CLEARED, nl=False)
    elif not is_first:
        _say("")
    _say(text)


def _status_of(shown: ExplainResult) -> int:
    if shown.evaluation is None:
        is_refused = shown.error is not None and shown.error.status == "INVALID_ARGUMENT"
        return NO_VALUE if is_refused else CANNOT_CONNECT
    return OK if shown.evaluation.HasField("value") and not shown.evaluation.activity_unknown else NO_VALUE


def _say(text: str) -> None:
    # None leaves it to click: colours on a terminal only.
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)
