# SPDX-License-Identifier: Apache-2.0
"""Composes the pages of the live view: the table, the help and the unavailable instances.

Law: a view has at most as many lines as the terminal, and no line is wider. This module does not use the terminal.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import replace

from keda_gpu_scaler.cli.output import UNKNOWN
from keda_gpu_scaler.cli.top.arrangement import RowKind, arrange, arrange_workloads, merged
from keda_gpu_scaler.cli.top.columns import ALL_GLYPHS, Glyphs, LineStyle, StyledLine, narrow
from keda_gpu_scaler.cli.top.rows import FleetReadings
from keda_gpu_scaler.cli.top.sparklines import STEP_SECONDS, Sparklines
from keda_gpu_scaler.cli.top.table import DrawSparkline, device_count, fitted_lines, memory, table_lines, whole_number
from keda_gpu_scaler.cli.top.view_state import KEYS, ViewPage, ViewState
from keda_gpu_scaler.cli.top.workload_table import workload_lines

MAX_UNAVAILABLE_LINES = 4
"""The most lines below the table that name unavailable instances; ``!`` shows all."""

_NO_MATCH = "no row contains these words"
NO_WORKLOAD = "no instance has answered for a workload in the last minutes"
_REMARKS = (
    f"{UNKNOWN} means unknown: the value is not available, or too old. 3/4 devices: three of four have readings, and "
    "the other numbers are of these three.",
    f"RECENT is the utilisation since the view was opened, {STEP_SECONDS:g} s for each character.",
    "By pod, each pod has an equal part of a shared device. RECENT shows the whole device.",
    "By workload, VALUE is the mean of the replicas. The bar beside it has a mark at the target. REPORTED is the "
    "number for the HPA; * means adjusted. RECENT has a minute for each character, from the memory of the instances. "
    "REPLICAS are those now, and those wanted within minimum and maximum.",
)


def view_lines(
    readings: FleetReadings,
    state: ViewState,
    sparklines: Sparklines,
    now: float,
    width: int,
    height: int,
    glyphs: Glyphs = ALL_GLYPHS,
) -> tuple[list[StyledLine], ViewState]:
    """Return every line of the view, and the state with an offset that is not beyond the last row.

    Args:
        readings: the readings of the fleet.
        state: how they are shown.
        sparklines: the recent utilisation.
        now: on the clock of the sparklines.
        width: the columns of the terminal.
        height: the lines of the terminal.
        glyphs: the characters that the terminal shows.
    """
    if state.page is not ViewPage.TABLE:
        body = _help(width) if state.page is ViewPage.HELP else _all_unavailable(readings, width)
        offset = min(state.offset, max(0, len(body) - height))
        lines = body[offset : offset + height]
    else:
        lines, offset = _table_page(
            readings,
            state,
            width,
            height,
            glyphs,
            lambda row, length: sparklines.draw(row.device_keys, now, length, glyphs.bars),
        )
    return fitted_lines(lines, width, glyphs), replace(state, offset=offset)


def _table_page(
    readings: FleetReadings, state: ViewState, width: int, height: int, glyphs: Glyphs, draw_sparkline: DrawSparkline
) -> tuple[list[StyledLine], int]:
    """Return the lines of the table and around it, and the first row that is shown."""
    table, nothing = _table(readings, state, width, glyphs, draw_sparkline)
    above = [*_title(readings, width), _status(state)]
    below = _below(readings)
    visible = visible_rows(height, len(above) + len(below))
    offset = min(state.offset, max(0, len(table) - 1 - visible))
    shown = table[1 + offset : 1 + offset + visible]
    if len(table) == 1:
        shown = [StyledLine(nothing, LineStyle.FAINT)]
    blank = [StyledLine("")] * (height - len(above) - 1 - len(shown) - len(below))
    return [*above, table[0], *shown, *blank, *below][:height], offset


def _table(
    readings: FleetReadings, state: ViewState, width: int, glyphs: Glyphs, draw_sparkline: DrawSparkline
) -> tuple[list[StyledLine], str]:
    """Return the head and the rows of the table, and what is shown where there is no row."""
    words = state.words if state.typing is None else state.typing
    if state.kind is RowKind.WORKLOAD:
        workloads = arrange_workloads(readings.workloads, state.sort, words, is_reversed=state.is_reversed)
        nothing = _NO_MATCH if readings.workloads else f"{NO_WORKLOAD}; d shows the devices"
        return workload_lines(workloads, width, glyphs), nothing
    rows = arrange(readings.rows, state.kind, state.sort, words, is_reversed=state.is_reversed)
    return table_lines(rows, state.kind, width, glyphs, draw_sparkline), _NO_MATCH if readings.rows else "no device yet"


def visible_rows(height: int, other_lines: int = 3 + MAX_UNAVAILABLE_LINES) -> int:
    """Return the number of rows that fit beside the head of the table and this number of other lines."""
    return max(1, height - other_lines - 1)


def _title(readings: FleetReadings, width: int) -> Iterator[StyledLine]:
    at = f"{readings.at.astimezone():%H:%M:%S}"
    parts = [narrow(readings.place)]
    if readings.rows:
        total = merged(readings.rows)
        nodes = len({row.node for row in readings.rows})
        parts += [
            f"{nodes} {'node' if nodes == 1 else 'nodes'}",
            f"{device_count(total)} {'device' if total.devices == 1 else 'devices'}",
            whole_number(total.gpu_utilization_percent, " %"),
            f"{memory(total, 0)} GiB",
            f"{whole_number(total.power_watts)} W",
        ]
    if readings.unavailable:
        parts.append(f"{len(readings.unavailable)} unavailable")
    text = "  ".join(parts)
    has_room = len(text) + len(at) < width
    yield StyledLine(f"{text:<{max(0, width - len(at) - 1)}} {at}" if has_room else text, LineStyle.TITLE)


def _status(state: ViewState) -> StyledLine:
    if state.typing is not None:
        return StyledLine(f"filter: {narrow(state.typing)}_   Enter applies it, Esc removes it", LineStyle.INPUT)
    order = ", reversed" if state.is_reversed else ""
    words = f"   filter: {narrow(state.words)}" if state.words else ""
    return StyledLine(f"by {state.kind}   sorted by {state.sort}{order}{words}   h help   q quit", LineStyle.FAINT)


def _below(readings: FleetReadings) -> list[StyledLine]:
    lines = [StyledLine(narrow(note), LineStyle.FAINT) for note in readings.notes]
    sentences = [f"{name}: {reason}" for name, reason in readings.unavailable.items()]
    shown = sentences if len(sentences) <= MAX_UNAVAILABLE_LINES else sentences[: MAX_UNAVAILABLE_LINES - 1]
    lines += [StyledLine(narrow(sentence), LineStyle.BAD) for sentence in shown]
    if len(shown) < len(sentences):
        lines.append(StyledLine(f"and {len(sentences) - len(shown)} more: ! shows all", LineStyle.BAD))
    return lines


def _help(width: int) -> list[StyledLine]:
    lines = [StyledLine("keda-gpu-scaler top", LineStyle.TITLE), StyledLine("")]
    for keys, effect in KEYS:
        for number, text in enumerate(textwrap.wrap(effect, max(10, width - 20))):
            lines.append(StyledLine(f"  {'' if number else keys:<16}  {text}"))
    for remark in _REMARKS:
        wrapped = textwrap.wrap(remark, max(10, width - 4))
        lines += [StyledLine(""), *(StyledLine(f"  {text}") for text in wrapped)]
    return lines


def _all_unavailable(readings: FleetReadings, width: int) -> list[StyledLine]:
    title = "Unavailable instances" if readings.unavailable else "No instance is unavailable"
    lines = [StyledLine(title, LineStyle.TITLE), StyledLine("")]
    for name, reason in readings.unavailable.items():
        wrapped = textwrap.wrap(narrow(f"{name}: {reason}"), width, subsequent_indent="    ")
        lines += map(StyledLine, wrapped)
    return lines
