# SPDX-License-Identifier: Apache-2.0
"""Where readings come from: one vendor, or one stand-in for a vendor, a file."""
