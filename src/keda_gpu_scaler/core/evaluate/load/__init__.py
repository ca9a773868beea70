# SPDX-License-Identifier: Apache-2.0
"""The metric ``load``: the share of what one replica should carry, proportional to its work."""
