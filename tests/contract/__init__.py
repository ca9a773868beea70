# SPDX-License-Identifier: Apache-2.0
"""One suite a port, run on the real adapters and on their fakes alike."""
