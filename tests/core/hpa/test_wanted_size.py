# SPDX-License-Identifier: Apache-2.0
"""The wanted size is the recommendation within the limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.hpa.controller import Limit
from keda_gpu_scaler.core.hpa.wanted_size import WantedSize, wanted_size


@pytest.mark.parametrize(
    ("recommended", "replicas", "active", "lowest", "highest", "expected"),
    [
        pytest.param(4, 3, True, 1, 6, WantedSize(4, Limit.NONE), id="within the limits"),
        pytest.param(9, 3, True, 1, 6, WantedSize(6, Limit.MAX), id="above the maximum"),
        pytest.param(1, 3, True, 2, 6, WantedSize(2, Limit.MIN), id="below the minimum"),
        pytest.param(0, 3, False, 0, 6, WantedSize(1, Limit.MIN), id="the HPA keeps one, and KEDA removes it"),
        pytest.param(0, 0, False, 0, 6, WantedSize(0, Limit.DISABLED), id="at zero and inactive"),
        pytest.param(0, 0, True, 0, 6, WantedSize(1, Limit.MIN), id="at zero and active"),
        pytest.param(3, 3, True, 5, 2, WantedSize(5, Limit.MIN), id="a maximum below the minimum"),
    ],
)
def test_the_limits_apply(
    recommended: int, replicas: int, active: bool, lowest: int, highest: int, expected: WantedSize
) -> None:
    assert wanted_size(recommended, replicas, active=active, min_replicas=lowest, max_replicas=highest) == expected


@given(*[st.integers(0, 50)] * 4, st.booleans())
def test_the_size_is_within_the_limits_unless_it_is_zero(
    recommended: int, replicas: int, lowest: int, highest: int, active: bool
) -> None:
    found = wanted_size(recommended, replicas, active=active, min_replicas=lowest, max_replicas=highest)
    assert found.limit is Limit.DISABLED or max(1, lowest) <= found.replicas <= max(1, lowest, highest)
