# SPDX-License-Identifier: Apache-2.0
"""What this instance answers: KEDA over gRPC, and people and Prometheus over HTTP."""
