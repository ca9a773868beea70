# SPDX-License-Identifier: Apache-2.0
"""Watches the dates of the certificates that ``serve`` uses, and logs when one expires soon.

Law: the dates are those of the files, which a new connection reads. A file that cannot be read has no date: the TLS
credentials report it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum

from keda_gpu_scaler.wire.tls import Pem, TlsError
from keda_gpu_scaler.wire.x509_dates import CertificateError, expiry, validities

EXPIRES_SOON = timedelta(days=30)
"""From this time before the end on, a certificate is warned about."""
CHECK_SECONDS = 60.0
"""The files are read again after this time."""
REPEAT = timedelta(days=1)
"""A warning or an error is repeated after this time, for logs that are kept for days only."""

_log = logging.getLogger(__name__)


class _State(Enum):
    VALID = "valid"
    EXPIRES_SOON = "expires soon"
    EXPIRED = "expired"


class CertificateExpiry:
    """The end of each certificate file.

    Args:
        pems: the certificate of this instance, whose flag is ``--tls-cert``, and the certificates of authorities.
        utc: returns the time.
    """

    def __init__(self, pems: Sequence[Pem], utc: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._pems = pems
        self._utc = utc
        self._checked_at: float | None = None
        self._ends: dict[str, datetime] = {}
        self._logged: dict[str, tuple[_State, datetime]] = {}

    def check_regularly(self, now: float) -> None:
        """Check after ``CHECK_SECONDS``. ``now`` is in monotonic seconds."""
        if self._checked_at is None or now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            self.check()

    def check(self) -> None:
        """Read the files, and log each one that expires soon or has expired."""
        for pem in self._pems:
            try:
                ends = expiry(validities(pem.read()), is_authority=pem.flag != "--tls-cert")
            except (TlsError, CertificateError):
                self._ends.pop(pem.flag, None)
                continue
            self._ends[pem.flag] = ends
            self._note(pem, ends)

    def expiries(self) -> Mapping[str, float]:
        """Return the end of each file that was read, as Unix seconds, by the flag that names the file."""
        return {flag: ends.timestamp() for flag, ends in self._ends.items()}

    def _note(self, pem: Pem, ends: datetime) -> None:
        now = self._utc()
        state = _state(ends, now)
        logged, logged_at = self._logged.get(pem.flag, (_State.VALID, now))
        if state is logged and (state is _State.VALID or now - logged_at < REPEAT):
            return
        self._logged[pem.flag] = state, now
        at = f"{ends:%Y-%m-%d %H:%M} UTC"
        if state is _State.EXPIRED:
            _log.error("%s: %s expired at %s: no new connection is possible; renew it", pem.flag, pem.path, at)
        elif state is _State.EXPIRES_SOON:
            days = (ends - now).days
            _log.warning("%s: %s expires in %d days, at %s: renew it", pem.flag, pem.path, days, at)
        else:
            _log.info("%s: %s is valid until %s", pem.flag, pem.path, at)


def _state(ends: datetime, now: datetime) -> _State:
    if now >= ends:
        return _State.EXPIRED
    return _State.EXPIRES_SOON if ends - now < EXPIRES_SOON else _State.VALID
