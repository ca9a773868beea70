# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the tests of ``doctor``."""

from collections.abc import Iterator

import pytest

from tests.cli.doctor.fake_cluster import FakeCluster


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster() as server:
        yield server
