# SPDX-License-Identifier: Apache-2.0
"""The device backends: one vendor, or one substitute for a vendor, a module or a package."""
