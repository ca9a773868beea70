# SPDX-License-Identifier: Apache-2.0
"""The tests mirror ``src``; ``contract`` holds the suites that every adapter of a port must pass."""
