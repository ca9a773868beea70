# SPDX-License-Identifier: Apache-2.0
"""A trigger: its metadata, and the settings that follow from it."""
