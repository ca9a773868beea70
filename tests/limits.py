# SPDX-License-Identifier: Apache-2.0
"""The one time limit of the tests: a defect fails a test instead of blocking it for ever."""

WAIT_SECONDS = 300.0
"""Far more than any step takes on a machine whose two cores serve thirty processes. No test depends on its value."""
