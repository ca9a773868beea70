# SPDX-License-Identifier: Apache-2.0
"""Who assigned a device to a pod: the table of sources is in ``sources.py``."""
