# SPDX-License-Identifier: Apache-2.0
"""The contract of the sources of a node's allocations."""

import pytest

from keda_gpu_scaler.core.interfaces import Allocations
from keda_gpu_scaler.core.types import Allocation

NOW = 1000.0
HELD = (
    Allocation("ai", "llama-0", "server", "nvidia.com/gpu", "GPU-0000"),
    Allocation("ai", "llama-1", "server", "nvidia.com/gpu", "GPU-0001"),
)


class AllocationsContract:
    """Subclass it as ``Test…`` with ``allocations`` that received HELD, and ``unavailable`` that received nothing."""

    @pytest.fixture
    def allocations(self) -> Allocations:
        raise NotImplementedError("a subclass provides it")

    @pytest.fixture
    def unavailable(self) -> Allocations:
        raise NotImplementedError("a subclass provides it")

    def test_the_allocations_are_sorted(self, allocations: Allocations) -> None:
        assert allocations.held(NOW) == HELD

    def test_unchanged_allocations_are_the_same_object(self, allocations: Allocations) -> None:
        assert allocations.held(NOW) is allocations.held(NOW + 1)

    def test_law_1_unavailable_allocations_are_not_an_empty_tuple(self, unavailable: Allocations) -> None:
        assert unavailable.held(NOW) is None
