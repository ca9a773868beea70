# SPDX-License-Identifier: Apache-2.0
"""The fake driver as pytest fixtures: compiled once a session, a library and a node of its own a test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fake_nvml import Card, FakeNvml, compile_library, compiler, forget_library
from tests.reader_time import ReaderTime


@pytest.fixture(scope="session")
def compiled_nvml(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles the fake library without the symbols named, each variant once."""
    if compiler() is None:
        pytest.skip("no C compiler (cc, gcc or clang) to build the fake NVML library with")
    directory = tmp_path_factory.mktemp("compiled-nvml")
    compiled: dict[tuple[str, ...], Path] = {}

    def compile_once(*without: str) -> Path:
        if without not in compiled:
            compiled[without] = compile_library(directory, *without)
        return compiled[without]

    return compile_once


@pytest.fixture
def make_fake_nvml(
    compiled_nvml: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader_time: ReaderTime
) -> Iterator[Callable[..., FakeNvml]]:
    """Makes the test's fake driver, without the symbols named; one a test."""
    made: list[FakeNvml] = []
    forget_library()

    def make(*without: str) -> FakeNvml:
        assert not made, "one process reads through one NVML library"
        directory = tmp_path / "nvml"
        directory.mkdir()
        fake = FakeNvml(directory, compiled_nvml(*without))
        made.append(fake)
        reader_time.holders.append(fake)
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        fake.devices = [
            Card("GPU-00000000-0000-0000-0000-00000000000a", pci_bus_id="00000000:19:00.0"),
            Card("GPU-00000000-0000-0000-0000-00000000000b", pci_bus_id="00000000:3B:00.0"),
        ]
        return fake

    yield make
    forget_library()
    for fake in made:
        fake.close()


@pytest.fixture
def fake_nvml(make_fake_nvml: Callable[..., FakeNvml]) -> FakeNvml:
    """A fake driver with every symbol and two idle cards, open to this process and to what it starts."""
    return make_fake_nvml()
