# SPDX-License-Identifier: Apache-2.0
"""The command ``record``: writes devices and engines to a file that ``replay:PATH`` can play."""
