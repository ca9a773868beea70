# SPDX-License-Identifier: Apache-2.0
"""Defines what a rule of ``validate`` reports about an object."""

from dataclasses import dataclass

from keda_gpu_scaler.cli.validate.documents import YamlPath
from keda_gpu_scaler.cli.validate.findings import Severity


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding, with its path below the object."""

    severity: Severity
    path: YamlPath
    message: str
