# SPDX-License-Identifier: Apache-2.0
"""Tests the closed loop of the demonstration, in virtual time."""

import re

import click
import httpx
import pytest

from keda_gpu_scaler.cli.demo import loop
from keda_gpu_scaler.cli.demo.gateway import SERIES, GatewayPage
from keda_gpu_scaler.cli.demo.render import ending, introduction
from keda_gpu_scaler.cli.demo.schedule import TICK_SECONDS, TICKS, load_at
from keda_gpu_scaler.cli.demo.workload import COOLDOWN_SECONDS, DOWN_SECONDS, ScaledWorkload
from keda_gpu_scaler.cli.pace import Timing
from keda_gpu_scaler.cli.probe.client import Call, MetricReading, ProbeAnswer

UNAVAILABLE = ProbeAnswer(is_connected=True, calls=(Call("GetMetrics", 1.0, "UNAVAILABLE", "no sample"),))


def answer(requests: float) -> ProbeAnswer:
    spec, value = MetricReading("requests", loop.TARGET, loop.TARGET), MetricReading("requests", 0, requests)
    return ProbeAnswer(is_connected=True, specs=(spec,), values=(value,), active=requests > 0)


class PageInMemory:
    """A page of the load; a scaler without delay reads it."""

    def __init__(self) -> None:
        self.requests = 0

    def set_requests(self, requests: int) -> None:
        self.requests = requests

    def wait_until_read(self, timeout_seconds: float) -> bool:
        return True

    def query(self) -> ProbeAnswer:
        return answer(self.requests)


def sizes(workload: ScaledWorkload, *answers: ProbeAnswer) -> list[int]:
    """Return the size after each answer, a tick apart."""
    return [workload.step(float(TICK_SECONDS * index), one).after for index, one in enumerate(answers)]


def test_the_schedule_fits_two_minutes_and_repeats() -> None:
    assert TICKS * TICK_SECONDS == 120
    assert [load_at(tick) for tick in range(TICKS)] == [load_at(tick + TICKS) for tick in range(TICKS)]
    names = [load_at(tick)[0] for tick in range(TICKS)]
    phases = [name for index, name in enumerate(names) if index == 0 or name != names[index - 1]]
    assert phases == ["idle", "burst", "steady", "idle", "wake"]


def test_the_workload_wakes_climbs_settles_sleeps_and_wakes_again(capsys: pytest.CaptureFixture[str]) -> None:
    page, clock = PageInMemory(), [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    status = loop.play(page.query, page, Timing(monotonic=lambda: clock[0], sleep=sleep), TICKS)
    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert len(lines) == TICKS
    assert clock[0] == (TICKS - 1) * TICK_SECONDS
    assert all(len(line) <= 80 for line in lines)
    changes = [tuple(map(int, re.findall(r"\d+", found))) for line in lines for found in re.findall(r"\d+ → \d+", line)]
    assert changes == [(0, 1), (1, 5), (5, 7), (7, 4), (4, 3), (3, 1), (1, 0), (0, 1), (1, 2)]
    assert "KEDA wakes it" in lines[3]
    assert all("within tolerance" in line for line in lines[18:24])


def test_the_introduction_says_what_is_synthetic_and_fits_a_terminal() -> None:
    lines = click.unstyle(f"{introduction('127.0.0.1:6000', loop.TARGET)}\n{ending()}").splitlines()
    assert "synthetic" in lines[0]
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.startswith("Legend: ") for line in lines) == 1


@pytest.mark.parametrize(
    ("replicas", "answers", "expected"),
    [
        pytest.param(0, (answer(0), answer(0)), [0, 0], id="asleep without requests"),
        pytest.param(0, (UNAVAILABLE,), [0], id="an unknown value does not wake"),
        pytest.param(0, (answer(1), answer(1)), [1, 1], id="one request wakes one replica"),
        pytest.param(3, (UNAVAILABLE,) * 20, [3] * 20, id="an unknown value never shrinks, nor puts to sleep"),
        pytest.param(3, (answer(32),), [3], id="within the tolerance"),
        pytest.param(3, (answer(1000),), [7], id="four more replicas at once, as the rules allow"),
    ],
)
def test_keda_and_the_hpa_decide_by_their_rules(
    replicas: int, answers: tuple[ProbeAnswer, ...], expected: list[int]
) -> None:
    assert sizes(ScaledWorkload(replicas), *answers) == expected


def test_an_idle_workload_shrinks_after_the_window_and_sleeps_after_the_cooldown() -> None:
    workload = ScaledWorkload(3)
    after = sizes(workload, answer(30), *(answer(0),) * 8)
    assert [TICK_SECONDS * after.index(1), TICK_SECONDS * after.index(0)] == [DOWN_SECONDS, COOLDOWN_SECONDS]


def test_the_gateway_says_the_load_and_waits_until_it_has_been_processed() -> None:
    with GatewayPage() as gateway:
        gateway.set_requests(7)
        assert not gateway.wait_until_read(0)
        with httpx.Client(trust_env=False) as client:
            assert client.get(gateway.url).text == f"# TYPE {SERIES} gauge\n{SERIES} 7\n"
            assert not gateway.wait_until_read(0)
            client.get(gateway.url)
        assert gateway.wait_until_read(0)
        gateway.set_requests(8)
        assert not gateway.wait_until_read(0)
