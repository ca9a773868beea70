# SPDX-License-Identifier: Apache-2.0
"""Sources of traffic: request logs, rates, named shapes, recordings of engines, Prometheus."""
