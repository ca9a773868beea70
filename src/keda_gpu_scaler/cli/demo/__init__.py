# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler demo``: a demonstration on this machine, without a cluster."""
