# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``probe``: its flags, its rounds and its exit status."""

import contextlib
from dataclasses import replace
from typing import Any

import click
from click.core import ParameterSource

from keda_gpu_scaler.cli.arguments import (
    client_tls,
    context_option,
    host_and_port,
    kubeconfig_option,
    metadata_option,
    timeout_option,
    tls_options,
    value_type_option,
    watch_options,
)
from keda_gpu_scaler.cli.cluster_error import say_cluster_error
from keda_gpu_scaler.cli.kube_session import KubeSession
from keda_gpu_scaler.cli.output import printable, say, say_error
from keda_gpu_scaler.cli.pace import Pace, Timing, repeat
from keda_gpu_scaler.cli.probe.client import ProbeRequest, ScalerClient
from keda_gpu_scaler.cli.probe.json_output import as_json
from keda_gpu_scaler.cli.probe.render import error_text, header, notes, round_page, row
from keda_gpu_scaler.cli.probe.simulation import CANNOT_CONNECT, Round, Scenario, Simulation
from keda_gpu_scaler.core.comparison import DEFAULT_MAX_REPLICAS
from keda_gpu_scaler.core.hpa.controller import DEFAULT_MIN_REPLICAS, ControllerState
from keda_gpu_scaler.core.hpa.replica_calculator import ValueType
from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.wire import evaluation_pb2 as evaluation_pb
from keda_gpu_scaler.wire.tls import TlsError

HEADER_EVERY_ROUNDS = 20
_ASSUMED_REPLICAS = 1
_DEFAULT_NAME = "probe"

HELP = """Call an external scaler as KEDA does, and show what the HPA would decide.

It works with every external scaler, of this project or another. It calls GetMetricSpec, GetMetrics and IsActive in
KEDA's order, reads the numbers as KEDA 2.17 and later do, and reports what would cause problems in a cluster. From a
keda-gpu-scaler it also gets the evaluation: the scope, the coverage, and the reading of each pod or device.

\b
keda-gpu-scaler probe -m profile=triton-inference -m report=average
keda-gpu-scaler probe --namespace ai --name llama --replicas 3
keda-gpu-scaler probe --address scaler.gpu.svc:6000 --value-type Value
keda-gpu-scaler probe --context staging --namespace ai --name llama
keda-gpu-scaler probe --tls-ca ca.crt --tls-server-name scaler.gpu.svc
keda-gpu-scaler probe --watch --follow --replicas 2 --max-replicas 12
keda-gpu-scaler probe --json --count 60 > rounds.jsonl

The metadata is sent unchanged. Add -m scalerAddress=... if the scaler reads it. With --kubeconfig or --context a port
is forwarded to a keda-gpu-scaler of that cluster, to one behind scalerAddress where it is given.

A single round shows the HPA's recommendation and the size after one step. With --watch, the simulated HPA starts
without a history: like a real HPA, it does not scale down in the first 300 s. It is the HPA that KEDA creates for a
ScaledObject without a behavior of its own.

\b
Exit status (with --count, the highest of all rounds):
  0  no problem; also after Ctrl-C with --watch
  1  an error, no answer in time, or an answer that KEDA cannot use
  2  wrong usage
  3  no connection
"""


@click.command(help=HELP)
@click.option(
    "--address", default="127.0.0.1:6000", show_default=True, metavar="HOST:PORT", callback=host_and_port,
    help="The external scaler. The connection uses TLS only with --tls-ca.",
)  # fmt: skip
@kubeconfig_option(
    "The cluster in which an instance is called, through a port-forward.  [default: no cluster; with --context, "
    "the file that kubectl uses]"
)
@context_option()
@tls_options("the host of --address, or of scalerAddress")
@metadata_option("One key of the trigger's metadata; can be repeated. It is sent unchanged.")
@click.option("--name", default=_DEFAULT_NAME, show_default=True, help="The ScaledObject's name.")
@click.option("--namespace", default="default", show_default=True, help="The ScaledObject's namespace.")
@click.option(
    "--replicas", type=click.IntRange(min=0), metavar="N",
    help="The workload's size, from which the HPA starts.  [default: the size that the scaler knows, or else 1]",
)  # fmt: skip
@click.option(
    "--ready", type=click.IntRange(min=0), metavar="N",
    help="How many of these replicas are ready.  [default: all of them]",
)  # fmt: skip
@value_type_option("The trigger's metricType in KEDA.", ValueType.AVERAGE_VALUE)
@click.option(
    "--min-replicas", type=click.IntRange(min=1), default=DEFAULT_MIN_REPLICAS, show_default=True, metavar="N",
    help="The HPA's lower limit.",
)  # fmt: skip
@click.option(
    "--max-replicas", type=click.IntRange(min=1), default=DEFAULT_MAX_REPLICAS, show_default=True, metavar="N",
    help="The HPA's upper limit.",
)  # fmt: skip
@timeout_option("Time limit of each call; the first call includes the connection. KEDA itself sets no limit.")
@watch_options
@click.option(
    "--follow", is_flag=True,
    help="With --watch or --count: every 15 s the workload takes the size that the HPA decides on.",
)  # fmt: skip
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object for each round.")
@click.pass_context
def probe(ctx: click.Context, /, **given: Any) -> None:
    """Check the flags, connect, and play the rounds."""
    pace = Pace.of(given)
    _check_usage(ctx, given, pace)
    request = ProbeRequest(
        given["address"], given["name"], given["namespace"], given["metadata"], given["timeout"], client_tls(ctx, given)
    )
    scenario = Scenario(
        ValueType(given["value_type"]),
        _ASSUMED_REPLICAS if given["replicas"] is None else given["replicas"],
        given["ready"],
        given["min_replicas"],
        given["max_replicas"],
        given["follow"],
    )
    timing = ctx.find_object(Timing) or Timing()
    with contextlib.ExitStack() as stack:
        if given["kubeconfig"] is not None or given["kube_context"] is not None:
            try:
                request = _forwarded(ctx, request, given, stack)
            except KubeError as error:
                say_cluster_error(error)
                ctx.exit(CANNOT_CONNECT)
        try:
            client = stack.enter_context(contextlib.closing(ScalerClient(request, timing)))
        except TlsError as error:
            raise click.UsageError(str(error), ctx) from error
        rounds = _Rounds(
            client, timing, request, scenario, is_json=given["is_json"], is_watching=pace.is_watching,
            is_size_given=given["replicas"] is not None,
        )  # fmt: skip
        status = repeat(rounds.play, pace, timing)
    ctx.exit(status)


