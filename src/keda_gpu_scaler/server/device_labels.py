# SPDX-License-Identifier: Apache-2.0
"""The labels of the series of a device: the device itself, and the pod that holds it.

Law: every device has exactly one series of a gauge, so a sum over the series is the sum over the devices. A pod is a
label only where it holds the device alone. The shares of a device that several pods hold are a metric of their own,
and they add up to 1.

The labels are those of dcgm-exporter and of AMD's device-metrics-exporter: ``namespace``, ``pod`` and ``container``.
dcgm-exporter writes one series with the full value for each pod of a shared device (KUBERNETES_VIRTUAL_GPUS), whose sum
is a multiple of the device.

A label without a value is written and not left out. With ``honor_labels`` Prometheus adds the labels of the scraped
target where a series has no such label (``mutateSampleLabels``), so a free device would get the pod of the instance.
"""

from collections.abc import Callable, Iterator

from keda_gpu_scaler.core.evaluate.attribution import DeviceHolder, holders
from keda_gpu_scaler.core.types import Sample, Snapshot

DEVICE_LABELS = ("vendor", "gpu_index", "gpu_uuid", "gpu_name", "namespace", "pod", "container")

VendorOf = Callable[[str], str]
"""Returns the label ``vendor`` of a device by its UUID, empty where it is not known."""

_NO_POD = ("", "", "")


class DeviceLabels:
    """The labels of the devices of one snapshot.

    Args:
        snapshot: the snapshot, None while there is no fresh one.
        vendor_of: the label ``vendor`` of a device.
    """

    def __init__(self, snapshot: Snapshot | None, vendor_of: VendorOf) -> None:
        self._snapshot = snapshot
        self._vendor_of = vendor_of
        self._holders = holders(snapshot) if snapshot is not None else None

    @property
    def are_allocations_known(self) -> bool | None:
        """Whether the kubelet reports the pods that hold the devices; None without a fresh snapshot."""
        return None if self._snapshot is None else self._holders is not None

    def of(self, sample: Sample) -> tuple[str, ...]:
        """Return the values of ``DEVICE_LABELS``. They name a pod if exactly one pod holds the device."""
        found = (self._holders or {}).get(sample.device.uuid, ())
        return (*self._of_device(sample), *(_of_pod(found[0]) if len(found) == 1 else _NO_POD))

    def shares(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield the labels and the share of every pod that holds a device or a part of it."""
        for sample in self._snapshot.samples if self._snapshot is not None else ():
            for holder in (self._holders or {}).get(sample.device.uuid, ()):
                yield (*self._of_device(sample), *_of_pod(holder)), 1 / holder.sharers

    def _of_device(self, sample: Sample) -> tuple[str, ...]:
        device = sample.device
        return self._vendor_of(device.uuid), str(device.index), device.uuid, device.model


def _of_pod(holder: DeviceHolder) -> tuple[str, ...]:
    """Return the values of the labels of a pod. Several containers of a pod that share the device are not named."""
    container = holder.containers[0] if len(holder.containers) == 1 else ""
    return holder.pod.namespace, holder.pod.name, container
