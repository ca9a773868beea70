# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes tells: the kubelet about this node's devices, the API server about workloads, nodes and peers."""
