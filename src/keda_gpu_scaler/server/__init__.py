# SPDX-License-Identifier: Apache-2.0
"""Answers KEDA over gRPC, and browsers, probes and Prometheus over HTTP."""
