# SPDX-License-Identifier: Apache-2.0
"""The trigger parameters about demand, as a query to its source.

Law: a source that serves several workloads is asked for one of them, so that no workload is kept awake by another.
"""

from dataclasses import dataclass, replace

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.state.scrape import Endpoint
from keda_gpu_scaler.core.trigger.demand_presets import DEMANDS, DemandPreset
from keda_gpu_scaler.core.trigger.metadata import MetadataReader
from keda_gpu_scaler.core.trigger.metadata_values import read_series, read_url

DEFAULT_DEMAND_HOLD_SECONDS = 60.0
MAX_DEMAND_HOLD_SECONDS = 300.0
"""The scraper keeps this much history. For a longer time, use KEDA's cooldownPeriod."""
_KEYS = ("demandEndpoint", "demand", "demandMetric", "demandThreshold", "demandHoldSeconds", "demandPerReplica")


@dataclass(frozen=True, slots=True)
class DemandQuery:
    """A trigger's query to a source of demand, and the effect of its demand.

    ``selectors`` are alternatives; the first that selects a series counts. ``per_replica`` is None where demand
    activates the workload and does not set its size. ``plus`` are selected series that are added to the first of the
    alternatives. ``is_always_exported`` says that a page without the series says nothing. ``namespace`` and
    ``credentials_namespace`` are those of ``Endpoint``.
    """

    url: str
    selectors: tuple[SeriesSelector, ...]
    threshold: float = 0.0
    hold_seconds: float = DEFAULT_DEMAND_HOLD_SECONDS
    per_replica: float | None = None
    plus: tuple[SeriesSelector, ...] = ()
    is_always_exported: bool = False
    namespace: str | None = None
    credentials_namespace: str | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint to scrape."""
        return Endpoint(
            url=self.url,
            every_address=True,
            namespace=self.namespace,
            credentials_namespace=self.credentials_namespace,
        )

    @property
    def every_selector(self) -> tuple[SeriesSelector, ...]:
        """Everything that is selected from the page."""
        return (*self.selectors, *self.plus)


def read_demand(read: MetadataReader) -> DemandQuery | None:
    """Read the keys about demand; None where no such key is given."""
    given_keys = [key for key in _KEYS if key in read.given]
    if not given_keys:
        return None
    if "demandEndpoint" not in read.given:
        read.problems.append(
            f"metadata.demandEndpoint: Required value: {given_keys[0]} needs the URL of the source of demand"
        )
    preset = DEMANDS.get(read.choice("demand", "", DEMANDS)) if "demand" in read.given else None
    given = read_series(read, "demandMetric")
    is_preset = preset is not None and (given is None or not given.name)
    per_replica = None
    if "demandPerReplica" in read.given:
        per_replica = read.number("demandPerReplica", 1, at_least=0.001)
    return DemandQuery(
        url=read_url(read, "demandEndpoint"),
        selectors=_selectors(read, preset, given),
        threshold=read.number("demandThreshold", 0, at_least=0),
        hold_seconds=read.number(
            "demandHoldSeconds", DEFAULT_DEMAND_HOLD_SECONDS, at_least=0, at_most=MAX_DEMAND_HOLD_SECONDS
        ),
        per_replica=per_replica,
        plus=_narrowed(preset.plus, given, preset) if preset and is_preset else (),
        is_always_exported=bool(preset and is_preset and preset.is_always_exported),
    )


def _selectors(
    read: MetadataReader, preset: DemandPreset | None, given: SeriesSelector | None
) -> tuple[SeriesSelector, ...]:
    if given is not None and given.name:
        return _in_either_case((given,), preset)
    if preset is not None:
        _check_narrowing(read, preset, given)
        return _in_either_case(_narrowed(preset.series, given, preset), preset)
    if given is not None:
        read.invalid(
            "demandMetric", "labels alone narrow a preset, and demand names no preset: begin with the series' name"
        )
    elif "demandMetric" not in read.given and "demand" not in read.given:
        read.problems.append(
            "metadata.demandMetric: Required value: name the series that reports the demand, or set demand to one "
            "of: " + ", ".join(DEMANDS)
        )
    return ()


def _check_narrowing(read: MetadataReader, preset: DemandPreset, given: SeriesSelector | None) -> None:
    """Record a problem where the source serves several workloads and none of them is selected."""
    selected = [it.key for it in given.requirements if it.value and not it.negated] if given else []
    if not preset.labels or not set(preset.labels).isdisjoint(selected):
        return
    needed = (
        f"{preset.name} counts the requests of every workload behind it; select one with the label "
        f"{' or '.join(preset.labels)}, for example {preset.narrowing.partition(': ')[2].partition('; ')[0].strip('`')}"
    )
    if given is not None:
        read.invalid("demandMetric", needed)
    elif "demandMetric" not in read.given:
        read.problems.append(f"metadata.demandMetric: Required value: demand {needed}")


def _narrowed(names: tuple[str, ...], given: SeriesSelector | None, preset: DemandPreset) -> tuple[SeriesSelector, ...]:
    if given is None:
        return tuple(SeriesSelector(name, ()) for name in names)
    requires_label = any(it.value and not it.negated for it in given.requirements)
    able = [name for name in names if not requires_label or name not in preset.unlabelled]
    return tuple(SeriesSelector(name, given.requirements) for name in able)


def _in_either_case(selectors: tuple[SeriesSelector, ...], preset: DemandPreset | None) -> tuple[SeriesSelector, ...]:
    """Add alternatives in lower case where the source writes the values of a label in lower case.

    What is excluded is excluded in lower case alone: the other case would exclude nothing.
    """
    labels = preset.lower_case_labels if preset else ()
    given = [_lowered(it, labels, negated=True) for it in selectors]
    return tuple(dict.fromkeys(one for it in given for one in (it, _lowered(it, labels))))


def _lowered(selector: SeriesSelector, labels: tuple[str, ...], *, negated: bool = False) -> SeriesSelector:
    """Return the selector with the values that are required, or excluded, of these labels in lower case."""
    requirements = (
        replace(it, value=it.value.lower()) if it.key in labels and it.value and it.negated is negated else it
        for it in selector.requirements
    )
    return replace(selector, requirements=tuple(requirements))
