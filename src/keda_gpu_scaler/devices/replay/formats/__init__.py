# SPDX-License-Identifier: Apache-2.0
"""The formats of logs that ``replay`` reads: one format, or the formats of one tool, a module."""
