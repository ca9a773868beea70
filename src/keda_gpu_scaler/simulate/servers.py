# SPDX-License-Identifier: Apache-2.0
"""Makes the engine of a pod from the model of a replica."""

from keda_gpu_scaler.simulate.engine_model import EngineModel, ServiceModel
from keda_gpu_scaler.simulate.gateway import Server
from keda_gpu_scaler.simulate.replica import Replica
from keda_gpu_scaler.simulate.requests import RequestLog
from keda_gpu_scaler.simulate.service_replica import ServiceReplica


def make_server(model: EngineModel | ServiceModel, log: RequestLog) -> Server:
    """Return a new engine that has no request yet."""
    return ServiceReplica(model, log) if isinstance(model, ServiceModel) else Replica(model, log)
