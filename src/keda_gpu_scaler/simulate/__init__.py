# SPDX-License-Identifier: Apache-2.0
"""Simulates a workload under a traffic, scaled by the product's own evaluation and the HPA."""
