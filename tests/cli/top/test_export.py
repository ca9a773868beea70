# SPDX-License-Identifier: Apache-2.0
"""Tests the JSON and the CSV of ``top``."""

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime

from keda_gpu_scaler.cli.top.arrangement import RowKind
from keda_gpu_scaler.cli.top.export import as_csv, as_json
from keda_gpu_scaler.cli.top.rows import COLUMNS, FleetReadings
from tests.cli.top.fleets import BASE, rows


def test_json_has_every_column_and_null_for_an_unknown_value() -> None:
    readings = FleetReadings(datetime(2026, 1, 2, tzinfo=UTC), "fleet", tuple(rows()), {"gpu-12": "why"}, ("a note",))
    document = json.loads(as_json(readings, RowKind.DEVICE, readings.rows))
    assert (document["at"], document["place"], document["by"]) == ("2026-01-02T00:00:00+00:00", "fleet", "device")
    assert (document["unavailable"], document["notes"]) == ({"gpu-12": "why"}, ["a note"])
    assert tuple(document["rows"][0]) == COLUMNS
    assert document["rows"][0]["held_by"] == ["ai/llama-0"]
    assert document["rows"][2]["gpu_utilization_percent"] is None
    assert document["rows"][2]["held_by"] is None


def test_json_has_no_control_character_of_an_untrusted_text() -> None:
    row = replace(BASE, model="\x1b[31m\x9b31m")
    readings = FleetReadings(datetime(2026, 1, 2, tzinfo=UTC), "fleet", (row,), {})
    text = as_json(readings, RowKind.DEVICE, readings.rows)
    assert text.isprintable()
    assert json.loads(text)["rows"][0]["model"] == row.model


def test_csv_has_no_control_and_no_line_break_of_an_untrusted_text() -> None:
    row = replace(BASE, model="a\x1b[31m\u202e\u2066\u200f\u061c\r\nb", held_by=("ai/\x9bpod",))
    lines = as_csv(RowKind.DEVICE, [row]).splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_csv_has_the_same_columns_and_an_empty_cell_for_an_unknown_value() -> None:
    found = list(csv.DictReader(io.StringIO(as_csv(RowKind.DEVICE, rows()))))
    assert tuple(found[0]) == COLUMNS
    assert (found[0]["held_by"], found[0]["gpu_utilization_percent"]) == ("ai/llama-0", "90.0")
    assert found[2]["gpu_utilization_percent"] == ""
    assert len(found) == 5
