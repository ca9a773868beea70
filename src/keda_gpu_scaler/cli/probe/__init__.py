# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler probe``: ask an external scaler as KEDA does."""
