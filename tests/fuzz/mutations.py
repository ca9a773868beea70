# SPDX-License-Identifier: Apache-2.0
"""Changes bytes at random, the same changes for the same seed."""

import random
from collections.abc import Iterator, Sequence

_PIECES = (
    *(b"\0", b"\xff", b"\n", b"\r\n", b" ", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b",", b":", b"=", b"#", b"%"),
    *(b"NaN", b"Infinity", b"-Inf", b"null", b"true", b"[]", b"{}", b'""', b"-1", b"0", b"1e999", b"-0.0"),
    *(b"9" * 400, b"18446744073709551616", b"1e-400", b"0x1", b"\xe2\x80\xae", b"\xed\xa0\x80", b"\\ud800", b"\x1b["),
    *(b"[" * 1100, b"(" * 1100, b"a" * 5000, b"&a [*a]", b"2001-99-99", b"!!binary x"),
)
_MAX_CHANGES = 4


def mutations(seeds: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield changed copies of the seeds, each of them in turn."""
    source = random.Random(seed)  # noqa: S311 - a test
    for number in range(count):
        data = seeds[number % len(seeds)]
        for _ in range(source.randint(1, _MAX_CHANGES)):
            data = _changed(data, seeds, source)
        yield data


def _changed(data: bytes, seeds: Sequence[bytes], source: random.Random) -> bytes:
    begin, end = sorted((source.randint(0, len(data)), source.randint(0, len(data))))
    end = min(end, begin + source.choice((1, 1, 2, 8, 64, 4096)))
    match source.randrange(6):
        case 0:  # another byte
            return data[:begin] + bytes([source.randrange(256)]) + data[begin + 1 :]
        case 1:  # without a part
            return data[:begin] + data[end:]
        case 2:  # a part twice
            return data[:end] + data[begin:end] + data[end:]
        case 3:  # a piece that decoders treat in a special way
            return data[:begin] + source.choice(_PIECES) + data[begin:]
        case 4:  # the same instead of a part
            return data[:begin] + source.choice(_PIECES) + data[end:]
        case _:  # the beginning of one and the end of another
            other = source.choice(seeds)
            return data[:begin] + other[source.randint(0, len(other)) :]
