# SPDX-License-Identifier: Apache-2.0
"""Tests which metadata keys are refused as misspelt keys of this scaler, and which pass."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.trigger.near_keys import KEDA_KEYS, MAX_COMPARED_KEYS, is_within, misspelt_keys
from keda_gpu_scaler.core.trigger.parser import PARAMETERS, TriggerError, parse_trigger

KEYS = [parameter.key for parameter in PARAMETERS]
# pkg/scaler/server.go of the original, parseMetadata, and its documentation of Triton.
ORIGINAL_KEYS = (
    "profile", "metricName", "metricType", "targetValue", "targetGpuUtilization", "targetMemoryUtilization",
    "activationThreshold", "gpuIndex", "aggregation", "pollIntervalSeconds", "vllmEndpoint", "tritonEndpoint",
)  # fmt: skip
# Keys of KEDA's other scalers and of the trigger itself, which people leave in the metadata.
FOREIGN_KEYS = (
    "serverAddress", "query", "threshold", "target", "value", "mode", "queueName", "queueLength", "activationValue",
    "targetQueueLength", "listName", "listLength", "lagThreshold", "topic", "consumerGroup", "namespace", "podSelector",
    "labelSelector", "region", "awsRegion", "host", "protocol", "start", "end", "timezone", "desiredReplicas",
    "ignoreNullValues", "useCachedMetrics", "type", "name", "authModes", "unsafeSsl", "customHeaders", "version",
    "team", "owner", "metricThreshold", "resource", "subscriptionName", "activationTarget", "valueLocation", "url",
    "longitude", "latitude", "serviceName", "servicePort", "authenticationRef", "cortexOrgID", "pollingInterval",
)  # fmt: skip
EDITS = st.sampled_from(("insert", "remove", "replace", "exchange"))
LETTERS = st.sampled_from("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def misspelt(*keys: str) -> dict[str, str]:
    return dict(misspelt_keys(dict.fromkeys(keys, "1"), KEYS))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        pytest.param("targetValu", "targetValue", id="a letter is missing"),
        pytest.param("targetValuee", "targetValue", id="a letter too many"),
        pytest.param("TargetValue", "targetValue", id="a capital letter"),
        pytest.param("metrictype", "metricType", id="no capital letter"),
        pytest.param("metric_type", "metricType", id="words with an underscore"),
        pytest.param("metric-type", "metricType", id="words with a hyphen"),
        pytest.param("activationTreshold", "activationThreshold", id="a frequent misspelling"),
        pytest.param("activaitonThreshold", "activationThreshold", id="two letters exchanged"),
        pytest.param("demandEndpont", "demandEndpoint", id="a key about demand"),
        pytest.param("gropBy", "groupBy", id="a letter of a short key"),
        pytest.param("targetValuFromEnv", "targetValueFromEnv", id="with KEDA's suffix"),
        pytest.param("targetValueFromenv", "targetValueFromEnv", id="KEDA's suffix in small letters"),
        pytest.param("profiles", "profile", id="a plural"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_key_that_is_meant(key: str, meant: str) -> None:
    with pytest.raises(TriggerError) as caught:
        parse_trigger({key: "1"})
    assert caught.value.problems[0] == (
        f'metadata.{key}: Forbidden: it is not a key of this scaler, but almost "{meant}"; rename it, or remove it'
    )


def test_a_misspelt_key_comes_before_the_problems_that_it_causes() -> None:
    with pytest.raises(TriggerError) as caught:
        parse_trigger({"demand": "nginx", "demandEndpont": "http://gateway/metrics"})
    fields = [problem.partition(":")[0] for problem in caught.value.problems]
    assert fields == ["metadata.demandEndpont", "metadata.demandEndpoint", "metadata.demandMetric"]


def test_a_misspelt_key_is_refused_beside_the_right_one() -> None:
    assert misspelt("targetValue", "TargetValue") == {"TargetValue": "targetValue"}


def test_a_foreign_key_that_begins_a_key_of_this_scaler_is_a_hint() -> None:
    assert parse_trigger({"target": "5"}).hints == (
        'metadata: "target" is not a key of this scaler and is ignored: did you mean "targetValue"?',
    )


@pytest.mark.parametrize("key", [*KEYS, *(f"{key}FromEnv" for key in KEYS)])
def test_no_key_of_this_scaler_is_misspelt(key: str) -> None:
    assert misspelt(key) == {}


@pytest.mark.parametrize("key", ORIGINAL_KEYS)
def test_every_key_of_the_original_is_a_key_of_this_scaler(key: str) -> None:
    assert key in KEYS
    assert misspelt(*ORIGINAL_KEYS) == {}


@pytest.mark.parametrize("key", [*sorted(KEDA_KEYS), *(f"{key}FromEnv" for key in sorted(KEDA_KEYS)), *FOREIGN_KEYS])
def test_keys_of_keda_and_of_other_scalers_pass(key: str) -> None:
    assert misspelt(key) == {}


def test_no_key_of_this_scaler_is_a_misspelling_of_another() -> None:
    near = [(one, other) for one, other in itertools.permutations(KEYS, 2) if any(misspelt_keys({one: "1"}, [other]))]
    assert near == []


@given(st.sampled_from(KEYS), EDITS, LETTERS, st.integers(0, 100))
def test_one_edit_of_a_key_is_refused(key: str, edit: str, letter: str, position: int) -> None:
    at = position % len(key)
    changed = {
        "insert": key[:at] + letter + key[at:],
        "remove": key[:at] + key[at + 1 :],
        "replace": key[:at] + letter + key[at + 1 :],
        "exchange": key[:at] + key[at : at + 2][::-1] + key[at + 2 :],
    }[edit]
    assert set(misspelt(changed)) == ({changed} if changed not in KEYS else set())


def plain_distance(one: str, other: str) -> int:
    """Compute the edit distance by its definition, with exchanges of neighbours."""
    rows: list[list[int]] = [[*range(len(other) + 1)]]
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, opposite in enumerate(other, 1):
            best = min(rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (letter != opposite))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == opposite:
                best = min(best, rows[i - 2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.integers(0, 2))
def test_the_number_of_edits_is_that_of_the_definition(one: str, other: str, edits: int) -> None:
    assert is_within(one, other, edits) == (plain_distance(one, other) <= edits)


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=5), max_size=80))
def test_any_metadata_can_be_compared(metadata: dict[str, str]) -> None:
    found = dict(misspelt_keys(metadata, KEYS))
    assert found.keys() <= metadata.keys() - set(KEYS)
    assert len(found) <= MAX_COMPARED_KEYS
