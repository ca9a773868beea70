# SPDX-License-Identifier: Apache-2.0
"""What every test of the devices has: reader threads that do not depend on the speed of the machine."""

import pytest

from tests.reader_time import ReaderTime


@pytest.fixture(autouse=True)
def _reader_time(reader_time: ReaderTime) -> None:
    """The files that answer, and the calls that return, are waited for, however long they take."""
