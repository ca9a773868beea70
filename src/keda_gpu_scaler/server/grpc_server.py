# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: its limits, its keepalive, and the services beside KEDA's.

Law: one connection cannot use up the calls of all, and a connection without use is closed.

The options are those of gRPC's core (include/grpc/impl/channel_arg_names.h). grpc-go lets a client ping every 10 s
(keepalive.ClientParameters) and its own server closes the connection of one that pings too often
(keepalive.EnforcementPolicy), as gRPC's core does with "too_many_pings".
"""

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from keda_gpu_scaler.core.interfaces import MAX_STREAMS
from keda_gpu_scaler.file_descriptors import max_grpc_connections
from keda_gpu_scaler.server.call_guard import CallGuard
from keda_gpu_scaler.server.lazy_service import LazyService, Registrar
from keda_gpu_scaler.server.stream_limit import StreamLimit
from keda_gpu_scaler.server.undecodable_log import UndecodableLog

EXTERNAL_SCALER = "externalscaler.ExternalScaler"
EVALUATIONS = "keda_gpu_scaler.evaluation.v1.Evaluations"
FLEET = "keda_gpu_scaler.fleet.v1.Fleet"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"

MAX_HEALTH_STREAMS_PER_CONNECTION, MAX_HEALTH_STREAMS = 4, 64
"""A client follows the health of a few services. KEDA and the kubelet follow none."""
MAX_REFLECTION_STREAMS_PER_CONNECTION, MAX_REFLECTION_STREAMS = 2, 16
"""A tool such as grpcurl opens one stream, and closes it after its question."""
MAX_FLEET_STREAMS_PER_CONNECTION = 4
"""An instance follows another one with one stream."""

# The largest request is a reference with the longest metadata that is read; it fits several times.
_MAX_MESSAGE_BYTES = 128 << 10
# More calls than can be answered at the same time, beside the streams; idle calls cost memory.
_OTHER_CALLS = 500
# Of people on the explain port. A token of an identity provider may have several kilobytes.
_MAX_EXPLAIN_CALLS, _MAX_EXPLAIN_METADATA_BYTES = 32, 32 << 10
# KEDA opens all its streams in one connection.
_MAX_CALLS_PER_CONNECTION = MAX_STREAMS + 100
# A client that vanishes without closing its connection is noticed, and its streams are closed.
_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 60_000, 20_000
# A client may ping every 10 s, with and without calls; half of it, because the network changes the interval. A client
# that pings more often loses its connection after these strikes.
_MIN_PING_INTERVAL_MS, _MAX_PING_STRIKES = 5_000, 10
# A connection without TLS or HTTP/2 handshake, and one without a call; a client connects again by itself.
_HANDSHAKE_TIMEOUT_MS, _IDLE_CONNECTION_MS = 10_000, 15 * 60_000


def make_grpc_server(max_followers: int) -> grpc.aio.Server:
    """Return a server without services.

    Args:
        max_followers: the number of instances that may follow this one.
    """
    return grpc.aio.server(
        options=(
            ("grpc.max_allowed_incoming_connections", max_grpc_connections()),
            ("grpc.so_reuseport", 0),  # otherwise a second instance would share the port and half of the calls
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_concurrent_streams", _MAX_CALLS_PER_CONNECTION),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
            ("grpc.http2.max_ping_strikes", _MAX_PING_STRIKES),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_TIMEOUT_MS),
            ("grpc.max_connection_idle_ms", _IDLE_CONNECTION_MS),
        ),
        maximum_concurrent_rpcs=MAX_STREAMS + max_followers + _OTHER_CALLS,
    )


def make_explain_server() -> grpc.aio.Server:
    """Return a server without services for the port of people, who are few."""
    return grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_concurrent_streams", _MAX_EXPLAIN_CALLS),
            ("grpc.max_metadata_size", _MAX_EXPLAIN_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", 2 * _MAX_EXPLAIN_METADATA_BYTES),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_TIMEOUT_MS),
            ("grpc.max_connection_idle_ms", _IDLE_CONNECTION_MS),
        ),
        maximum_concurrent_rpcs=_MAX_EXPLAIN_CALLS,
    )


def health_service(servicer: health_pb2_grpc.HealthServicer, log: UndecodableLog) -> LazyService:
    """Return the health service with the limits of its streams."""

    def add(registrar: Registrar) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, registrar)

    limit = StreamLimit(MAX_HEALTH_STREAMS_PER_CONNECTION, MAX_HEALTH_STREAMS)
    return LazyService(health.SERVICE_NAME, add, CallGuard(log, limit).guarded)


def reflection_service(log: UndecodableLog) -> LazyService:
    """Return the reflection service, which describes every service to clients like grpcurl."""
    limit = StreamLimit(MAX_REFLECTION_STREAMS_PER_CONNECTION, MAX_REFLECTION_STREAMS)
    return LazyService(REFLECTION, _add_reflection, CallGuard(log, limit).guarded)


def _add_reflection(registrar: Registrar) -> None:
    from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

    # These modules register their descriptions with protobuf, where the reflection service looks them up.
    from keda_gpu_scaler.wire import evaluation_pb2, externalscaler_pb2  # noqa: F401

    names = (EXTERNAL_SCALER, EVALUATIONS, FLEET, health.SERVICE_NAME, reflection.SERVICE_NAME)
    # Not enable_server_reflection: here it would add a service with a thread for each open stream.
    servicer = reflection.aio.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, registrar)
