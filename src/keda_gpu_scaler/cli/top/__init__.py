# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler top``: a live table of the fleet's devices and their holders."""
