# SPDX-License-Identifier: Apache-2.0
"""Who assigned a device to a pod: one table of sources, ``sources.SOURCES``, each in a file of its own."""
