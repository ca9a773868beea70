# SPDX-License-Identifier: Apache-2.0
"""Writes the readings of the fleet as JSON and CSV.

Law: the keys are stable, and an unknown value is null in JSON and empty in CSV.

The keys of the JSON object:

``at``           the time, ISO 8601 in UTC
``place``        the origin: "fleet", or with --local "host", "slurm job 4711", "flux job …", "pod ai/llama-0"
``by``           the kind of the rows: "device", "node", "pod" or "workload"
``rows``         a list of objects. Their keys are also the columns of CSV:

    ``node``                     empty for a pod on several nodes
    ``pod``                      "namespace/name", empty unless by pod
    ``device``                   the driver's index, of a slice with its instance ("0/3"); empty unless by device
    ``uuid``
    ``vendor``, ``model``        "NVIDIA", "AMD", "Intel"; empty if there are several, or if it is not known
    ``devices``, ``with_value``  the number of devices, and how many of them have readings
    ``gpu_utilization_percent``  the mean of the devices with readings
    ``memory_used_bytes``, ``memory_total_bytes``, ``power_watts``   the sum, if every device with readings has one
    ``temperature_celsius``      the highest of the devices with readings
    ``held_by``                  a list of pods or jobs (CSV: with spaces between), null if the holders are not known
    ``age_seconds``              the age of the reading, the highest of several
    ``source``                   the source of the readings ("nvml", "replay of …", "synthetic …")
    ``unknown``                  why readings are missing, empty if none is missing

With ``by`` "workload" a row is one trigger of a ScaledObject, as an instance last answered it:

    ``namespace``, ``name``, ``metric_name``, ``metric``, ``unit``
    ``measured``, ``target``     the mean of the replicas with a value, and the target of one
    ``reported``, ``adjustment`` the number for the HPA, and why it is not the plain total or mean, empty where it is
    ``replicas``, ``wanted``     the size, and the one that the value leads to within minimum and maximum
    ``limit``                    "min" or "max" where that changed the wanted size, else "none"
    ``active``                   null where it is not known
    ``why``                      why there is no value, why the number is adjusted, or why it is active or not
    ``with_value``, ``expected`` how many of the ready pods have a value
    ``age_seconds``, ``instance``   of the answer

``unavailable``  an object: the instances without a snapshot, with the reason
``notes``        a list of sentences

A pod's part of a shared device is an equal one, as in the answer to a trigger.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict

from keda_gpu_scaler.cli.output import json_line, printable
from keda_gpu_scaler.cli.top.arrangement import RowKind
from keda_gpu_scaler.cli.top.rows import COLUMNS, FleetReadings, TopRow
from keda_gpu_scaler.cli.top.workload_rows import WORKLOAD_COLUMNS, WorkloadRow


def as_json(readings: FleetReadings, kind: RowKind, rows: Sequence[TopRow | WorkloadRow]) -> str:
    """Return one JSON object on one line."""
    return json_line(
        {
            "at": readings.at.isoformat(),
            "place": readings.place,
            "by": kind,
            "rows": [{key: value for key, value in asdict(row).items() if key in _columns(kind)} for row in rows],
            "unavailable": dict(readings.unavailable),
            "notes": list(readings.notes),
        }
    )


def as_csv(kind: RowKind, rows: Sequence[TopRow | WorkloadRow]) -> str:
    """Return a line with the names of the columns, and a line for each row. Control characters are replaced."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_columns(kind))
    for row in rows:
        values = asdict(row)
        if isinstance(row, TopRow):
            values["held_by"] = None if row.held_by is None else " ".join(row.held_by)
        writer.writerow([printable(it) if isinstance(it, str) else it for it in map(values.get, _columns(kind))])
    return text.getvalue()


def _columns(kind: RowKind) -> Sequence[str]:
    return WORKLOAD_COLUMNS if kind is RowKind.WORKLOAD else COLUMNS
