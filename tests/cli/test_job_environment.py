# SPDX-License-Identifier: Apache-2.0
"""Tests the job environment of a command, and the devices that it assigns."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.job_environment import AssignedDevices, JobEnvironment, JobEnvironmentKind, job_environment_of
from keda_gpu_scaler.core.types import Device
from tests.fakes import device

CARDS = [device(number, minor=number) for number in range(4)]
# The devices of a SLURM step whose cgroup allows /dev/nvidia2 and /dev/nvidia3: the driver counts them from 0.
IN_CGROUP = [device(index, uuid=f"GPU-000{index + 2}", minor=index + 2) for index in range(2)]
SLICES = [
    Device(f"MIG-{number}", 1, "NVIDIA H100", parent="GPU-abcd", minor=1, gpu_instance=number, compute_instance=0)
    for number in (1, 2)
]
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "llama-0"}


def in_ai() -> str:
    return "ai"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({}, JobEnvironment(JobEnvironmentKind.HOST), id="a plain host"),
        pytest.param(
            {"SLURM_JOB_ID": "4711", "SLURMD_NODENAME": "n7", "SLURM_JOB_GPUS": "0,3"},
            JobEnvironment(
                JobEnvironmentKind.SLURM,
                "4711",
                "n7",
                AssignedDevices("SLURM_JOB_GPUS", ("0", "3"), ("renderD{}", "nvidia{}")),
            ),
            id="a SLURM job's script",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2", "SLURM_STEP_GPUS": "1", "SLURM_JOB_GPUS": "0,3"},
            JobEnvironment(
                JobEnvironmentKind.SLURM,
                "4711.2",
                "",
                AssignedDevices("SLURM_STEP_GPUS", ("1",), ("renderD{}", "nvidia{}")),
            ),
            id="a SLURM step, which can run on another node than the script",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711", "SLURM_JOB_GPUS": "0", "CUDA_VISIBLE_DEVICES": "0"},
            JobEnvironment(
                JobEnvironmentKind.SLURM, "4711", "", AssignedDevices("SLURM_JOB_GPUS", ("0",), ("nvidia{}",))
            ),
            id="a SLURM job on a node of one vendor",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711", "ROCR_VISIBLE_DEVICES": "GPU-e3aa140f9a5f9e31,3"},
            JobEnvironment(
                JobEnvironmentKind.SLURM,
                "4711",
                "",
                AssignedDevices("ROCR_VISIBLE_DEVICES", ("GPU-e3aa140f9a5f9e31", "3")),
            ),
            id="ROCm's variable",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711", "CUDA_VISIBLE_DEVICES": "0,1"},
            JobEnvironment(JobEnvironmentKind.SLURM, "4711", "", AssignedDevices("CUDA_VISIBLE_DEVICES", ("0", "1"))),
            id="a SLURM job with CUDA's variable only",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711"},
            JobEnvironment(JobEnvironmentKind.SLURM, "4711"),
            id="a SLURM job without devices",
        ),
        pytest.param(
            {"FLUX_JOB_ID": "f2x", "CUDA_VISIBLE_DEVICES": "2", "SLURM_JOB_ID": "4711", "SLURM_JOB_GPUS": "0,1,2,3"},
            JobEnvironment(JobEnvironmentKind.FLUX, "f2x", "", AssignedDevices("CUDA_VISIBLE_DEVICES", ("2",))),
            id="a Flux job in a SLURM job",
        ),
        pytest.param(
            {**POD, "NVIDIA_VISIBLE_DEVICES": "GPU-0001"},
            JobEnvironment(
                JobEnvironmentKind.KUBERNETES,
                "ai/llama-0",
                "",
                AssignedDevices("NVIDIA_VISIBLE_DEVICES", ("GPU-0001",)),
            ),
            id="a pod with UUIDs of the device plugin",
        ),
        pytest.param(
            {**POD, "NVIDIA_VISIBLE_DEVICES": "all"},
            JobEnvironment(JobEnvironmentKind.KUBERNETES, "ai/llama-0"),
            id="a pod with every device",
        ),
        pytest.param(
            {**POD, "NVIDIA_VISIBLE_DEVICES": "2"},
            JobEnvironment(JobEnvironmentKind.KUBERNETES, "ai/llama-0"),
            id="a pod with a device number of the host, which is not valid in the pod",
        ),
        pytest.param(
            {"CUDA_VISIBLE_DEVICES": "1,-1,2"},
            JobEnvironment(JobEnvironmentKind.HOST, assigned=AssignedDevices("CUDA_VISIBLE_DEVICES", ("1",))),
            id="CUDA ignores the names after an invalid one",
        ),
        pytest.param(
            {"CUDA_VISIBLE_DEVICES": "NoDevFiles"},
            JobEnvironment(JobEnvironmentKind.HOST, assigned=AssignedDevices("CUDA_VISIBLE_DEVICES", ())),
            id="no assigned device",
        ),
    ],
)
def test_the_variables_describe_the_job_environment(environment: Mapping[str, str], expected: JobEnvironment) -> None:
    assert job_environment_of(environment, in_ai) == expected


@pytest.mark.parametrize(
    ("named", "devices", "expected", "unknown"),
    [
        pytest.param(
            AssignedDevices("S", ("2", "3"), ("nvidia{}",)), CARDS, {"GPU-0002", "GPU-0003"}, (), id="device files"
        ),
        pytest.param(
            AssignedDevices("S", ("2", "3"), ("nvidia{}",)),
            IN_CGROUP,
            {"GPU-0002", "GPU-0003"},
            (),
            id="device files in a cgroup",
        ),
        pytest.param(AssignedDevices("C", ("1",)), IN_CGROUP, {"GPU-0003"}, (), id="ordinals in a cgroup"),
        pytest.param(
            AssignedDevices("S", ("1", "9"), ("nvidia{}",)),
            [replace(card, minor=None) for card in CARDS],
            {"GPU-0001"},
            ("9",),
            id="the index where the driver has no device file",
        ),
        pytest.param(AssignedDevices("C", ("GPU-0002",)), CARDS, {"GPU-0002"}, (), id="a UUID"),
        pytest.param(AssignedDevices("C", ("gpu-0002",)), CARDS, {"GPU-0002"}, (), id="a UUID in lower case"),
        pytest.param(
            AssignedDevices("C", ("GPU-a",)),
            [device(0, uuid="GPU-abc"), device(1)],
            {"GPU-abc"},
            (),
            id="the beginning of a UUID",
        ),
        pytest.param(
            AssignedDevices("C", ("GPU-000",)), CARDS, set(), ("GPU-000",), id="the beginning of several UUIDs"
        ),
        pytest.param(AssignedDevices("C", ("1",)), SLICES, {"MIG-1", "MIG-2"}, (), id="the slices of a GPU"),
        pytest.param(AssignedDevices("C", ("MIG-2",)), SLICES, {"MIG-2"}, (), id="a slice"),
        pytest.param(
            AssignedDevices("C", ("MIG-GPU-abcd/2/0",)), SLICES, {"MIG-2"}, (), id="the older name of a slice"
        ),
        pytest.param(AssignedDevices("C", ()), CARDS, set(), (), id="no name"),
    ],
)
def test_names_are_resolved_to_devices(
    named: AssignedDevices, devices: list[Device], expected: set[str], unknown: tuple[str, ...]
) -> None:
    chosen, rest = named.choose(devices)
    assert (set(chosen), rest) == (expected, unknown)


@given(st.dictionaries(st.sampled_from(["SLURM_JOB_ID", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES"]), st.text()))
def test_every_name_is_a_device_or_unknown(environment: dict[str, str]) -> None:
    named = job_environment_of(environment).assigned
    if named is not None:
        chosen, unknown = named.choose(CARDS)
        assert chosen <= {card.uuid for card in CARDS}
        assert set(unknown) <= set(named.names)
        assert bool(chosen) or len(unknown) == len(named.names)


@pytest.mark.parametrize(
    ("job", "title", "holder"),
    [
        (JobEnvironment(JobEnvironmentKind.SLURM, "4711.0"), "slurm job 4711.0", "slurm/4711.0"),
        (JobEnvironment(JobEnvironmentKind.KUBERNETES, "ai/llama-0"), "pod ai/llama-0", "ai/llama-0"),
        (JobEnvironment(JobEnvironmentKind.HOST), "host", ""),
    ],
)
def test_the_title_and_the_holder_of_a_job_environment(job: JobEnvironment, title: str, holder: str) -> None:
    assert (str(job), job.holder) == (title, holder)
