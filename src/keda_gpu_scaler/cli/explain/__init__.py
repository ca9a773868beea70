# SPDX-License-Identifier: Apache-2.0
"""The command ``explain``: shows why a ScaledObject has its size."""
