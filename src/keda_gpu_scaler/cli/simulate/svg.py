# SPDX-License-Identifier: Apache-2.0
"""Draws a timeline as inline SVG.

Law: the drawing loads nothing, and every text in it is escaped.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_LEFT, _RIGHT, _BOTTOM = 62, 10, 22
_COLOURS = 6
"""The number of colours, which the style of the page gives the classes c0 to c5."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The size of a drawing. ``legend_y`` is the line of the legend, and ``points`` how many points a line has."""

    name: str
    width: int
    height: int
    top: int
    legend_y: int
    points: int


WIDE = Frame("wide", 860, 170, 22, 14, 1500)
NARROW = Frame("narrow", 400, 190, 40, 30, 400)
"""For a screen of 400 pixels: the same text is as large there, and the legend has its own line."""

Point = tuple[float, float | None]
"""Minutes, and a value; None where there is none."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a timeline; ``is_step`` draws it in steps, ``is_dashed`` as a limit."""

    name: str
    points: Sequence[Point]
    is_step: bool = False
    is_dashed: bool = False


def timeline(title: str, lines: Sequence[Line], *, is_logarithmic: bool = False) -> str:
    """Return SVG elements with some lines over the same minutes: for wide and for narrow screens."""
    return "\n".join([_drawing(title, lines, frame, is_logarithmic=is_logarithmic) for frame in (WIDE, NARROW)])


def _drawing(title: str, lines: Sequence[Line], frame: Frame, *, is_logarithmic: bool) -> str:
    shown = [(line, _thinned(line.points, frame.points)) for line in lines]
    points = [point for _, thinned in shown for point in thinned]
    known = [value for _, value in points if value is not None and math.isfinite(value)]
    end = max([minute for minute, _ in points], default=1.0) or 1.0
    scale = _Scale(end, known, frame, is_logarithmic=is_logarithmic)
    label = html.escape(title, quote=True)
    parts = [
        f'<svg class="{frame.name}" viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{label}">',
        f'<text x="{_LEFT}" y="14" class="title">{html.escape(title)}</text>',
        *scale.axes(),
    ]
    x = float(frame.width - _RIGHT)
    for number, (line, thinned) in reversed([*enumerate(shown)]):
        colour = f"c{number % _COLOURS}"
        dash = ' stroke-dasharray="5 4"' if line.is_dashed else ""
        parts += [f'<path d="{path}" class="{colour}"{dash}/>' for path in scale.paths(thinned, is_step=line.is_step)]
        name = html.escape(line.name)
        parts.append(f'<text x="{x:.0f}" y="{frame.legend_y}" class="{colour}" text-anchor="end">{name}</text>')
        x -= 7 * len(line.name) + 14
    return "\n".join([*parts, "</svg>"])


def _thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """Return at most some points: of each group the one with the largest value."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [max(group, key=lambda point: -math.inf if point[1] is None else point[1]) for group in groups]


class _Scale:
    """Turns minutes and values into places of the drawing."""

    def __init__(self, end: float, values: Sequence[float], frame: Frame, *, is_logarithmic: bool) -> None:
        self._end = end
        self._frame = frame
        self._is_logarithmic = is_logarithmic
        most = max(values, default=1.0) or 1.0
        if is_logarithmic:
            least = min([value for value in values if value > 0], default=most / 10)
            self._low: float = math.floor(math.log10(least))
            self._high: float = max(math.ceil(math.log10(most)), self._low + 1)
        else:
            self._low, self._high = 0.0, 1.05 * most

    def paths(self, points: Sequence[Point], *, is_step: bool) -> list[str]:
        """Return a path for each part of a line without a gap."""
        paths: list[str] = []
        current: list[str] = []
        last = 0.0
        for minute, value in points:
            if value is None:
                if current:
                    paths.append("".join(current))
                current = []
                continue
            x, y = self._x(minute), self._y(value)
            if current and is_step:
                current.append(f"L{x:.1f} {last:.1f}")
            current.append(f"{'L' if current else 'M'}{x:.1f} {y:.1f}")
            last = y
        return [*paths, "".join(current)] if current else paths

    def axes(self) -> list[str]:
        """Return the lines and numbers of both axes."""
        parts, frame = [], self._frame
        for value in self._ticks():
            y = self._y(value)
            parts.append(f'<line x1="{_LEFT}" x2="{frame.width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
        step = _nice(self._end * 100 / frame.width)
        for number in range(int(self._end / step) + 1):
            minute = number * step
            shown = f"{minute / 60:.4g} h" if self._end > 300 else f"{minute:.4g} min"
            parts.append(f'<text x="{self._x(minute):.1f}" y="{frame.height - 6}" text-anchor="middle">{shown}</text>')
        return parts

    def _ticks(self) -> list[float]:
        if self._is_logarithmic:
            return [10.0**power for power in range(int(self._low), int(self._high) + 1)]
        step = _nice(self._high / 4)
        return [number * step for number in range(int(self._high / step) + 1)]

    def _x(self, minute: float) -> float:
        return _LEFT + (self._frame.width - _LEFT - _RIGHT) * minute / self._end

    def _y(self, value: float) -> float:
        if self._is_logarithmic:
            value = math.log10(value) if value > 0 else self._low
        share = min(1.0, max(0.0, (value - self._low) / (self._high - self._low)))
        frame = self._frame
        return frame.height - _BOTTOM - (frame.height - frame.top - _BOTTOM) * share


def _nice(step: float) -> float:
    """Return a round number that is not below a step: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(step, 1e-12)))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= step), 10 * power)
