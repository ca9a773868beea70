# SPDX-License-Identifier: Apache-2.0
"""Runs the ``keda-gpu-scaler`` command for ``python -m keda_gpu_scaler``."""

from keda_gpu_scaler.cli import main

main()
