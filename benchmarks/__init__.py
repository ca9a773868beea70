# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: the scripts behind every measured number in the documentation."""
