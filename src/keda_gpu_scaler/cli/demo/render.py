# SPDX-License-Identifier: Apache-2.0
"""The lines of the demonstration's closed loop.

Law: no line is wider than 80 columns, and the text says before its first number that the load is synthetic.
"""

import click

from keda_gpu_scaler.cli.demo.schedule import TICK_SECONDS
from keda_gpu_scaler.cli.demo.workload import COOLDOWN_SECONDS, DOWN_SECONDS, MAX_REPLICAS, Step
from keda_gpu_scaler.cli.output import number
from keda_gpu_scaler.cli.probe.client import ProbeAnswer
from keda_gpu_scaler.core.hpa.controller import DOWN_STABILISATION_SECONDS, SYNC_PERIOD_SECONDS

_KEDA_SECONDS = {"polling": 30, "cooldown": 300}
"""KEDA's defaults of ``pollingInterval`` and ``cooldownPeriod``."""


def introduction(address: str, target: int) -> str:
    """Return what is real, what is synthetic, what is shorter than in a cluster, the legend and the columns' heads."""
    return "\n".join(
        (
            "DEMONSTRATION: the requests and the replicas are synthetic, none is measured.",
            f"Real are the scaler (serve on {address}, called over gRPC as by KEDA)",
            "and the HPA's rules. Two minutes show what takes longer in a cluster:",
            f"  HPA sync {TICK_SECONDS} s instead of {SYNC_PERIOD_SECONDS:g} s, "
            f"KEDA's polling {TICK_SECONDS} s instead of {_KEDA_SECONDS['polling']} s,",
            f"  scale-down window {DOWN_SECONDS:g} s instead of {DOWN_STABILISATION_SECONDS:g} s, "
            f"cooldown {COOLDOWN_SECONDS:g} s instead of {_KEDA_SECONDS['cooldown']} s",
            f"Legend: load = requests in flight; each = per replica (target {target}); █ = replica",
            "",
            click.style(f"{'time':>5}  {'phase':<6}  {'load':>4}  {'each':>5}  {'active':<6}  "
                        f"{'replicas':<8}  {'':<{MAX_REPLICAS}}  why", bold=True),
        )
    )  # fmt: skip


def row(seconds: float, phase: str, answer: ProbeAnswer, step: Step) -> str:
    """Return one tick in one line."""
    load = number(answer.value, digits=4)
    each = "-" if step.before == 0 or answer.value is None else number(answer.value / step.before, digits=3)
    active = "-" if answer.active is None else "yes" if answer.active else "no"
    change = f"{step.before} → {step.after}" if step.after != step.before else str(step.after)
    bar = "█" * step.after
    text = f"{change:<8}  {bar:<{MAX_REPLICAS}}  {step.reason}"
    colour = "cyan" if step.after != step.before else None
    return f"{seconds:>3.0f} s  {phase:<6}  {load:>4}  {each:>5}  {active:<6}  {click.style(text, fg=colour)}"


def ending() -> str:
    """Return the line after the last tick."""
    return (
        "End of the demonstration: the load was synthetic. What KEDA receives for GPUs:\n"
        "keda-gpu-scaler demo --devices. To install it:\n"
        "https://github.com/keda-gpu-scaler/keda-gpu-scaler#install"
    )
