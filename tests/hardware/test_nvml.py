# SPDX-License-Identifier: Apache-2.0
"""The NVML backend on the real driver, checked against nvidia-smi."""

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from keda_gpu_scaler.core.interfaces import Backend, BackendError
from keda_gpu_scaler.devices.nvml.backend import NvmlBackend
from tests.contract.backends import BackendContract
from tests.fake_nvml import forget_library
from tests.limits import WAIT_SECONDS

pytestmark = pytest.mark.hardware

MIB = 1 << 20


def _reason_to_skip() -> str | None:
    forget_library()
    backend = NvmlBackend()
    try:
        backend.read(0.0)
    except BackendError as error:
        return str(error)
    finally:
        backend.close()
        forget_library()
    return None


if (reason := _reason_to_skip()) is not None:
    pytest.skip(f"no NVIDIA device to read: {reason}", allow_module_level=True)


@pytest.fixture
def backend() -> Iterator[NvmlBackend]:
    forget_library()
    backend = NvmlBackend()
    yield backend
    backend.close()
    forget_library()


class TestContract(BackendContract):
    @pytest.fixture
    def backend(self, backend: Backend) -> Backend:
        return backend


def test_nvidia_smi_lists_the_same_cards_with_as_much_memory(backend: NvmlBackend) -> None:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        pytest.skip("no nvidia-smi to compare with")
    query = [smi, "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, check=True, capture_output=True, text=True, timeout=WAIT_SECONDS).stdout.splitlines()
    theirs = dict(line.split(", ") for line in lines)
    samples = backend.read(0.0)
    cards = {sample.device.parent or sample.device.uuid for sample in samples}
    # A card in MIG mode without slices is nvidia-smi's to list, and not ours.
    assert cards <= set(theirs)
    ours = {
        sample.device.uuid: str(sample.memory_total_bytes // MIB)
        for sample in samples
        if sample.device.parent is None and sample.memory_total_bytes is not None
    }
    assert ours == {uuid: theirs[uuid] for uuid in ours}


def test_a_whole_card_answers_with_more_than_its_name(backend: NvmlBackend) -> None:
    for sample in backend.read(0.0):
        assert sample.device.model
        assert sample.device.pci_address.count(":") == 2
        assert sample.has_reading


def test_nvidia_smi_pmon_names_no_process_that_is_not_counted() -> None:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        pytest.skip("no nvidia-smi to compare with")
    forget_library()
    backend = NvmlBackend(measure_shares=True)
    samples = {str(sample.device.index): sample for sample in backend.read(0.0)}
    backend.close()
    forget_library()
    if all(sample.uses is None for sample in samples.values()):
        reasons = {failure.reason for sample in samples.values() for failure in sample.failures}
        pytest.skip(f"nothing is measured here: {'; '.join(sorted(reasons))}")
    pmon = subprocess.run(
        [smi, "pmon", "-c", "1", "-s", "u"], check=True, capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    rows = [line.split() for line in pmon.stdout.splitlines() if not line.startswith("#")]
    for index, pid, _, sm, *_ in rows:
        sample = samples.get(index)
        # A process that began or ended between the two readings differs, so only whole GPUs at work are compared.
        if pid.isdigit() and sm.isdigit() and int(sm) > 0 and sample is not None and sample.uses is not None:
            assert sample.uses, f"GPU {index}: nvidia-smi pmon has process {pid}"
