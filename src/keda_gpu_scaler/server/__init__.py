# SPDX-License-Identifier: Apache-2.0
"""The servers of this instance: gRPC for KEDA, HTTP for probes, Prometheus and browsers."""
