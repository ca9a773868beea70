# SPDX-License-Identifier: Apache-2.0
"""The fixtures of all tests, the profile of Hypothesis, and the summary of skipped tests."""

import gc
from collections import Counter
from collections.abc import Generator

import pytest
from hypothesis import settings

import keda_gpu_scaler.cli  # noqa: F401 - the program's entry says how the engines are loaded
from tests.examples_drawn import DEFAULT, examples

pytest.register_assert_rewrite(
    *(f"tests.contract.{name}" for name in ("allocations", "backends", "engines", "hangs")),
)
pytest.register_assert_rewrite(
    *(f"tests.fuzz.{name}" for name in ("target", "pages", "recordings", "messages", "kubernetes", "settings"))
)
pytest_plugins = ["tests.process_state", "tests.reader_time", "tests.fake_nvml.fixtures"]

# A property is about values, not about how fast a busy machine makes them.
settings.register_profile("house", deadline=None, max_examples=examples(DEFAULT))
settings.load_profile("house")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no cycles meanwhile, and exempt the collected tests: there are thousands, and they stay until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print why tests were skipped: one line for each reason."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"skipped {count}: {reason}")
