# SPDX-License-Identifier: Apache-2.0
"""The samples of the engines in a recording of ``record --engines``."""

import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from keda_gpu_scaler.core.selectors import SeriesSelector
from keda_gpu_scaler.core.types import EngineSample
from keda_gpu_scaler.engines.scrape_parser import ScrapeParseError, parse_page
from keda_gpu_scaler.simulate.engine_model import SimulationError
from keda_gpu_scaler.wire.engine_recording import RecordedPage, decode_record, is_record
from keda_gpu_scaler.wire.json_fields import CodecError
from keda_gpu_scaler.wire.recording import looks_like_header

_GZIP = b"\x1f\x8b"
_CACHED_PROMPT_TOKENS = SeriesSelector("vllm:prefix_cache_hits_total")
"""What vLLM counts of the prompt tokens that its prefix cache held (vllm/v1/metrics/loggers.py)."""
_SELECTED = (_CACHED_PROMPT_TOKENS,)


@dataclass(frozen=True, slots=True)
class EngineHistory:
    """The samples of each engine by its place, in the order of time; ``begin`` and ``end`` are in seconds."""

    samples: Mapping[str, Sequence[EngineSample]]
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """The length of the recording."""
        return self.end - self.begin

    def intervals(self) -> Iterator[tuple[EngineSample, EngineSample]]:
        """Yield each two neighbouring samples of an engine between which no counter fell."""
        for samples in self.samples.values():
            for earlier, later in pairwise(samples):
                if not _was_restarted(earlier, later):
                    yield earlier, later


def is_recording(path: Path) -> bool:
    """Whether a file begins like a recording."""
    try:
        with path.open("rb") as file:
            opened = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file
            return looks_like_header(opened.readline(200).decode("utf-8", "replace"))
    except OSError:
        return False


def read_engine_history(path: Path) -> EngineHistory:
    """Read the engines of a recording.

    Raises:
        SimulationError: the file cannot be read, or it has no page of an engine.
    """
    samples: dict[str, list[EngineSample]] = {}
    try:
        for number, page in _pages(path):
            try:
                sample = parse_page(
                    page.text.encode(), page.content_type, at_seconds=page.at_seconds, selectors=_SELECTED
                )
            except ScrapeParseError as error:
                raise SimulationError(f"{path}, line {number}: {error}") from error
            place = f"{page.place.namespace}/{page.place.pod}:{page.place.port}{page.place.path}"
            samples.setdefault(place, []).append(sample)
    except (OSError, UnicodeDecodeError, EOFError, CodecError) as error:
        raise SimulationError(f"cannot read {path}: {error}") from error
    for of_place in samples.values():
        of_place.sort(key=lambda sample: sample.at_seconds)
    times = [sample.at_seconds for of_place in samples.values() for sample in of_place if sample.engine]
    if not times:
        raise SimulationError(
            f"{path} has no page of an engine: record one with `keda-gpu-scaler record --engines NAMESPACE/NAME`"
        )
    return EngineHistory(samples, min(times), max(times))


def _pages(path: Path) -> Iterator[tuple[int, RecordedPage]]:
    with path.open("rb") as file:
        is_compressed = file.read(2) == _GZIP
    with gzip.open(path, "rt", encoding="utf-8") if is_compressed else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if is_record(line):
                record = decode_record(line)
                if isinstance(record, RecordedPage) and record.text:
                    yield number, record


def _was_restarted(earlier: EngineSample, later: EngineSample) -> bool:
    counters = ("requests_total", "tokens_total", "prompt_tokens_total", "token_times_total")
    pairs = [(getattr(earlier, name), getattr(later, name)) for name in counters]
    return any(before is not None and after is not None and after < before for before, after in pairs)


def cached_prompt_tokens(sample: EngineSample) -> float | None:
    """Return how many prompt tokens the prefix cache held since the engine started; None where it is not known."""
    series = sample.selected.get(_CACHED_PROMPT_TOKENS.text)
    return None if series is None or series.is_absent else series.value
