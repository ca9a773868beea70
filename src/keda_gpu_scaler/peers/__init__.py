# SPDX-License-Identifier: Apache-2.0
"""The fleet: what this instance shares with others, and what it hears from them."""
