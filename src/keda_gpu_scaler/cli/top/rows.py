# SPDX-License-Identifier: Apache-2.0
"""Builds the rows of ``top``: one row for each device of the fleet.

Law: an unknown reading is None and stays None.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime

from keda_gpu_scaler.cli.top.workload_rows import WorkloadRow
from keda_gpu_scaler.core.evaluate.attribution import holders_by_device
from keda_gpu_scaler.core.state.fleet import PEERS_UNKNOWN, Fleet, History
from keda_gpu_scaler.core.types import Device, Sample
from keda_gpu_scaler.devices.registry import is_measured, maker_of

_MAX_NAMED_NODES = 3

DeviceKey = tuple[str, str]
"""The node and the UUID of a device."""


@dataclass(frozen=True, slots=True)
class TopRow:
    """One row of the table; ``export`` documents the fields.

    ``device_keys`` are the devices that the row summarizes. They select its sparkline and are not exported.
    """

    node: str
    pod: str
    device: str
    uuid: str
    vendor: str
    model: str
    devices: int
    with_value: int
    gpu_utilization_percent: float | None
    memory_used_bytes: float | None
    memory_total_bytes: float | None
    temperature_celsius: float | None
    power_watts: float | None
    held_by: tuple[str, ...] | None
    age_seconds: float | None
    source: str
    unknown: str
    device_keys: tuple[DeviceKey, ...] = field(default=(), repr=False)


COLUMNS = tuple(column.name for column in fields(TopRow) if column.name != "device_keys")
"""The keys of a row in JSON, and the columns of CSV."""


@dataclass(frozen=True, slots=True)
class FleetReadings:
    """The readings of the fleet at one instant.

    ``place`` is their origin for people ("fleet", "slurm job 4711"). ``rows`` has one row for each device.
    ``unavailable`` has the instances without a snapshot, with the reason. ``notes`` are sentences for the reader.
    ``workloads`` has one row for each trigger that an instance answered for.
    """

    at: datetime
    place: str
    rows: tuple[TopRow, ...]
    unavailable: Mapping[str, str]
    notes: tuple[str, ...] = ()
    workloads: tuple[WorkloadRow, ...] = ()


def device_rows(
    fleet: Fleet,
    now: float,
    *,
    is_included: Callable[[Device], bool] = lambda device: True,
    default_holder: str | None = None,
) -> Iterator[TopRow]:
    """Yield a row for each device of every known node.

    Args:
        fleet: the snapshots.
        now: on the clock of the fleet's histories.
        is_included: whether a device gets a row.
        default_holder: the holder of the devices on a node without a kubelet; None where the holder is not known.
    """
    for node, history in fleet.nodes():
        missing_reason = "" if fleet.is_history_fresh(history, now) else fleet.missing_reason(node, now)
        holders = None if missing_reason else _holders(history, default_holder)
        age_seconds = history.age_seconds(now)
        for sample in history.newest.samples:
            if is_included(sample.device):
                shown = Sample(sample.device) if missing_reason else sample
                yield _device_row(history, shown, holders, age_seconds, missing_reason)


def unavailable_instances(fleet: Fleet) -> dict[str, str]:
    """Return the instances without a snapshot, and the discovery where it does not work; each with the reason."""
    discovery = fleet.unavailable.get(PEERS_UNKNOWN)
    return {**({"discovery": discovery} if discovery else {}), **fleet.nodes_without_snapshot()}


def unmeasured_sources(rows: Iterable[TopRow]) -> tuple[str, ...]:
    """Return a note for each source that is not a driver, so that no demonstration looks like a measurement."""
    nodes: dict[str, dict[str, None]] = {}
    for row in rows:
        if not is_measured(row.source):
            nodes.setdefault(row.source, {})[row.node] = None
    return tuple(
        f"{', '.join(names) if len(names) <= _MAX_NAMED_NODES else f'{len(names)} nodes'}: {source}"
        for source, names in ((source, list(found)) for source, found in nodes.items())
    )


def _device_row(
    history: History,
    sample: Sample,
    holders: Mapping[str, tuple[str, ...]] | None,
    age_seconds: float,
    missing_reason: str,
) -> TopRow:
    device, node = sample.device, history.newest.node
    utilization = sample.gpu_utilization_ratio
    return TopRow(
        node=node,
        pod="",
        device=f"{device.index}" if device.gpu_instance is None else f"{device.index}/{device.gpu_instance}",
        uuid=device.uuid,
        vendor=maker_of(device.uuid),
        model=device.model,
        devices=1,
        with_value=1 if sample.has_reading else 0,
        gpu_utilization_percent=None if utilization is None else 100 * utilization,
        memory_used_bytes=sample.memory_used_bytes,
        memory_total_bytes=sample.memory_total_bytes,
        temperature_celsius=sample.temperature_celsius,
        power_watts=sample.power_watts,
        held_by=None if holders is None else holders.get(device.uuid, ()),
        age_seconds=age_seconds,
        source=history.newest.source,
        unknown=missing_reason or ("" if sample.has_reading else "the driver returns no reading"),
        device_keys=((node, device.uuid),),
    )


def _holders(history: History, default_holder: str | None) -> Mapping[str, tuple[str, ...]] | None:
    """Return the holders of each held device, by UUID; None where the holders are not known."""
    if (holders := holders_by_device(history.newest)) is not None:
        return holders
    if default_holder is None:
        return None
    return {sample.device.uuid: (default_holder,) for sample in history.newest.samples}
