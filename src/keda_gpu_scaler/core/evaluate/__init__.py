# SPDX-License-Identifier: Apache-2.0
"""From what is known to one number and an activity."""
