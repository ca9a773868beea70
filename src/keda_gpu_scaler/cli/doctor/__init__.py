# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler doctor``: check a node or a cluster."""
