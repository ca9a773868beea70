# SPDX-License-Identifier: Apache-2.0
"""The command ``probe``: calls an external scaler as KEDA does."""
