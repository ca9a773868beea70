# SPDX-License-Identifier: Apache-2.0
"""``python -m keda_gpu_scaler`` is the ``keda-gpu-scaler`` command."""

from keda_gpu_scaler.cli import main

main()
