# SPDX-License-Identifier: Apache-2.0
"""The layouts of the pages of all targets, equal ones once, within limits of bytes.

Law: a page is read in the same way with and without a layout; one that does not fit costs only time. Layouts of unusual
size have a limit of their own, so that they take no room from those of usual pages.
"""

import weakref
from dataclasses import dataclass, field

from keda_gpu_scaler.engines.bound_readings import BoundMetricMap
from keda_gpu_scaler.engines.page_layout import PageLayout

USUAL_LAYOUT_BYTES = 1 << 16
"""A larger layout is of unusual size. That of a vLLM page of 130 KiB has half of this size."""
MAX_USUAL_BYTES = 1 << 25
"""All usual layouts together: a thousand vLLM servers with a model each. Replicas of one model share theirs."""
MAX_UNUSUAL_BYTES = 1 << 22
"""All other layouts together."""
_OTHER_BYTES = 4_096  # of what is known of a page: the readings and the sets of names


@dataclass(frozen=True, slots=True, weakref_slot=True)
class KnownPage:
    """A layout, and the series of each reading on a page that follows it, where the series of ``models`` are read."""

    layout: PageLayout
    models: frozenset[str]
    readings: BoundMetricMap = field(compare=False)


class LayoutStore:
    """Keeps what is known of pages for as long as a target uses it."""

    def __init__(self) -> None:
        self._pages: weakref.WeakKeyDictionary[KnownPage, weakref.ref[KnownPage]] = weakref.WeakKeyDictionary()
        self._sizes_bytes = {False: 0, True: 0}

    @property
    def size_bytes(self) -> int:
        """The size of all layouts that are kept."""
        return sum(self._sizes_bytes.values())

    def keep(self, page: KnownPage) -> KnownPage | None:
        """Return the page, or an equal one that is kept already; None where there is no room for it."""
        if (kept := self._pages.get(page)) is not None and (equal := kept()) is not None:
            return equal
        size_bytes = page.layout.size_bytes + _OTHER_BYTES
        is_usual = size_bytes <= USUAL_LAYOUT_BYTES
        if self._sizes_bytes[is_usual] + size_bytes > (MAX_USUAL_BYTES if is_usual else MAX_UNUSUAL_BYTES):
            return None
        self._sizes_bytes[is_usual] += size_bytes
        self._pages[page] = weakref.ref(page)
        weakref.finalize(page, self._release, is_usual, size_bytes).atexit = False
        return page

    def _release(self, is_usual: bool, size_bytes: int) -> None:
        self._sizes_bytes[is_usual] -= size_bytes
