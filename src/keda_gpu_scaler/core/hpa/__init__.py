# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the Horizontal Pod Autoscaler (HPA), and its inverse."""
