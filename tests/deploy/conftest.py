# SPDX-License-Identifier: Apache-2.0
"""Are helm and kubeconform there? `make chart` fetches them and insists; elsewhere their tests are skipped, visibly."""

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
