# SPDX-License-Identifier: Apache-2.0
"""Tests which triggers are this scaler's."""

from typing import Any

import pytest

from keda_gpu_scaler.core.trigger.own_trigger import is_own_trigger, is_taken_for_own, recognized_triggers

OWN = "keda-gpu-scaler.keda.svc.cluster.local:6000"
RENAMED = "gpu-scaler.keda:6000"
FOREIGN = "other-scaler.tools:9090"


def trigger(address: str | None = None, kind: str = "external", **metadata: str) -> dict[str, Any]:
    return {"type": kind, "metadata": {**({"scalerAddress": address} if address else {}), **metadata}}


CASES = [
    pytest.param(trigger(OWN), (), True, False, id="the address has the name of this scaler"),
    pytest.param(trigger("prod-keda-gpu-scaler:6000"), (), True, False, id="the name is a part of the host"),
    pytest.param(trigger(f"grpc://{OWN}", "externalpush"), (), True, False, id="a wrong type and a scheme"),
    pytest.param(trigger(profile="llm"), (), True, False, id="no address, and a key of this scaler"),
    pytest.param(trigger(profileFromEnv="P"), (), True, False, id="the key is from the environment"),
    pytest.param(trigger(kind="prometheus", profile="llm"), (), False, False, id="a key in a trigger that is not ours"),
    pytest.param(trigger(serverAddress="x"), (), False, False, id="no address and no key of this scaler"),
    pytest.param(trigger(RENAMED, profile="llm"), (), False, True, id="another Service, and a key of this scaler"),
    pytest.param(trigger(RENAMED, profile="llm"), ("gpu-scaler.keda",), True, False, id="a host that is named"),
    pytest.param(trigger(RENAMED), ("gpu-scaler",), True, False, id="the first part of a host that is named"),
    pytest.param(trigger(RENAMED), ("gpu",), False, False, id="a part of a word is no host"),
    pytest.param(trigger(FOREIGN, query="up"), (), False, False, id="another Service with its own keys"),
    pytest.param({"type": "external"}, (), False, False, id="no metadata"),
    pytest.param({"type": "external", "metadata": [OWN]}, (), False, False, id="metadata that are no object"),
]


@pytest.mark.parametrize(("given", "hosts", "is_own", "is_taken"), CASES)
def test_the_address_decides_whose_a_trigger_is(
    given: dict[str, Any], hosts: tuple[str, ...], is_own: bool, is_taken: bool
) -> None:
    assert (is_own_trigger(given, hosts), is_taken_for_own(given, hosts)) == (is_own, is_taken)


@pytest.mark.parametrize(
    ("triggers", "indexes"),
    [
        pytest.param([trigger(OWN), trigger(FOREIGN, targetValue="5")], [0], id="a key at another Service is not ours"),
        pytest.param([trigger(FOREIGN), trigger(RENAMED, profile="llm")], [1], id="without our name the keys decide"),
        pytest.param([trigger(OWN), trigger(OWN, "external-push")], [0, 1], id="several of this scaler"),
        pytest.param([trigger(OWN, "externalpush")], [], id="KEDA does not call a scaler of another type"),
        pytest.param([trigger(FOREIGN), {"type": "cpu"}], [], id="none of this scaler"),
        pytest.param([], [], id="no trigger"),
    ],
)
def test_the_triggers_of_an_object(triggers: list[dict[str, Any]], indexes: list[int]) -> None:
    assert recognized_triggers(triggers) == indexes
