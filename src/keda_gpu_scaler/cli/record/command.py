# SPDX-License-Identifier: Apache-2.0
"""Runs the command ``record``: its flags, and its exit status."""

import sys
from typing import Any

import click

from keda_gpu_scaler.cli.arguments import context_option, kubeconfig_option, metadata_option
from keda_gpu_scaler.cli.completion import FILE, ScaledName
from keda_gpu_scaler.cli.logs import set_up
from keda_gpu_scaler.cli.options import BACKEND_FLAGS, config_of, flags
from keda_gpu_scaler.cli.output import say_error
from keda_gpu_scaler.cli.record.devices import record_devices
from keda_gpu_scaler.cli.record.stop_signals import WriteAborted
from keda_gpu_scaler.config import Config, ConfigError
from keda_gpu_scaler.core.interfaces import Backend, BackendError, KubeError
from keda_gpu_scaler.wire.json_fields import CodecError
from keda_gpu_scaler.wire.recording import RecordingError

MAX_DURATION_SECONDS = 10**9

HELP = """Record the devices of this node, or the engines of a workload, to a file.

\b
keda-gpu-scaler record --out gpus.jsonl.gz --duration 600
    record the GPUs of this machine for ten minutes
keda-gpu-scaler record --out - --duration 0
    print one snapshot
keda-gpu-scaler record --engines ai/llama --out llama.jsonl.gz --duration 600
    record the engines of a ScaledObject, from your machine or from a pod
keda-gpu-scaler record --engines ai/llama --mask-labels \\
        --out llama.jsonl.gz --duration 600
    the same, with names of models and other labels replaced
keda-gpu-scaler serve --backend replay:llama.jsonl.gz
    replay the recording

With --engines the devices are recorded too if --backend is given. SIGTERM and Ctrl-C end the recording. The file is
complete.

Exit status: 0 recorded, 1 no device or no workload, or a file that cannot be written (one sentence says why), 2 wrong
usage.
"""


@click.command(help=HELP)
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    type=FILE,
    help="The file to write, with gzip where its name ends in .gz; - for standard output.",
)
@click.option(
    "--duration",
    type=click.FloatRange(min=0, max=MAX_DURATION_SECONDS),
    metavar="SECONDS",
    help="Stop after this time; 0 records one snapshot.  [default: until Ctrl-C]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option(
    "--engines", metavar="[NAMESPACE/]NAME", type=ScaledName(),
    help="Record the engines of the pods of this ScaledObject or ScaledJob: the series that engines and its trigger "
    "need, and the state of the workload.",
)  # fmt: skip
@click.option(
    "--mask-labels", is_flag=True,
    help="Replace the values of labels in the pages of engines, such as names of models: equal values by equal ones.",
)  # fmt: skip
@kubeconfig_option(
    "The access to the cluster, with --engines.  [default: the pod's service account, or the file that kubectl uses]"
)
@context_option()
@metadata_option("One key of the trigger's metadata, with --engines; can be repeated. It replaces the ScaledObject's.")
@flags(*BACKEND_FLAGS, "sample_interval", "scrape_interval", "scrape_timeout", "endpoint_credentials", "log_level")
@click.pass_context
def record(
    ctx: click.Context,
    /,
    out: str,
    duration: float | None,
    overwrite: bool,
    engines: str | None,
    mask_labels: bool,
    kubeconfig: str | None,
    kube_context: str | None,
    metadata: dict[str, str],
    **settings: Any,
) -> None:
    """Open what is to be recorded, and write it until the time is over or a signal arrives."""
    only_with_engines = {"--mask-labels": mask_labels, "--kubeconfig": kubeconfig, "--metadata": metadata}
    only_with_engines["--context"] = kube_context
    if engines is None and (given := next((flag for flag, value in only_with_engines.items() if value), "")):
        raise click.UsageError(f"{given}: belongs to --engines; give both or neither", ctx)
    try:
        # A recording has no stale snapshots; the setting only has to fit the interval.
        config = config_of({**settings, "stale_after": max(10.0, 2 * settings["sample_interval"])})
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    set_up(config.log_level, "text")
    try:
        if engines is None:
            record_devices(_backend(config), config, out, duration, overwrite=overwrite)
        else:
            from keda_gpu_scaler.cli.record.engines import EnginesRequest, record_engines

            is_given = ctx.get_parameter_source("backend") is not click.core.ParameterSource.DEFAULT
            request = EnginesRequest(engines, metadata, out, duration, overwrite, mask_labels, kubeconfig, kube_context)
            record_engines(request, config, _backend(config) if is_given else None)
    except WriteAborted:
        target = "standard output" if out == "-" else out
        say_error(f"stopped while {target} accepted no more data: check its reader. The end is missing")
        sys.exit(1)
    except (BackendError, KubeError, RecordingError, CodecError) as error:
        say_error(str(error))
        sys.exit(1)


def _backend(config: Config) -> Backend:
    """Open the backend.

    Raises:
        BackendError: it cannot be opened, or has no device.
    """
    from keda_gpu_scaler.agent import open_backend

    # A recording is made to look into a problem, so the expensive readings belong to it.
    backend = open_backend(config, lambda: True)
    if backend.deviceless:
        raise BackendError(f"--backend {config.backend} has no device, so there is nothing to record")
    return backend
