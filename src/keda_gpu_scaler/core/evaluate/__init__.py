# SPDX-License-Identifier: Apache-2.0
"""Evaluates a trigger: from snapshots and scrape results to one value and an activity."""
