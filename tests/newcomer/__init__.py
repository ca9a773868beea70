# SPDX-License-Identifier: Apache-2.0
"""The commands of the documentation, typed as a newcomer types them."""
