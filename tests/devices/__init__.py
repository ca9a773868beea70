# SPDX-License-Identifier: Apache-2.0
"""Each backend, on a stand-in for what it reads."""
