# SPDX-License-Identifier: Apache-2.0
"""Tests of the job environment: SLURM, Flux, pods and plain hosts."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.cli.job_environment import AssignedDevices, JobEnvironment, JobEnvironmentKind, job_environment_of
from keda_gpu_scaler.core.types import Device
from tests.fakes import device

CARDS = [device(number, minor=number) for number in range(4)]
# What a SLURM step sees whose cgroup lets it open /dev/nvidia2 and /dev/nvidia3: the driver counts from 0.
LET_IN = [device(index, uuid=f"GPU-000{index + 2}", minor=index + 2) for index in range(2)]
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
                JobEnvironmentKind.SLURM, "4711", "n7", AssignedDevices("SLURM_JOB_GPUS", ("0", "3"), "nvidia{}")
            ),
            id="a SLURM job's script",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2", "SLURM_STEP_GPUS": "1", "SLURM_JOB_GPUS": "0,3"},
            JobEnvironment(
                JobEnvironmentKind.SLURM, "4711.2", "", AssignedDevices("SLURM_STEP_GPUS", ("1",), "nvidia{}")
            ),
            id="a SLURM step, which may be on another node than the job's script",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711", "CUDA_VISIBLE_DEVICES": "0,1"},
            JobEnvironment(JobEnvironmentKind.SLURM, "4711", "", AssignedDevices("CUDA_VISIBLE_DEVICES", ("0", "1"))),
            id="a SLURM that names devices to CUDA alone",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "4711"},
            JobEnvironment(JobEnvironmentKind.SLURM, "4711"),
            id="a SLURM job that names no device",
        ),
        pytest.param(
            {"FLUX_JOB_ID": "f2x", "CUDA_VISIBLE_DEVICES": "2", "SLURM_JOB_ID": "4711", "SLURM_JOB_GPUS": "0,1,2,3"},
            JobEnvironment(JobEnvironmentKind.FLUX, "f2x", "", AssignedDevices("CUDA_VISIBLE_DEVICES", ("2",))),
            id="a Flux job within a SLURM job",
        ),
        pytest.param(
            {**POD, "NVIDIA_VISIBLE_DEVICES": "GPU-0001"},
            JobEnvironment(
                JobEnvironmentKind.KUBERNETES,
                "ai/llama-0",
                "",
                AssignedDevices("NVIDIA_VISIBLE_DEVICES", ("GPU-0001",)),
            ),
            id="a pod whose device plugin names UUIDs",
        ),
        pytest.param(
            {**POD, "NVIDIA_VISIBLE_DEVICES": "all"},
            JobEnvironment(JobEnvironmentKind.KUBERNETES, "ai/llama-0"),
            id="a pod that sees all",
        ),
        pytest.param(
            {**POD, "NVIDIA_VISIBLE_DEVICES": "2"},
            JobEnvironment(JobEnvironmentKind.KUBERNETES, "ai/llama-0"),
            id="a pod whose device has the host's number, which means another one here",
        ),
        pytest.param(
            {"CUDA_VISIBLE_DEVICES": "1,-1,2"},
            JobEnvironment(JobEnvironmentKind.HOST, assigned=AssignedDevices("CUDA_VISIBLE_DEVICES", ("1",))),
            id="CUDA reads up to the first that is none",
        ),
        pytest.param(
            {"CUDA_VISIBLE_DEVICES": "NoDevFiles"},
            JobEnvironment(JobEnvironmentKind.HOST, assigned=AssignedDevices("CUDA_VISIBLE_DEVICES", ())),
            id="nothing is meant",
        ),
    ],
)
def test_where_we_run_and_what_is_meant(environment: Mapping[str, str], expected: JobEnvironment) -> None:
    assert job_environment_of(environment, in_ai) == expected


@pytest.mark.parametrize(
    ("named", "devices", "expected", "strange"),
    [
        pytest.param(
            AssignedDevices("S", ("2", "3"), "nvidia{}"), CARDS, {"GPU-0002", "GPU-0003"}, (), id="device files"
        ),
        pytest.param(
            AssignedDevices("S", ("2", "3"), "nvidia{}"),
            LET_IN,
            {"GPU-0002", "GPU-0003"},
            (),
            id="device files in a cgroup",
        ),
        pytest.param(AssignedDevices("C", ("1",)), LET_IN, {"GPU-0003"}, (), id="ordinals in a cgroup"),
        pytest.param(
            AssignedDevices("S", ("1", "9"), "nvidia{}"),
            [replace(card, minor=None) for card in CARDS],
            {"GPU-0001"},
            ("9",),
            id="where the driver tells no device file, its order",
        ),
        pytest.param(AssignedDevices("C", ("GPU-0002",)), CARDS, {"GPU-0002"}, (), id="a UUID"),
        pytest.param(AssignedDevices("C", ("gpu-0002",)), CARDS, {"GPU-0002"}, (), id="a UUID in small letters"),
        pytest.param(
            AssignedDevices("C", ("GPU-a",)),
            [device(0, uuid="GPU-abc"), device(1)],
            {"GPU-abc"},
            (),
            id="its beginning",
        ),
        pytest.param(AssignedDevices("C", ("GPU-000",)), CARDS, set(), ("GPU-000",), id="the beginning of several"),
        pytest.param(AssignedDevices("C", ("1",)), SLICES, {"MIG-1", "MIG-2"}, (), id="a GPU that was cut: its slices"),
        pytest.param(AssignedDevices("C", ("MIG-2",)), SLICES, {"MIG-2"}, (), id="a slice"),
        pytest.param(
            AssignedDevices("C", ("MIG-GPU-abcd/2/0",)), SLICES, {"MIG-2"}, (), id="a slice as drivers named it once"
        ),
        pytest.param(AssignedDevices("C", ()), CARDS, set(), (), id="none"),
    ],
)
def test_names_are_found_among_the_devices(
    named: AssignedDevices, devices: list[Device], expected: set[str], strange: tuple[str, ...]
) -> None:
    chosen, left = named.choose(devices)
    assert (set(chosen), left) == (expected, strange)


@given(st.dictionaries(st.sampled_from(["SLURM_JOB_ID", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES"]), st.text()))
def test_whatever_the_environment_says_every_name_is_a_device_or_strange(environment: dict[str, str]) -> None:
    named = job_environment_of(environment).assigned
    if named is not None:
        chosen, strange = named.choose(CARDS)
        assert chosen <= {card.uuid for card in CARDS}
        assert set(strange) <= set(named.names)
        assert bool(chosen) or len(strange) == len(named.names)


@pytest.mark.parametrize(
    ("place", "shown", "holder"),
    [
        (JobEnvironment(JobEnvironmentKind.SLURM, "4711.0"), "slurm job 4711.0", "slurm/4711.0"),
        (JobEnvironment(JobEnvironmentKind.KUBERNETES, "ai/llama-0"), "pod ai/llama-0", "ai/llama-0"),
        (JobEnvironment(JobEnvironmentKind.HOST), "host", ""),
    ],
)
def test_what_a_place_is_called(place: JobEnvironment, shown: str, holder: str) -> None:
    assert (str(place), place.holder) == (shown, holder)
