# SPDX-License-Identifier: Apache-2.0
"""Reads values of metadata that have a grammar of their own: selectors of series, and URLs."""

from keda_gpu_scaler.core.selectors import SelectorError, SeriesSelector, parse_series
from keda_gpu_scaler.core.trigger.metadata import MetadataReader
from keda_gpu_scaler.core.urls import UrlError, parse_url


def read_series(read: MetadataReader, key: str) -> SeriesSelector | None:
    """Read a selector of series; None where the key is not given, or where its value is a problem."""
    if key not in read.given:
        return None
    try:
        return parse_series(read.given[key])
    except SelectorError as error:
        read.invalid(key, str(error))
        return None


def read_url(read: MetadataReader, key: str | None) -> str:
    """Read a URL; empty where the key is not given, or where its value is a problem."""
    if key is None or key not in read.given:
        return ""
    try:
        return str(parse_url(read.given[key]))
    except UrlError as error:
        read.invalid(key, str(error))
        return ""
