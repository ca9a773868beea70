# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``explain``: its flags, its rounds and its exit status."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from keda_gpu_scaler.cli.arguments import (
    client_tls,
    context_option,
    host_and_port,
    kubeconfig_option,
    metadata_option,
    timeout_option,
    tls_options,
    token_option,
    value_type_option,
    watch_options,
)
from keda_gpu_scaler.cli.cluster_error import say_cluster_error
from keda_gpu_scaler.cli.completion import FILE, ScaledName
from keda_gpu_scaler.cli.explain.json_output import as_json
from keda_gpu_scaler.cli.explain.render import explanation_page
from keda_gpu_scaler.cli.explain.result import ExplainResult
from keda_gpu_scaler.cli.explain.scaledobject import (
    STDIN,
    ScaledObject,
    ScaledObjectError,
    ScaledObjectTrigger,
    read_scaled_object,
    scaled_object_of,
)
from keda_gpu_scaler.cli.explain.session import ExplainRequest, ExplainSession
from keda_gpu_scaler.cli.kube_session import KubeSession, is_configured
from keda_gpu_scaler.cli.output import output_width, say, waiting_notice
from keda_gpu_scaler.cli.pace import OK, Pace, Timing, repeat
from keda_gpu_scaler.cli.people_port import TokenError, given_token
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.wire.tls import TlsError

NO_VALUE, CANNOT_CONNECT = 1, 3

HELP = """Show why a ScaledObject has its size: the settings, the readings, the value, and what the HPA decides.

It calls a running instance, one that KEDA itself calls, and shows the evaluation behind the answer to KEDA: the
settings after the profile and the defaults; each pod, its devices, their readings and the age of these; which
readings are missing, and how they count; the value, the target and the activity; the decision of the HPA, and the
limit that applies.

\b
keda-gpu-scaler explain ai/llama
    find an instance in the cluster that kubectl uses, and forward a port
keda-gpu-scaler explain ai/llama --watch
    repeat every two seconds
keda-gpu-scaler explain ai/llama -m targetValue=60 -m windowSeconds=60
    evaluate the trigger with these changes; the ScaledObject stays unchanged
keda-gpu-scaler explain -f scaledobject.yaml
    evaluate a ScaledObject before it is applied; its workload exists
keda-gpu-scaler explain -m scope=fleet --address 127.0.0.1:6000 --replicas 3
    without a cluster
keda-gpu-scaler explain ai/llama --json | jq .observations
    for programs

It reads one ScaledObject and its HPA. Without --address it also needs the right to get and create pods/portforward, and
to get pods, in the namespace of the scaler. Where the instances have an explain port, your Kubernetes token is sent to
the instance, if you name its namespace: --namespace-of-scaler.

\b
Exit status (with --watch or --count, the highest of all rounds):
  0  every trigger has a value; also after Ctrl-C with --watch
  1  a trigger has no value, or its metadata is refused; the reason is shown
  2  wrong usage, or a file or kubeconfig that cannot be used
  3  no connection to an instance, or to the cluster
"""

_CLEAR_SCREEN = "\x1b[H\x1b[2J"


@click.command(help=HELP)
@click.argument("scaled_object", required=False, type=ScaledName(), metavar="[[NAMESPACE/]SCALEDOBJECT]")
@click.option(
    "-f", "--filename", metavar="FILE", type=FILE,
    help="Read the ScaledObject from a YAML file (- for standard input) instead of the cluster.",
)  # fmt: skip
@metadata_option("One key of the trigger's metadata; can be repeated. It replaces the ScaledObject's for this call.")
@click.option(
    "--trigger", "number", type=click.IntRange(min=1), metavar="N",
    help="The number of the trigger, counted from 1.  [default: every trigger of this scaler]",
)  # fmt: skip
@click.option(
    "--address", metavar="HOST:PORT", callback=host_and_port,
    help="The instance to call.  [default: an instance that KEDA calls, through the API server]",
)  # fmt: skip
@kubeconfig_option("The access to the cluster.  [default: the pod's service account, or the file that kubectl uses]")
@context_option()
@click.option(
    "--namespace-of-scaler", default="", metavar="NAME",
    help="The namespace to look for an instance in.  [default: that of the trigger's scalerAddress, or every one]",
)  # fmt: skip
@token_option
@tls_options("the host of scalerAddress, or of --address")
@value_type_option("The trigger's metricType in KEDA, where no ScaledObject gives it.")
@click.option(
    "--replicas", type=click.IntRange(min=0), metavar="N",
    help="The workload's size, where the scaler does not know it.",
)  # fmt: skip
@timeout_option(default_seconds=3.0)  # an instance that hangs is named within five seconds
@watch_options
@click.option(
    "-o", "--output", type=click.Choice(["text", "wide", "json"]), default="text", show_default=True,
    metavar="[text|wide|json]", help="wide: every setting, pod and step; json: one JSON object for each trigger.",
)  # fmt: skip
@click.option("--json", "is_json", is_flag=True, help="The same as -o json.")
@click.pass_context
def explain(ctx: click.Context, /, **given: Any) -> None:
    """Find out what to explain, connect, and play the rounds."""
    if not (given["scaled_object"] or given["filename"] or given["metadata"]):
        raise click.UsageError("name a ScaledObject (ai/llama), a file (-f), or metadata (-m KEY=VALUE)", ctx)
    timing = ctx.find_object(Timing) or Timing()
    pace = Pace.of(given)
    style = "json" if given["is_json"] else given["output"]
    try:
        with contextlib.ExitStack() as stack:
            session = _session(ctx, stack, given, timing)
            status = repeat(lambda number: _play(session, number, style, pace), pace, timing)
    except ScaledObjectError as error:
        raise click.UsageError(f"{given['filename']}: {error}", ctx) from error
    except (TlsError, TokenError) as error:
        raise click.UsageError(str(error), ctx) from error
    except KubeError as error:
        say_cluster_error(error)
        status = CANNOT_CONNECT
    ctx.exit(status)


