# SPDX-License-Identifier: Apache-2.0
"""Clients of Kubernetes: of the kubelet for this node's devices, of the API server for everything else."""
