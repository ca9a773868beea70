# SPDX-License-Identifier: Apache-2.0
"""Skips the chart's tests where helm and kubeconform are missing; ``make chart`` requires them."""

import os

import pytest
from scripts import tools

VARIABLE = "KEDA_GPU_SCALER_TEST_TOOLS"


@pytest.fixture(scope="session")
def chart_tools() -> None:
    """Helm, kubeconform and Kubernetes' schemas, at the pinned versions."""
    if not tools.is_installed():
        lack = "helm, kubeconform and their schemas are not in .tools at the pinned versions: `make chart` fetches them"
        if os.environ.get(VARIABLE) == "required":
            pytest.fail(lack)
        pytest.skip(lack)
