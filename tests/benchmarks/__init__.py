# SPDX-License-Identifier: Apache-2.0
"""Tests of the parts of the benchmarks that a measurement depends on."""
