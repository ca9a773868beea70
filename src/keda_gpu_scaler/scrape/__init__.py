# SPDX-License-Identifier: Apache-2.0
"""Scrapes the metrics of engines and demand endpoints at its own intervals."""
