# SPDX-License-Identifier: Apache-2.0
"""The contract of every backend."""

import math

import pytest

from keda_gpu_scaler.core.interfaces import Backend
from keda_gpu_scaler.core.types import Sample, Snapshot
from keda_gpu_scaler.wire.json_fields import MAX_TEXT_LENGTH
from keda_gpu_scaler.wire.snapshot_codec import MAX_FAILURES, decode, encode

READINGS = ("", "utilization", "memory", "temperature", "power", "activity", "pcie", "nvlink", "identity")


class BackendContract:
    """Subclass it as ``Test…`` with a ``backend`` that can be read."""

    @pytest.fixture
    def backend(self) -> Backend:
        """A backend that was not read yet. The subclass closes it."""
        raise NotImplementedError("a subclass provides it")

    def test_its_source_has_a_name(self, backend: Backend) -> None:
        assert backend.source.strip()

    def test_a_read_gives_a_tuple_of_samples(self, backend: Backend) -> None:
        samples = backend.read(0.0)
        assert isinstance(samples, tuple)
        assert all(isinstance(sample, Sample) for sample in samples)

    def test_a_backend_has_devices_unless_it_is_deviceless(self, backend: Backend) -> None:
        assert bool(backend.read(0.0)) is not backend.deviceless

    def test_samples_are_in_the_order_of_their_indices(self, backend: Backend) -> None:
        samples = backend.read(0.0)
        assert list(samples) == sorted(samples, key=lambda sample: (sample.device.index, sample.device.uuid))

    def test_no_two_devices_share_a_uuid(self, backend: Backend) -> None:
        uuids = [sample.device.uuid for sample in backend.read(0.0)]
        assert all(uuids)
        assert len(uuids) == len(set(uuids))

    def test_whole_devices_have_different_indices(self, backend: Backend) -> None:
        indices = [sample.device.index for sample in backend.read(0.0) if sample.device.parent is None]
        assert all(index >= 0 for index in indices)
        assert len(indices) == len(set(indices))

    def test_a_slice_replaces_its_parent(self, backend: Backend) -> None:
        devices = [sample.device for sample in backend.read(0.0)]
        assert not {device.parent for device in devices} & {device.uuid for device in devices}

    def test_every_reading_is_in_range_or_unknown(self, backend: Backend) -> None:
        for now in (0.0, 0.5, 1.0, 61.0):
            for sample in backend.read(now):
                assert_plausible(sample)

    def test_two_reads_at_the_same_time_have_the_same_devices(self, backend: Backend) -> None:
        first, second = backend.read(5.0), backend.read(5.0)
        assert [sample.device for sample in first] == [sample.device for sample in second]

    def test_a_device_keeps_its_identity_between_reads(self, backend: Backend) -> None:
        devices = [sample.device for sample in backend.read(0.0)]
        assert [sample.device for sample in backend.read(1.0)] == devices
        assert [sample.device for sample in backend.read(1000.0)] == devices

    def test_a_reading_is_dated_and_an_unknown_one_may_say_why(self, backend: Backend) -> None:
        for sample in (*backend.read(0.0), *backend.read(1.0)):
            assert 0 <= sample.lag_seconds < math.inf
            assert len(sample.failures) <= MAX_FAILURES
            for failure in sample.failures:
                assert failure.reading in READINGS
                assert 0 < len(failure.reason) <= MAX_TEXT_LENGTH
                assert failure.reason.isprintable()
                assert failure.since_seconds is None or 0 <= failure.since_seconds <= 1

    def test_every_snapshot_of_it_can_be_sent(self, backend: Backend) -> None:
        snapshot = Snapshot("gpu-7", 1, 1.0, 1.7e9, "a test", backend.read(0.0))
        assert decode(encode(snapshot)) == snapshot

    def test_no_call_is_overdue_between_two_reads(self, backend: Backend) -> None:
        assert backend.overdue_call() is None
        backend.read(0.0)
        assert backend.overdue_call() is None

    def test_it_can_be_closed_before_the_first_read(self, backend: Backend) -> None:
        backend.close()

    def test_it_can_be_closed_twice(self, backend: Backend) -> None:
        backend.read(0.0)
        backend.close()
        backend.close()

    def test_a_closed_backend_can_be_read_again(self, backend: Backend) -> None:
        devices = [sample.device for sample in backend.read(0.0)]
        backend.close()
        assert [sample.device for sample in backend.read(0.0)] == devices


def assert_plausible(sample: Sample) -> None:
    """Assert that every reading of a sample is unknown or physically possible."""
    for ratio in (sample.gpu_utilization_ratio, sample.memory_utilization_ratio):
        assert ratio is None or 0 <= ratio <= 1
    used, total = sample.memory_used_bytes, sample.memory_total_bytes
    assert used is None or used >= 0
    assert total is None or total > 0
    assert used is None or total is None or used <= total
    assert sample.temperature_celsius is None or 0 <= sample.temperature_celsius < 200
    assert sample.power_watts is None or 0 <= sample.power_watts < 100_000
