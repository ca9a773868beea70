# SPDX-License-Identifier: Apache-2.0
"""The exchange of snapshots between instances: server, client, discovery and node store."""
