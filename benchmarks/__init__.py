# SPDX-License-Identifier: Apache-2.0
"""What does it cost, and how fast is it? The scripts behind every number in the documentation."""
