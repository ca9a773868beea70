# SPDX-License-Identifier: Apache-2.0
"""A metric family, its series, and their lines in the Prometheus text format."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

PREFIX = "keda_gpu_scaler_"
_GaugeValue = TypeVar("_GaugeValue")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family of the exposition. ``labels`` are the label names of its series."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gauge(Generic[_GaugeValue]):
    """A gauge, and how its value is read; None where it is not known."""

    family: Family
    read: Callable[[_GaugeValue], float | None]


MetricSeries = tuple[str, tuple[str, ...], float]  # suffix of the name, label values, value


def gauge_series(
    gauge: Gauge[_GaugeValue], sources: Iterable[_GaugeValue], labels: Callable[[_GaugeValue], tuple[str, ...]]
) -> Iterator[MetricSeries]:
    """Yield a series for each source whose value is known."""
    for source in sources:
        value = gauge.read(source)
        if value is not None:
            yield "", labels(source), value


def family_lines(family: Family, series: Iterable[MetricSeries]) -> Iterator[str]:
    """Yield the lines of a family and its series (Prometheus text format 0.0.4)."""
    yield f"# HELP {PREFIX}{family.name} {family.help}"
    yield f"# TYPE {PREFIX}{family.name} {family.kind}"
    for suffix, values, value in series:
        names = (*family.labels, "le") if suffix == "_bucket" else family.labels
        labels = ",".join(f'{name}="{_escape(text)}"' for name, text in zip(names, values, strict=bool(values)))
        yield f"{PREFIX}{family.name}{suffix}{'{' + labels + '}' if values else ''} {_number(value)}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
