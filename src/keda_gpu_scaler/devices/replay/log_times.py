# SPDX-License-Identifier: Apache-2.0
"""Reads the times of logs: ISO 8601, nvidia-smi's, the Unix epoch, ctime and times of day.

A time without a zone is read as UTC, because only differences matter. A time of day counts from midnight: where it goes
back at midnight, the replay continues with the usual gap.
"""

import re
from datetime import UTC, datetime

from keda_gpu_scaler.devices.replay.log_format import LogError

MUST_BE_TIME = "must be a time like 2025/01/31 14:02:03.123"

_EPOCH = re.compile(r"([0-9]{9,19})(\.[0-9]{1,9})?")
_EPOCH_DIGITS_OF_SECONDS = 11
# As ctime, and as date(1) with the name of a zone: "Fri Aug  4 11:44:30 2023", "Fri Aug  4 11:44:30 UTC 2023".
_CTIME = re.compile(
    r"[A-Z][a-z]{2},? ([A-Z][a-z]{2}) {1,2}([0-9]{1,2}) ([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]{1,9})? "
    r"(?:[A-Z0-9+-]{1,5} )?([0-9]{4})"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME_OF_DAY = re.compile(r"([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]{1,9})?")
_COMPACT = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})[ T]+([0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?)")
_MAX_LENGTH = 40


def seconds(text: str) -> float:
    """Return a time in seconds.

    Raises:
        LogError: it is no time.
    """
    found = seconds_or_none(text)
    if found is None:
        raise LogError(MUST_BE_TIME)
    return found


def seconds_or_none(text: str) -> float | None:
    """Return a time in seconds, None if the text is no time."""
    text = text.strip()
    if len(text) > _MAX_LENGTH or not text.isascii():
        return None
    try:
        if text[4:5] in ("/", "-"):
            return _iso(text)
        if match := _EPOCH.fullmatch(text):
            return _epoch(match[1], match[2] or "")
        if match := _CTIME.fullmatch(text):
            return _ctime(match)
        if match := _TIME_OF_DAY.fullmatch(text):
            return int(match[1]) * 3600.0 + int(match[2]) * 60.0 + float(match[3] + (match[4] or ""))
        if match := _COMPACT.fullmatch(text):
            return _iso(f"{match[1]}-{match[2]}-{match[3]} {match[4]}")
    except (ValueError, OverflowError):
        return None
    return None


def _iso(text: str) -> float:
    parsed = datetime.fromisoformat(text.replace("/", "-"))
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _ctime(match: re.Match[str]) -> float:
    month, day, hour, minute, second, fraction, year = match.groups()
    whole = datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    return whole.timestamp() + float(fraction or 0)


def _epoch(digits: str, fraction: str) -> float:
    """Return seconds of the epoch from seconds, milliseconds, microseconds or nanoseconds, by the number of digits."""
    scale = next((power for power in (3, 6, 9) if len(digits) <= _EPOCH_DIGITS_OF_SECONDS + power), 9)
    if len(digits) <= _EPOCH_DIGITS_OF_SECONDS:
        return float(digits + fraction)
    return float(f"{digits[:-scale]}.{digits[-scale:]}")
