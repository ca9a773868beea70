# SPDX-License-Identifier: Apache-2.0
"""Charts of the last hour of a workload, as SVG without text, and the table behind them.

Law: a gap is a gap. A line joins two known points only where KEDA asked again within ``JOIN_STEPS``; an answer without
a value ends it. Every coordinate is a finite number within the view box.

The charts stretch to the width of the page, so they contain no text: the page writes the labels beside them. Colours
and line styles are classes of the style sheet, because the page's policy forbids styles in attributes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from keda_gpu_scaler.core.comparison import significant
from keda_gpu_scaler.server.status_text import UNKNOWN, safe_text, table_cells, table_start
from keda_gpu_scaler.server.workload_history import MAX_POINTS, STEP_SECONDS, WorkloadPoint

JOIN_STEPS = 4
"""The most steps between two answers that a line joins. KEDA asks every 30 s where nothing else is configured."""
WIDTH, HEIGHT = MAX_POINTS, 100
"""The view box: one unit for each step, the newest one at the right."""
SPARK_WIDTH, SPARK_HEIGHT = 60, 20
"""The view box of a sparkline: one unit for each minute."""
ROW_STEPS = 30
"""The number of steps in a row of the table: five minutes."""

Points = Sequence[tuple[int, WorkloadPoint]]
"""The points of a history, the oldest first, each with how many steps ago it was."""
Values = Iterable[tuple[int, float | None]]
"""One number of each point, None where it is not known."""

_MARGIN = 3.0  # a line at the edge of the view box keeps its width
_BAR = 5  # the height of the bar at the bottom
_SMALLEST = 1e-9
_Key = TypeVar("_Key")


def value_chart(points: Points, name: str, title: str, unit: str) -> str:
    """Return the measured values against the target.

    Args:
        points: the history.
        name: the start of the ids in the chart, unique within the page.
        title: the name of the chart, as plain text.
        unit: the unit of the values, "" for none.
    """
    top = value_scale(points)
    runs = _runs(points, lambda point: True if _has_no_value(point) else None)
    shapes = (
        *(f'<rect class=no-value x="{x}" y="{HEIGHT - _BAR}" width="{wide}" height="{_BAR}"/>' for x, wide, _ in runs),
        _path("target", _steps_line(((ago, point.target) for ago, point in points), top)),
        _path("measured", _line(((ago, point.measured) for ago, point in points), top)),
    )
    return _svg(name, title, _value_summary(points, unit), shapes)


def replica_chart(points: Points, name: str, title: str) -> str:
    """Return the replicas, the ready and the wanted ones, within the limits.

    The arguments are those of ``value_chart``. An inactive time covers the limits: KEDA sets the size then, and not
    the HPA.
    """
    top = float(replica_scale(points))
    idle = _runs(points, lambda point: None if point.active else True)
    shapes = (
        *(_band(x, wide, limits, top) for x, wide, limits in _runs(points, _limits)),
        *(f'<rect class=inactive x="{x}" y="0" width="{wide}" height="{HEIGHT}"/>' for x, wide, _ in idle),
        *(f'<rect class=inactive-bar x="{x}" y="{HEIGHT - _BAR}" width="{wide}" height="{_BAR}"/>'
          for x, wide, _ in idle),
        _path("ready", _steps_line(((ago, point.ready) for ago, point in points), top)),
        _path("wanted", _steps_line(((ago, point.wanted) for ago, point in points), top)),
        _path("replicas", _steps_line(((ago, point.replicas) for ago, point in points), top)),
    )  # fmt: skip
    return _svg(name, title, _replica_summary(points), shapes)


def sparkline(values: Values, target: float, label: str) -> str:
    """Return a small chart of the measured values: the last of each minute, and the target of now."""
    minutes: dict[int, float | None] = {}
    for steps_ago, value in values:
        minutes[int(steps_ago * STEP_SECONDS // 60)] = value
    known = [value for value in map(_finite, minutes.values()) if value is not None]
    top = _nice(max((*known, target)))
    line = _path_data(_segments(minutes.items(), 1), SPARK_WIDTH, SPARK_HEIGHT, top)
    level = _number(_y(target, top, SPARK_HEIGHT))
    return (
        f'<svg class="chart spark" role=img viewBox="0 0 {SPARK_WIDTH} {SPARK_HEIGHT}" preserveAspectRatio=none>'
        f"<title>{safe_text(label)}</title>"
        f'<path class=target d="M0 {level}H{SPARK_WIDTH}"/>{_path("measured", line)}</svg>'
    )


def value_scale(points: Points) -> float:
    """Return the value at the top of the chart of values."""
    known = [_finite(number) for _, point in points for number in (point.measured, point.target)]
    return _nice(max((number for number in known if number is not None), default=0.0))


def replica_scale(points: Points) -> int:
    """Return the size at the top of the chart of replicas. A maximum far above every size is outside of it."""
    shown_sizes = ((point.replicas, point.wanted, point.ready, point.min_replicas) for _, point in points)
    sizes = [size or 0 for shown in shown_sizes for size in shown]
    peak = max((*sizes, 1))
    limits = [point.max_replicas for _, point in points if point.max_replicas is not None]
    shown = [limit for limit in limits if limit <= 2 * peak + 2]
    return max((peak, *shown))


def history_table(points: Points, name: str, unit: str) -> Iterator[str]:
    """Yield the table behind the charts: a row for each five minutes, the newest first. ``name`` begins its id."""
    heads = ("Minutes ago", "Measured", "Target", "Without a value", "Replicas", "Ready", "Wanted", "Limits", "Active")
    yield from table_start(name, "The last hour, in steps of five minutes, the newest first", heads)
    yield "<tbody>"
    minutes = int(ROW_STEPS * STEP_SECONDS // 60)
    for number in range(MAX_POINTS // ROW_STEPS):
        row = [point for ago, point in points if ago // ROW_STEPS == number]
        head = f"{number * minutes} to {(number + 1) * minutes}"
        cells = _row(row, unit) if row else ("no answer", *("—",) * (len(heads) - 2))
        yield f"<tr><th scope=row>{head}</th>{table_cells(cells)}</tr>"
    yield "</tbody></table></div>"


def span_text(values: Iterable[float | None], unit: str = "") -> str:
    """Return the lowest and the highest known value; empty where none is known."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
    lowest, highest = significant(min(known)), significant(max(known))
    return f"{lowest if lowest == highest else f'{lowest} to {highest}'} {unit}".rstrip()


