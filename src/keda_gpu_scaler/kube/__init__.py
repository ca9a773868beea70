# SPDX-License-Identifier: Apache-2.0
"""Clients of the kubelet, for this node's devices, and of the API server, for everything else."""
