# SPDX-License-Identifier: Apache-2.0
"""What travels: generated protobuf stubs, and the one codec of a snapshot."""