def _forwarded(
    ctx: click.Context, request: ProbeRequest, given: dict[str, Any], stack: contextlib.ExitStack
) -> ProbeRequest:
    """Return the request to an instance of the cluster. Its port is forwarded until the stack is closed.

    Raises:
        click.UsageError: the kubeconfig cannot be used.
        KubeError: the cluster cannot be reached, or has no instance.
    """
    try:
        cluster = stack.enter_context(KubeSession(given["kubeconfig"], given["kube_context"]))
    except KubeError as error:
        raise click.UsageError(str(error), ctx) from error
    scaler_address = request.metadata.get("scalerAddress", "")
    instance = cluster.instance(scaler_address, "")
    say(f"calling {printable(str(instance))}", err=True)
    tls = request.tls
    if tls is not None and tls.server_name is None:  # the certificate names the host that KEDA calls
        tls = replace(tls, server_name=scaler_address.rpartition(":")[0] or None)
    return replace(request, address=cluster.forward(instance), tls=tls)


def _check_usage(ctx: click.Context, given: dict[str, Any], pace: Pace) -> None:
    """Refuse flags that contradict each other.

    Raises:
        click.UsageError: they do.
    """
    if given["min_replicas"] > given["max_replicas"]:
        raise click.BadParameter(
            f"{given['min_replicas']}: must not exceed --max-replicas ({given['max_replicas']})",
            param_hint="--min-replicas",
        )
    is_addressed = ctx.get_parameter_source("address") is not ParameterSource.DEFAULT
    if is_addressed and (given["kubeconfig"] is not None or given["kube_context"] is not None):
        raise click.UsageError("--address: Forbidden: with --kubeconfig or --context the instance is found there", ctx)
    if given["follow"] and not pace.is_watching:
        raise click.UsageError("--follow: needs --watch or --count", ctx)
    if given["follow"] and given["ready"] is not None:
        raise click.UsageError("--follow: counts every replica as ready; leave out --ready", ctx)


class _Rounds:
    """Plays rounds against one scaler and prints them."""

    def __init__(
        self,
        client: ScalerClient,
        timing: Timing,
        request: ProbeRequest,
        scenario: Scenario,
        *,
        is_json: bool,
        is_watching: bool,
        is_size_given: bool,
    ) -> None:
        self._client = client
        self._timing = timing
        self._request = request
        self._is_json = is_json
        self._is_watching = is_watching
        self._needs_size = not is_size_given
        # A single round assumes an HPA that remembers no larger recommendation, so that the page shows this one.
        self._simulation = Simulation(scenario, ControllerState(started=not is_watching))
        self._last_notes = ""

    def play(self, number: int) -> int:
        """Call the scaler, print the round, and return its exit status."""
        answer = self._client.query()
        evaluation = None
        if answer.specs and (self._needs_size or not self._is_watching):
            _, evaluation = self._client.explain()
            self._take_size(evaluation)
        shown = self._simulation.evaluate(
            self._timing.utc(), self._timing.monotonic(), self._request.address, answer
        )  # fmt: skip
        if self._is_json:
            say(as_json(shown, evaluation))
        elif self._is_watching:
            self._print_row(shown, number)
        else:
            if answer.specs is not None:
                say(round_page(shown, self._request, evaluation))
            if answer.error is not None:
                say_error(error_text(shown))
                if self._is_name_missing(evaluation):
                    say("name the ScaledObject with --namespace NAMESPACE --name NAME", err=True)
        return shown.exit_code

    def _is_name_missing(self, evaluation: evaluation_pb.Evaluation | None) -> bool:
        """Whether the scaler looked for the workload of a name that the command line does not give."""
        is_unknown = evaluation is not None and evaluation.scope == "workload" and not evaluation.HasField("workload")
        return is_unknown and self._request.name == _DEFAULT_NAME

    def _take_size(self, evaluation: evaluation_pb.Evaluation | None) -> None:
        """Let the HPA start from the size that the scaler knows, where the command line gives none."""
        if self._needs_size and evaluation is not None and evaluation.workload.kind == "ScaledObject":
            simulation = self._simulation
            simulation.scenario = replace(simulation.scenario, replicas=evaluation.workload.wanted)
        self._needs_size = False

    def _print_row(self, shown: Round, number: int) -> None:
        if number % HEADER_EVERY_ROUNDS == 0:
            say(header())
        say(row(shown))
        text = notes(shown)
        if text and text != self._last_notes:
            say(text)
        self._last_notes = text
