# SPDX-License-Identifier: Apache-2.0
"""Tests of the scrape manager and the HTTP client."""
