# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler validate``: check ScaledObjects in files."""
