# SPDX-License-Identifier: Apache-2.0
"""Sources of traffic: logs of requests, rates, named shapes, recordings of engines, and a Prometheus server."""
