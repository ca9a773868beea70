# SPDX-License-Identifier: Apache-2.0
"""Skips the chart's tests where helm and kubeconform are missing; ``make check`` requires them."""

import os

import pytest
from scripts import tools

from tests.deploy.rendering import RENDERINGS

VARIABLE = "KEDA_GPU_SCALER_TEST_TOOLS"


@pytest.fixture(scope="session")
def chart_tools(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Helm, kubeconform and Kubernetes' schemas, at the pinned versions."""
    base = tmp_path_factory.getbasetemp()
    # Each of several processes has a folder of its own in that of the session.
    RENDERINGS.folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "renderings"
    if not tools.is_installed():
        lack = "helm, kubeconform and their schemas are not in .tools at the pinned versions: `make chart` fetches them"
        if os.environ.get(VARIABLE) == "required":
            pytest.fail(lack)
        pytest.skip(lack)
