# SPDX-License-Identifier: Apache-2.0
"""Gives a parsed trigger its namespace, which decides what its scrapes may reach and receive."""

from dataclasses import replace

from keda_gpu_scaler.core.trigger.demand_params import DemandQuery
from keda_gpu_scaler.core.trigger.engine_params import EngineQuery
from keda_gpu_scaler.core.trigger.parser import Trigger


def in_namespace(trigger: Trigger, namespace: str) -> Trigger:
    """Return a trigger whose URLs may lead to what this namespace owns, and to what the operator lists."""
    engine, demand = trigger.engine, trigger.demand
    if engine is not None and engine.url:
        engine = replace(engine, namespace=namespace)
    if demand is not None:
        demand = replace(demand, namespace=namespace)
    return _with_sources(trigger, engine, demand)


def with_credentials(trigger: Trigger, namespace: str) -> Trigger:
    """Return a trigger to whose engines and source of demand the credentials for a namespace are sent.

    Args:
        trigger: a trigger that a ScaledObject of the namespace declares.
        namespace: empty where no namespace is known.
    """
    engine, demand = trigger.engine, trigger.demand
    if engine is not None:
        engine = replace(engine, credentials_namespace=namespace)
    if demand is not None:
        demand = replace(demand, credentials_namespace=namespace)
    return _with_sources(trigger, engine, demand)


def _with_sources(trigger: Trigger, engine: EngineQuery | None, demand: DemandQuery | None) -> Trigger:
    """Return a trigger with these sources; the same object where nothing changes."""
    if engine is trigger.engine and demand is trigger.demand:
        return trigger
    return replace(trigger, engine=engine, demand=demand)
