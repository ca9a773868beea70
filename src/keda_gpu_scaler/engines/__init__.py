# SPDX-License-Identifier: Apache-2.0
"""Inference engines and sources of demand: what they export, and how it is fetched."""
