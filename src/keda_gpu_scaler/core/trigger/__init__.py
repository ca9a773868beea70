# SPDX-License-Identifier: Apache-2.0
"""A trigger: its metadata, and what its settings mean."""
