# SPDX-License-Identifier: Apache-2.0
"""The Horizontal Pod Autoscaler's arithmetic, and its inverse."""