# ---- what to explain ----


def _session(
    ctx: click.Context, stack: contextlib.ExitStack, given: dict[str, Any], timing: Timing
) -> ExplainSession:  # fmt: skip
    """Read the ScaledObject and open the access to the cluster, where one is needed.

    Raises:
        ScaledObjectError: the file has no ScaledObject that can be explained.
        KubeError: the cluster cannot be reached, or has no such ScaledObject.
        TokenError: the token cannot be used.
    """
    tls = client_tls(ctx, given)
    addresses = (given["address"],) if given["address"] else ()
    token = given_token(given["token_file"], addresses, uses_tls=tls is not None)
    cluster = None
    needs_cluster = not given["address"] or (given["scaled_object"] and not given["filename"])
    if needs_cluster and is_configured(given["kubeconfig"], given["kube_context"]):
        cluster = KubeSession(given["kubeconfig"], given["kube_context"])
        try:
            stack.enter_context(cluster)
        except KubeError as error:
            raise click.UsageError(str(error), ctx) from error
    if cluster is None and not given["address"]:
        raise click.UsageError(
            "there is no kubeconfig to find an instance with: name one with --kubeconfig or KUBECONFIG, or an instance "
            "with --address",
            ctx,
        )
    with waiting_notice("reading the ScaledObject"):
        scaled_object = _scaled_object(ctx, given, cluster)
    request = ExplainRequest(
        scaled_object=replace(scaled_object, triggers=_triggers(ctx, scaled_object, given)),
        total_triggers=max(1, len(scaled_object.triggers) + len(scaled_object.others)),
        address=given["address"] or "",
        scaler_namespace=given["namespace_of_scaler"],
        timeout_seconds=given["timeout"],
        tls=tls,
        replicas=given["replicas"],
        token=token,
    )
    return ExplainSession(request, cluster, timing)


def _scaled_object(ctx: click.Context, given: dict[str, Any], cluster: KubeSession | None) -> ScaledObject:
    namespace, _, name = (given["scaled_object"] or "").rpartition("/")
    namespace = namespace or (cluster.namespace if cluster is not None else "default")
    if given["filename"]:
        found = read_scaled_object(_file_text(ctx, given["filename"]), namespace, name)
        return replace(found, namespace=found.namespace or namespace, file=given["filename"])
    if name and cluster is not None:
        found = scaled_object_of(cluster.scaled(namespace, name))
        return replace(found, namespace=namespace, name=name)
    if not given["metadata"]:
        raise click.UsageError(
            f"there is no kubeconfig to read {namespace}/{name} with: give a file (-f), or its trigger's metadata (-m)",
            ctx,
        )
    return ScaledObject(namespace, name, is_assumed=True)


def _file_text(ctx: click.Context, name: str) -> str:
    try:
        return sys.stdin.read() if name == STDIN else Path(name).read_text()
    except OSError as error:
        raise click.UsageError(f"{name}: {(error.strerror or str(error)).lower()}", ctx) from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{name}: not UTF-8 text; give a YAML file", ctx) from error


def _triggers(
    ctx: click.Context, scaled_object: ScaledObject, given: dict[str, Any]
) -> tuple[ScaledObjectTrigger, ...]:  # fmt: skip
    """Return the triggers to explain, with the metadata and the type of the command line.

    Raises:
        click.UsageError: none is selected.
    """
    ours = scaled_object.triggers or ((ScaledObjectTrigger(1, {}),) if scaled_object.is_assumed else ())
    number = given["number"]
    selected = [one for one in ours if number in (None, one.number)]
    if not selected:
        title = f"{scaled_object.namespace}/{scaled_object.name}"
        numbers = ", ".join(str(one.number) for one in ours)
        raise click.UsageError(
            f"--trigger: Invalid value: {number}: the triggers of {title} for this scaler are {numbers}"
            if ours
            else f"{title}: no trigger is for this scaler: its type would be external or external-push",
            ctx,
        )
    value_type = given["value_type"]
    return tuple(
        replace(one, metadata={**one.metadata, **given["metadata"]}, value_type=value_type or one.value_type)
        for one in selected
    )


# ---- one round ----


def _play(session: ExplainSession, number: int, style: str, pace: Pace) -> int:
    """Explain every trigger once, print the explanations, and return the exit status."""
    results = list(session.explain())
    if style == "json":
        for result in results:
            say(as_json(result))
    else:
        width = output_width()
        text = "\n\n".join(explanation_page(one, width, is_wide=style == "wide") for one in results)
        if pace.is_watching and sys.stdout.isatty():
            say(_CLEAR_SCREEN, nl=False)
        elif number:
            say("")
        say(text)
    return max(map(_exit_status, results))


def _exit_status(result: ExplainResult) -> int:
    if result.evaluation is None:
        is_refused = result.error is not None and result.error.status == "INVALID_ARGUMENT"
        return NO_VALUE if is_refused else CANNOT_CONNECT
    return OK if result.evaluation.HasField("value") and not result.evaluation.activity_unknown else NO_VALUE
