# SPDX-License-Identifier: Apache-2.0
"""Is somebody of ours at this address? Its health, its snapshot, its pages.

The law of this module: every call has a deadline, and what does not answer is a sentence and no exception.
"""

import asyncio
import http.client
from collections.abc import Callable, Mapping
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
from keda_gpu_scaler.wire.snapshot_codec import MAX_LENGTH, CodecError, decode
from keda_gpu_scaler.wire.tls import ClientTls, Pem, TlsError, own_pair

PATIENCE_SECONDS = 4.0
"""For an answer that takes milliseconds, or two seconds of an instance that has nothing new."""
AT_ONCE = 50

_CHECK = "/grpc.health.v1.Health/Check"
_SERVICE = pb.DESCRIPTOR.services_by_name["ExternalScaler"].full_name
_MAX_PAGE_BYTES = 1 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_LENGTH + 4096),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


class Health(StrEnum):
    """What an instance says of itself."""

    SERVING = "serving"
    NOT_READY = "not ready"


@dataclass(frozen=True, slots=True)
class Peer:
    """What an instance told, or why it told nothing.

    ``ahead_seconds`` is how far its wall clock is ahead of ours, None where it tells no snapshot.
    """

    address: str
    snapshot: Snapshot | None = None
    age_seconds: float = 0.0
    ahead_seconds: float | None = None
    is_deviceless: bool = False
    silence: str = ""
    was_reached: bool = True


def trusting(config: Config) -> ClientTls | None:
    """Tell how an instance knows the others, by the flags of ``serve``; None where they speak in the clear."""
    pair, ca = own_pair(config.tls_cert, config.tls_key), config.tls_ca or config.tls_client_ca
    if pair is None or ca is None:
        return None
    return ClientTls(Pem("--tls-ca" if config.tls_ca else "--tls-client-ca", Path(ca)), *pair, config.tls_peer_name)


async def health(address: str, tls: ClientTls | None) -> Health | None:
    """Ask an instance how it is; None where nothing of ours answers."""
    try:
        async with _channel(address, tls) as channel:
            check = channel.unary_unary(_CHECK)
            request = health_pb2.HealthCheckRequest(service=_SERVICE).SerializeToString()
            answer = health_pb2.HealthCheckResponse.FromString(await check(request, timeout=PATIENCE_SECONDS))
    except (grpc.aio.AioRpcError, DecodeError, TlsError):
        return None
    return Health.SERVING if answer.status == health_pb2.HealthCheckResponse.SERVING else Health.NOT_READY


async def peers(addresses: Mapping[str, str], tls: ClientTls | None, unix_seconds: float) -> list[Peer]:
    """Ask every instance for its snapshot, so many at once.

    Args:
        addresses: every address, with its node's name.
        tls: how they are known.
        unix_seconds: our wall clock.
    """
    places = asyncio.Semaphore(AT_ONCE)
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(address: str) -> Peer:
        async with places:
            return await _peer(address, tls, lambda: unix_seconds + loop.time() - began)

    return list(await asyncio.gather(*map(one, addresses)))


async def _peer(address: str, tls: ClientTls | None, unix_clock: Callable[[], float]) -> Peer:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), _channel(address, tls) as channel:
            call = channel.unary_stream(WATCH)(fleet_pb.WatchRequest(interval_seconds=1.0).SerializeToString())
            message = await call.read()
            call.cancel()
        if message is grpc.aio.EOF:
            return Peer(address, silence="it ended the connection")
        return _told(address, fleet_pb.Update.FromString(message), unix_clock())
    except TimeoutError:
        return Peer(address, silence=f"nothing came for {PATIENCE_SECONDS:g} s", was_reached=False)
    except grpc.aio.AioRpcError as error:
        silence = f"{error.code().name}: {(error.details() or '')[:200]}"
        return Peer(address, silence=silence, was_reached=error.code() is not grpc.StatusCode.UNAVAILABLE)
    except (CodecError, DecodeError) as error:
        return Peer(address, silence=f"its answer cannot be read: {str(error)[:200]}; is it another version?")
    except TlsError as error:
        return Peer(address, silence=str(error))


def _told(address: str, update: fleet_pb.Update, now: float) -> Peer:
    if not update.snapshot:
        silence = "" if update.deviceless else update.failure[:500] or "it has no snapshot yet"
        return Peer(address, is_deviceless=update.deviceless, silence=silence)
    snapshot = decode(update.snapshot)
    return Peer(
        address,
        snapshot,
        age_seconds=update.age_seconds,
        ahead_seconds=snapshot.unix_seconds + update.age_seconds - now,
        is_deviceless=update.deviceless,
        silence=update.failure[:500],
    )


def page(host: str, port: int, path: str) -> str:
    """Return what stands on a page; nothing where none is there."""
    connection = http.client.HTTPConnection(host.strip("[]"), port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read(_MAX_PAGE_BYTES).decode("utf-8", "replace") if answer.status == http.client.OK else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def _channel(address: str, tls: ClientTls | None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, tls.credentials(), options=(*_OPTIONS, *tls.options()))
