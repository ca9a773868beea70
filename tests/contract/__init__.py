# SPDX-License-Identifier: Apache-2.0
"""One test suite for each protocol, run on the real implementations and on the fakes."""
