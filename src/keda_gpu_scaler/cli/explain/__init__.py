# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler explain``: show why a ScaledObject has its size."""
