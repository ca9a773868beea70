# SPDX-License-Identifier: Apache-2.0
"""The computation, with the standard library only: no I/O, no clock, no log, no thread, no driver.

``now`` is always an argument, in monotonic seconds.
"""
