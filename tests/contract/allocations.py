# SPDX-License-Identifier: Apache-2.0
"""What must hold for whoever tells a node's allocations?"""

import pytest

from keda_gpu_scaler.core.interfaces import Allocations
from keda_gpu_scaler.core.types import Allocation

NOW = 1000.0
HELD = (
    Allocation("ai", "llama-0", "server", "nvidia.com/gpu", "GPU-0000"),
    Allocation("ai", "llama-1", "server", "nvidia.com/gpu", "GPU-0001"),
)


class AllocationsContract:
    """Subclass it as ``Test…`` and give it an ``allocations`` that was told HELD, and a ``unavailable`` one that was not."""

    @pytest.fixture
    def allocations(self) -> Allocations:
        raise NotImplementedError("a contract needs somebody to keep it")

    @pytest.fixture
    def unavailable(self) -> Allocations:
        raise NotImplementedError("a contract needs somebody to keep it")

    def test_it_tells_what_it_was_told_sorted(self, allocations: Allocations) -> None:
        assert allocations.held(NOW) == HELD

    def test_the_same_knowledge_is_the_same_object(self, allocations: Allocations) -> None:
        assert allocations.held(NOW) is allocations.held(NOW + 1)

    def test_law_1_nobody_told_is_not_nobody_holds(self, unavailable: Allocations) -> None:
        assert unavailable.held(NOW) is None
