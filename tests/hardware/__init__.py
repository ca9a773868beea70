# SPDX-License-Identifier: Apache-2.0
"""What only a real accelerator can show; skipped, and said so, where there is none."""
