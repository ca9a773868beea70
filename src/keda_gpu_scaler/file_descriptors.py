# SPDX-License-Identifier: Apache-2.0
"""Raises the limit of open files, and shares it among outgoing work, KEDA's connections and pages.

Law: what this process opens by itself ends where the share of KEDA's calls and of the kubelet's probes begins.
"""

import logging
import os
import resource

_OUTGOING, _GRPC, _PAGES = 3 / 4, 1 / 10, 1 / 32
"""The shares of the limit. Two servers have pages, and each accepts as many connections again before it drops one.

The rest is for files that are open for a moment.
"""
_MIN_GRPC, _MIN_PAGES = 8, 4
_UNLIMITED = 1 << 30

_log = logging.getLogger(__name__)


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard limit. A refusal is harmless: the limit stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        _log.debug("the limit of open files stays at %d: %s", soft, error)
    else:
        _log.debug("the limit of open files is raised from %d to %d", soft, hard)


def limit() -> int:
    """Return the soft limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def shortage() -> str:
    """Return why no further connection may be opened from here, empty where it may.

    The operating system gives out the lowest free number, so the number of a new descriptor shows how many are in use.
    """
    allowed = limit()
    try:
        number = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        number = allowed
    else:
        os.close(number)
    if number < allowed * _OUTGOING:
        return ""
    return (
        f"three quarters of the limit of {allowed} open files are in use, and the rest is kept for KEDA and probes: "
        "raise the limit (ulimit -n)"
    )


def max_grpc_connections() -> int:
    """Return how many connections the gRPC server may hold."""
    return max(_MIN_GRPC, int(limit() * _GRPC))


def max_page_connections() -> int:
    """Return how many connections each server of pages may hold."""
    return max(_MIN_PAGES, int(limit() * _PAGES))
