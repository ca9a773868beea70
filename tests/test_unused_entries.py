# SPDX-License-Identifier: Apache-2.0
"""Tests that an instance keeps nothing of pods, addresses and questions that are gone."""

import gc
import ipaddress
from collections.abc import Callable

import pytest

from keda_gpu_scaler.core.assignment.device_index import DeviceIndex
from keda_gpu_scaler.core.assignment.source import NodeView
from keda_gpu_scaler.core.assignment.sources import by_source
from keda_gpu_scaler.core.trigger.parser import Trigger
from keda_gpu_scaler.core.types import Allocation, OwnerReference
from keda_gpu_scaler.gc_policy import FULL_COLLECTION_SECONDS, GcPolicy
from keda_gpu_scaler.kube import parse
from keda_gpu_scaler.scrape.address_policy import AddressPolicy
from keda_gpu_scaler.server.request_resolver import RequestResolver

ROUNDS, AT_ONCE = 5, 10
POLICY = AddressPolicy()


def assign_devices(number: int) -> None:
    allocation = Allocation("ai", f"llama-{number}", "server", "nvidia.com/gpu", f"GPU-{number}")
    by_source(NodeView("gpu-1", DeviceIndex(())), [allocation])


def check_address(number: int) -> None:
    POLICY.check_pod(f"10.20.{number // 250}.{number % 250}", 8000)


def own_pod(number: int) -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"llama-{number}", "controller": True}
    parse.owner({"metadata": {"ownerReferences": [owner]}})


def ask(number: int) -> None:
    RequestResolver(has_cluster=False).resolve({"targetValue": str(number + 1)}, "ai", "llama", 0.0)


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        pytest.param(assign_devices, Allocation, id="pods that hold devices"),
        pytest.param(check_address, ipaddress.IPv4Address, id="addresses of pods"),
        pytest.param(own_pod, OwnerReference, id="owners of pods"),
        pytest.param(ask, Trigger, id="triggers that are asked for"),
    ],
)
def test_what_is_replaced_for_hours_is_as_much_as_what_was_used_last(use: Callable[[int], None], kind: type) -> None:
    policy = GcPolicy(0.0)
    before = count(kind)
    for number in range(1, ROUNDS + 1):
        for position in range(AT_ONCE):
            use(number * AT_ONCE + position)
        policy.sweep(number * FULL_COLLECTION_SECONDS)
    assert count(kind) - before <= 2 * AT_ONCE


def count(kind: type) -> int:
    gc.collect()
    return sum(type(it) is kind for it in gc.get_objects())
