# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler doctor``: checks of this machine and of the cluster."""
