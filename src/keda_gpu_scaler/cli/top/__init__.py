# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler top``: show every device of the fleet."""
