# SPDX-License-Identifier: Apache-2.0
"""Checks the decoders of snapshots, of peers' updates, and of recordings and logs that replay plays."""

import math
import tempfile
from pathlib import Path

from google.protobuf.message import DecodeError

from keda_gpu_scaler.core.interfaces import BackendError
from keda_gpu_scaler.core.types import Sample, Snapshot
from keda_gpu_scaler.devices.amd import gpu_metrics
from keda_gpu_scaler.devices.replay.backend import ReplayBackend
from keda_gpu_scaler.devices.sysfs import UnreadableError
from keda_gpu_scaler.peers.limits import MAX_DEVICES, PeerError
from keda_gpu_scaler.peers.stream import PeerStream
from keda_gpu_scaler.wire import fleet_pb2
from keda_gpu_scaler.wire.engine_recording import decode_record, encode_record
from keda_gpu_scaler.wire.recording import decode_header, encode_header
from keda_gpu_scaler.wire.snapshot_codec import CodecError, apply_change, decode, encode, encode_change
from tests.fuzz.target import PARTS, check_message

_SCRATCH = tempfile.TemporaryDirectory(prefix="fuzz-recordings-")
_PLAYED_SECONDS = (0.0, 0.5, 2.0, 61.0, 1e6, 1e9)


def check_snapshot(data: bytes) -> None:
    """Check that a snapshot survives a round trip."""
    snapshot = _decoded(data)
    if snapshot is not None:
        assert decode(encode(snapshot)) == snapshot


def check_change(data: bytes) -> None:
    """Check that a change is applied or refused, and that the result survives a round trip of its own."""
    first, _, second = data.partition(PARTS)
    before = _decoded(first)
    if before is None:
        return
    try:
        after = apply_change(before, second)
    except CodecError as error:
        check_message(error)
        return
    change = encode_change(before, after)
    assert change is not None
    assert apply_change(before, change) == after


def check_update(data: bytes) -> None:
    """Check that the updates of a peer give small snapshots that are dated, or an error of this peer."""
    stream = PeerStream("127.0.0.1:1", 1.0, 10.0)
    try:
        for part in data.split(PARTS):
            update = fleet_pb2.Update.FromString(part)
            snapshot = stream.decode(update)
            if snapshot is not None:
                assert len(snapshot.samples) <= MAX_DEVICES
                assert math.isfinite(stream.taken_at(snapshot, update.age_seconds, 1000.0))
    except (CodecError, PeerError) as error:
        check_message(error)
    except DecodeError:
        pass


def check_record(data: bytes) -> None:
    """Check that a header and the record of an engine survive a round trip."""
    text = data.decode("utf-8", "replace")
    try:
        record = decode_record(text)
    except CodecError as error:
        check_message(error)
    else:
        assert decode_record(encode_record(record)) == record
    try:
        header = decode_header(text)
    except CodecError as error:
        check_message(error)
    else:
        assert decode_header(encode_header(header)) == header


def check_replay(data: bytes) -> None:
    """Check that a file is refused, or plays for ever with values that devices can have."""
    path = Path(_SCRATCH.name) / "recording"
    path.write_bytes(data)
    try:
        backend = ReplayBackend(path)
    except BackendError as error:
        check_message(error)
        return
    for at_seconds in _PLAYED_SECONDS:
        _check_samples(backend.source, backend.read(at_seconds))


def check_gpu_metrics(data: bytes) -> None:
    """Check that a binary table of amdgpu gives possible readings or is unreadable."""
    try:
        table = gpu_metrics.parse(data)
    except UnreadableError as error:
        check_message(error)
    else:
        assert all(0 <= one <= 1 for one in (table.gfx_ratio, table.memory_ratio, *table.partitions) if one is not None)
    try:
        assert 0 <= gpu_metrics.parse_partition(data) <= 1
    except UnreadableError as error:
        check_message(error)


def _decoded(data: bytes) -> Snapshot | None:
    try:
        return decode(data)
    except CodecError as error:
        check_message(error)
        return None


def _check_samples(source: str, samples: tuple[Sample, ...]) -> None:
    """The encoder refuses a value that no device can have."""
    encode(Snapshot("node", 0, 0.0, 0.0, source, samples))
