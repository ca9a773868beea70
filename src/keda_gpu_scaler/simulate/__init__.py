# SPDX-License-Identifier: Apache-2.0
"""Simulates a workload under recorded or synthetic traffic, scaled by the product's own evaluation and the HPA."""
