# SPDX-License-Identifier: Apache-2.0
"""``keda-gpu-scaler validate``: checks ScaledObjects and ScaledJobs in files."""
