# SPDX-License-Identifier: Apache-2.0
"""Writes the recording of the demonstration: ten minutes of the synthetic load, from second 0."""

from pathlib import Path

from keda_gpu_scaler.core.types import Snapshot
from keda_gpu_scaler.devices.synthetic import SyntheticBackend
from keda_gpu_scaler.wire.recording import RecordingWriter

FILE = Path(__file__).resolve().parent.parent / "src" / "keda_gpu_scaler" / "cli" / "demo" / "demo-synthetic.jsonl.gz"
SECONDS = 600
UNIX_SECONDS = 1_767_225_600.0  # 2026-01-01T00:00:00Z: equal readings give equal bytes


def main() -> None:
    """Record one snapshot a second, without waiting for the seconds to pass."""
    backend = SyntheticBackend()
    with RecordingWriter(FILE, backend.source, overwrite=True) as recording:
        for second in range(SECONDS):
            recording.write(
                Snapshot(
                    node="demo",
                    sequence=second + 1,
                    at_seconds=float(second),
                    unix_seconds=UNIX_SECONDS + second,
                    source=backend.source,
                    samples=backend.read(float(second)),
                )
            )


if __name__ == "__main__":
    main()
