# SPDX-License-Identifier: Apache-2.0
"""Calls instances of the scaler at an address: their health, their snapshot, their HTTP pages.

Law: every call has a deadline. An instance that does not answer is a sentence in the result, not an exception.
"""

import asyncio
import http.client
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from keda_gpu_scaler.config import Config
from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.peers.stream import WATCH
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import fleet_pb2 as fleet_pb
from keda_gpu_scaler.wire.rpc_failure import rpc_failure
from keda_gpu_scaler.wire.snapshot_codec import MAX_LENGTH, CodecError, decode
from keda_gpu_scaler.wire.tls import ClientTls, Pem, TlsError, own_pair

TIMEOUT_SECONDS = 4.0
"""An instance answers in milliseconds, or within two seconds where it has no new snapshot."""
MAX_CONCURRENT_CALLS = 50

_CHECK_METHOD = "/grpc.health.v1.Health/Check"
_SERVICE = pb.DESCRIPTOR.services_by_name["ExternalScaler"].full_name
_MAX_PAGE_BYTES = 1 << 20
_MAX_DETAILS_LENGTH, _MAX_FAILURE_LENGTH = 200, 500
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_LENGTH + 4096),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


class Health(StrEnum):
    """The health of an instance."""

    SERVING = "serving"
    NOT_READY = "not ready"


@dataclass(frozen=True, slots=True)
class AgentReply:
    """The snapshot of an agent, or the reason why it sent none.

    ``ahead_seconds`` is how far its wall clock is ahead of this machine's, None without a snapshot. ``failure`` is
    empty where the agent works. ``was_reached`` is False where the connection did not work.
    """

    address: str
    snapshot: Snapshot | None = None
    age_seconds: float = 0.0
    ahead_seconds: float | None = None
    is_deviceless: bool = False
    failure: str = ""
    was_reached: bool = True


def tls_between_instances(config: Config) -> ClientTls | None:
    """Return the TLS that instances with these flags of ``serve`` use to call each other; None without TLS."""
    pair, ca = own_pair(config.tls_cert, config.tls_key), config.tls_ca or config.tls_client_ca
    if pair is None or ca is None:
        return None
    return ClientTls(Pem("--tls-ca" if config.tls_ca else "--tls-client-ca", Path(ca)), *pair, config.tls_peer_name)


async def health(address: str, tls: ClientTls | None) -> Health | None:
    """Return the health of the instance at an address; None where no instance answers."""
    try:
        async with _channel(address, tls) as channel:
            check = channel.unary_unary(_CHECK_METHOD)
            request = health_pb2.HealthCheckRequest(service=_SERVICE).SerializeToString()
            response = health_pb2.HealthCheckResponse.FromString(await check(request, timeout=TIMEOUT_SECONDS))
    except (grpc.aio.AioRpcError, DecodeError, TlsError):
        return None
    return Health.SERVING if response.status == health_pb2.HealthCheckResponse.SERVING else Health.NOT_READY


async def agent_replies(addresses: Iterable[str], tls: ClientTls | None, unix_seconds: float) -> list[AgentReply]:
    """Get the snapshot of every agent, with at most ``MAX_CONCURRENT_CALLS`` calls at a time.

    Args:
        addresses: of the agents.
        tls: how to connect.
        unix_seconds: this machine's wall clock.
    """
    places = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def reply(address: str) -> AgentReply:
        async with places:
            return await _agent_reply(address, tls, lambda: unix_seconds + loop.time() - started)

    return list(await asyncio.gather(*map(reply, addresses)))


async def _agent_reply(address: str, tls: ClientTls | None, unix_clock: Callable[[], float]) -> AgentReply:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS), _channel(address, tls) as channel:
            call = channel.unary_stream(WATCH)(fleet_pb.WatchRequest(interval_seconds=1.0).SerializeToString())
            message = await call.read()
            call.cancel()
        if message is grpc.aio.EOF:
            return AgentReply(address, failure="it ended the connection")
        return _decoded(address, fleet_pb.Update.FromString(message), unix_clock())
    except TimeoutError:
        return AgentReply(address, failure=f"it sent nothing for {TIMEOUT_SECONDS:g} s", was_reached=False)
    except grpc.aio.AioRpcError as error:
        failure = rpc_failure(error.code().name, error.details() or "")
        return AgentReply(address, failure=failure, was_reached=error.code() is not grpc.StatusCode.UNAVAILABLE)
    except (CodecError, DecodeError) as error:
        reason = str(error)[:_MAX_DETAILS_LENGTH]
        return AgentReply(address, failure=f"its answer cannot be read: {reason}; is it another version?")
    except TlsError as error:
        return AgentReply(address, failure=str(error))


def _decoded(address: str, update: fleet_pb.Update, unix_seconds: float) -> AgentReply:
    failure = update.failure[:_MAX_FAILURE_LENGTH]
    if not update.snapshot:
        failure = "" if update.deviceless else failure or "it has no snapshot yet"
        return AgentReply(address, is_deviceless=update.deviceless, failure=failure)
    snapshot = decode(update.snapshot)
    return AgentReply(
        address,
        snapshot,
        age_seconds=update.age_seconds,
        ahead_seconds=snapshot.unix_seconds + update.age_seconds - unix_seconds,
        is_deviceless=update.deviceless,
        failure=failure,
    )


def http_page(host: str, port: int, path: str) -> str:
    """Return the text of an HTTP page, empty where there is none."""
    connection = http.client.HTTPConnection(host.strip("[]"), port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != http.client.OK:
            return ""
        return response.read(_MAX_PAGE_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def _channel(address: str, tls: ClientTls | None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, tls.credentials(), options=(*_OPTIONS, *tls.options()))
