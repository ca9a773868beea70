# SPDX-License-Identifier: Apache-2.0
"""What every test may ask for, and how Hypothesis behaves."""

import pytest
from hypothesis import settings

import keda_gpu_scaler.engines  # noqa: F401 - registers every engine, as the agent does

pytest.register_assert_rewrite("tests.contract.allocations", "tests.contract.backends", "tests.contract.engines")
pytest_plugins = ["tests.fake_nvml.fixtures"]

# A property is about values, not about how fast a busy machine makes them.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
