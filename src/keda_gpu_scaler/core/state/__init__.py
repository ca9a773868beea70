# SPDX-License-Identifier: Apache-2.0
"""What is known at one instant: the snapshots of the fleet, and the samples of engines."""