# ---- sentences ----


def _row(row: Sequence[WorkloadPoint], unit: str) -> tuple[str, ...]:
    newest = row[-1]
    without = sum(map(_has_no_value, row))
    active = sum(point.active for point in row)
    limits = _limits(newest)
    return (
        safe_text(span_text((point.measured for point in row), unit)) or UNKNOWN,
        safe_text(f"{significant(newest.target)} {unit}".rstrip()),
        f"{without} of {len(row)} answers",
        span_text(point.replicas for point in row) or UNKNOWN,
        span_text(point.ready for point in row) or UNKNOWN,
        span_text(point.wanted for point in row) or UNKNOWN,
        UNKNOWN if limits is None else f"{limits[0]} to {limits[1]}",
        "active" if active == len(row) else "in part" if active else "inactive",
    )


def _value_summary(points: Points, unit: str) -> str:
    if not points:
        return "No answer to KEDA is known."
    without = sum(_has_no_value(point) for _, point in points)
    span = span_text((point.measured for _, point in points), unit)
    newest = _finite(points[-1][1].measured)
    last = "unknown" if newest is None else f"{significant(newest)} {unit}".rstrip()
    target = f"{significant(points[-1][1].target)} {unit}".rstrip()
    measured = f"Measured: {span}; last: {last}." if span else "No measured value is known."
    return f"{measured} Target: {target}. {without} of {len(points)} answers have no value."


def _replica_summary(points: Points) -> str:
    if not points:
        return "No answer to KEDA is known."
    newest = points[-1][1]
    parts = [
        f"Replicas: {span_text(point.replicas for _, point in points) or 'unknown'}; "
        f"last: {'unknown' if newest.replicas is None else newest.replicas}.",
        f"Ready: {span_text(point.ready for _, point in points) or 'unknown'}; "
        f"last: {'unknown' if newest.ready is None else newest.ready}.",
        f"Wanted: {span_text(point.wanted for _, point in points) or 'unknown'}; "
        f"last: {'unknown' if newest.wanted is None else newest.wanted}.",
    ]
    if (limits := _limits(newest)) is not None:
        parts.append(f"Limits: {limits[0]} to {limits[1]}.")
    inactive = sum(not point.active for _, point in points)
    parts.append(f"Inactive in {inactive} of {len(points)} answers.")
    return " ".join(parts)


