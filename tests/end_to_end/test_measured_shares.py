# SPDX-License-Identifier: Apache-2.0
"""From the processes on a GPU to the value that KEDA gets: driver, snapshot, evaluation."""

from pathlib import Path

from keda_gpu_scaler.core.evaluate.evaluation import evaluate
from keda_gpu_scaler.core.state.fleet import Fleet, History
from keda_gpu_scaler.core.trigger.parser import parse_trigger
from keda_gpu_scaler.core.types import Allocation
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from keda_gpu_scaler.sampler import Sampler
from keda_gpu_scaler.wire.snapshot_codec import apply_change, decode, encode, encode_change
from tests.fake_nvml import FakeNvml, Process
from tests.fakes import pod, workload

BUSY = "8f1c2e66-6c3f-4f5e-9a3e-aaaaaaaaaaaa"
IDLE = "8f1c2e66-6c3f-4f5e-9a3e-bbbbbbbbbbbb"


def test_a_busy_pod_does_not_raise_the_value_of_its_idle_neighbour(fake_nvml: FakeNvml, tmp_path: Path) -> None:
    cgroups = {"1": "/init.scope", "self": "/", "11": f"/kubepods/pod{BUSY}/x", "21": f"/kubepods/pod{IDLE}/x"}
    for pid, cgroup in cgroups.items():
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "cgroup").write_text(f"0::{cgroup}\n")
    gpu = fake_nvml.device(0)
    gpu.utilisation = (90, 20)
    held = tuple(
        Allocation("ai", name, "server", "nvidia.com/gpu.shared", f"{gpu.uuid}::{number}")
        for number, name in enumerate(("busy", "idle"))
    )
    backend = NvmlBackend(fake_nvml.library, measure_shares=True, proc=tmp_path / "proc")
    sampler = Sampler(backend, node="gpu-7", interval_seconds=1.0, allocations=lambda now: held)
    gpu.run_processes(Process(11, 89, at_us=1), Process(21, None))
    sampler.tick()
    gpu.run_processes(Process(11, 91, at_us=2), Process(21, None))
    sampler.tick()
    backend.close()

    assert sampler.history is not None
    first, newest = sampler.history.snapshots
    received = decode(encode(first))
    change = encode_change(first, newest)
    assert change is not None
    history = History((received, apply_change(received, change)), 1000.0)
    fleet = Fleet(None, 10.0, deviceless=True, peers={"gpu-7": history})
    reported = {}
    for name, uid in (("busy", BUSY), ("idle", IDLE)):
        result = evaluate(parse_trigger({}), fleet, 1000.0, workload(pod(name, uid=uid)), {})
        reported[name] = result.value
        assert "measured by process" in " ".join(result.steps)
    assert reported == {"busy": 90.0, "idle": 0.0}
