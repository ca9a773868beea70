# SPDX-License-Identifier: Apache-2.0
"""Decides how long a target is left alone after a scrape that was slow or that cost much work.

Law: a slow or costly target is asked less often, never faster. It is said once, and in the state of the target.
"""

import logging

SLOW_PAUSE_SHARE = 0.5  # of the time of the answer: a slow target is busy with at most two thirds of its time
MAX_WORK_SHARE = 0.1
"""The share of its interval that the reading of a page may take."""
MAX_PAUSE_SECONDS = 60.0

_log = logging.getLogger(__name__)


class ScrapePace:
    """The pause of one target after its last scrape.

    ``remarks`` says why the target is asked less often than its consumers need; it is empty for most targets.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._logged: set[str] = set()
        self._remarks: dict[str, str] = {}
        self.pause_seconds = 0.0

    @property
    def remarks(self) -> tuple[str, ...]:
        """The reasons for the pause, as sentences that do not change while the reason lasts."""
        return tuple(self._remarks.values())

    def record(self, *, answer_seconds: float, work_seconds: float, interval_seconds: float, is_answer: bool) -> None:
        """Process a scrape.

        Args:
            answer_seconds: the time from the request to the end of the page, or to the failure.
            work_seconds: the time for which the page was read.
            interval_seconds: the interval that the consumers need.
            is_answer: whether there was a page. A failure is logged elsewhere.
        """
        self.pause_seconds = 0.0
        interval = f"{interval_seconds:g}"
        if answer_seconds > interval_seconds:
            self.pause_seconds = answer_seconds * SLOW_PAUSE_SHARE
            why = f"asked less often: it answers after {answer_seconds:.1f} s, and its interval is {interval} s"
            if not is_answer:
                why = f"asked less often: no page in {answer_seconds:.1f} s, and its interval is {interval} s"
            self._note("slow", why, is_logged=is_answer)
        else:
            self._remarks.pop("slow", None)
        if work_seconds > interval_seconds * MAX_WORK_SHARE:
            self.pause_seconds = max(self.pause_seconds, work_seconds / MAX_WORK_SHARE)
            work = f"{1000 * work_seconds:.0f}"
            why = f"asked less often: its page takes {work} ms to read, and its interval is {interval} s"
            self._note("costly", why, is_logged=True)
        elif is_answer:
            self._remarks.pop("costly", None)
        self.pause_seconds = min(self.pause_seconds, MAX_PAUSE_SECONDS)

    def _note(self, kind: str, why: str, *, is_logged: bool) -> None:
        remark = self._remarks.setdefault(kind, why)
        if is_logged and kind not in self._logged:
            self._logged.add(kind)
            _log.warning("%s: %s", self._name, remark)