# ---- shapes ----


def _svg(name: str, title: str, summary: str, shapes: Iterable[str]) -> str:
    return (
        f'<svg class=chart role=img aria-labelledby={name}-title aria-describedby={name}-desc viewBox="0 0 {WIDTH} '
        f'{HEIGHT}" preserveAspectRatio=none><title id={name}-title>{safe_text(title)}</title>'
        f"<desc id={name}-desc>{safe_text(summary)}</desc>{''.join(shapes)}</svg>"
    )


def _path(kind: str, data: str) -> str:
    return f'<path class={kind} d="{data}"/>' if data else ""


def _band(x: int, wide: int, limits: tuple[int, int], top: float) -> str:
    lowest, highest = limits
    upper, lower = _y(highest, top, HEIGHT), _y(lowest, top, HEIGHT)
    if highest > top:
        upper = 0.0
    y, high = _number(upper), _number(max(lower - upper, 0.5))
    return f'<rect class=limits x="{x}" y="{y}" width="{wide}" height="{high}"/>'


def _line(values: Values, top: float) -> str:
    return _path_data(_segments(values, JOIN_STEPS), WIDTH, HEIGHT, top)


def _steps_line(values: Values, top: float) -> str:
    """Return a line that keeps each value until the next one."""
    parts = []
    for (first, value), *rest in _segments(values, JOIN_STEPS):
        x, level = _x(first, WIDTH), _number(_y(value, top, HEIGHT))
        parts.append(f"M{x} {level}")
        for steps_ago, later in rest:
            parts.append(f"H{_x(steps_ago, WIDTH)}")
            if later != value:
                value = later
                parts.append(f"V{_number(_y(value, top, HEIGHT))}")
        if not rest:
            parts.append("h0")  # a dot
    return "".join(parts)


def _path_data(segments: Iterable[Sequence[tuple[int, float]]], width: int, height: int, top: float) -> str:
    parts = []
    for segment in segments:
        places = [f"{_x(ago, width)} {_number(_y(value, top, height))}" for ago, value in segment]
        parts.append(f"M{'L'.join(places)}" if len(places) > 1 else f"M{places[0]}h0")
    return "".join(parts)


def _segments(values: Values, join_steps: int) -> Iterator[list[tuple[int, float]]]:
    """Yield the runs of known values in which no answer is missing."""
    segment: list[tuple[int, float]] = []
    for steps_ago, raw in values:
        value = _finite(raw)
        if segment and (value is None or segment[-1][0] - steps_ago > join_steps):
            yield segment
            segment = []
        if value is not None:
            segment.append((steps_ago, value))
    if segment:
        yield segment


def _runs(points: Points, key: Callable[[WorkloadPoint], _Key | None]) -> list[tuple[int, int, _Key]]:
    """Return where the key of the points is the same and not None: the left edge, the width and the key."""
    runs: list[tuple[int, int, _Key]] = []
    for number, (steps_ago, point) in enumerate(points):
        value = key(point)
        if value is None:
            continue
        following = points[number + 1][0] if number + 1 < len(points) else -1
        x = WIDTH - 1 - steps_ago
        wide = steps_ago - following if steps_ago - following <= JOIN_STEPS and following >= 0 else 1
        if runs and runs[-1][2] == value and runs[-1][0] + runs[-1][1] == x:
            runs[-1] = (runs[-1][0], runs[-1][1] + wide, value)
        else:
            runs.append((x, wide, value))
    return runs


def _has_no_value(point: WorkloadPoint) -> bool:
    """Whether a value is missing. At zero replicas there is nothing to measure."""
    return _finite(point.measured) is None and point.replicas != 0


def _limits(point: WorkloadPoint) -> tuple[int, int] | None:
    if point.min_replicas is None or point.max_replicas is None:
        return None
    return point.min_replicas, max(point.min_replicas, point.max_replicas)


def _x(steps_ago: int, width: int) -> str:
    return _number(width - 0.5 - steps_ago)


def _y(value: float, top: float, height: int) -> float:
    return height - _MARGIN - (height - 2 * _MARGIN) * min(max(value / top, 0.0), 1.0)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _nice(highest: float) -> float:
    """Return a round number that is not below the highest value."""
    highest = max(highest, _SMALLEST)
    unit = 10.0 ** math.floor(math.log10(highest))
    return next((unit * step for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if unit * step >= highest), highest)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
