# SPDX-License-Identifier: Apache-2.0
"""Tests of the table of engines: its order, and the errors of a wrong registration."""

import re
import subprocess
import sys
from itertools import permutations

import pytest

from keda_gpu_scaler.core.trigger.engines import ENGINES, Engine, EngineRegistrationError, EngineTable

FIRST, SECOND, THIRD = (
    Engine("c", "C", 1, detection_order=1),
    Engine("a", "A", 2, detection_order=2),
    Engine("b", "B", 3, detection_order=3),
)


def table(*engines: Engine) -> EngineTable:
    made = EngineTable()
    for engine in engines:
        made.register(engine)
    return made


def test_the_engines_are_tried_in_the_documented_order() -> None:
    assert list(ENGINES) == [
        "vllm",
        "sglang",
        "tgi",
        "triton",
        "trtllm-serve",
        "nim",
        "lmdeploy",
        "llama.cpp",
        "ray-serve-llm",
        "xinference",
        "sglang-diffusion",
        "tei",
        "dynamo",
        "lightllm",
        "bentoml",
        "ollama",
    ]


@pytest.mark.parametrize(
    "engines", list(permutations((FIRST, SECOND, THIRD))), ids=lambda it: "".join(one.name for one in it)
)
def test_the_order_of_registration_does_not_matter(engines: tuple[Engine, ...]) -> None:
    assert list(table(*engines).items()) == [("c", FIRST), ("a", SECOND), ("b", THIRD)]


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        pytest.param(Engine("c", "C", 9, detection_order=9), "engine c: it is registered twice", id="a name twice"),
        pytest.param(
            Engine("d", "D", 9, detection_order=2),
            "engine d: detection_order 2 belongs to a; choose another number",
            id="a detection order twice",
        ),
    ],
)
def test_an_engine_that_clashes_with_another_is_refused(engine: Engine, message: str) -> None:
    with pytest.raises(EngineRegistrationError, match=f"^{re.escape(message)}$"):
        table(FIRST, SECOND).register(engine)


def test_an_engine_cannot_be_registered_after_the_table_was_read() -> None:
    made = table(FIRST)
    assert "a" not in made
    with pytest.raises(EngineRegistrationError, match=r"^engine a: the table of engines has already been read; "):
        made.register(SECOND)


def test_an_empty_table_cannot_be_read() -> None:
    for read in (list, len, lambda made: made.get("vllm")):
        with pytest.raises(EngineRegistrationError, match=r"^no engine is registered: the table needs a function "):
            read(EngineTable())


def test_the_first_read_registers_the_engines() -> None:
    made, calls = EngineTable(), []

    def load() -> None:
        calls.append("load")
        made.register(FIRST)

    made.load_with(load)
    assert calls == []
    assert list(made) == list(made) == [FIRST.name]
    assert calls == ["load"]


def test_engines_that_cannot_be_registered_are_an_error_at_every_read() -> None:
    made = table(FIRST)

    def load() -> None:
        raise EngineRegistrationError("ENGINE is missing")

    made.load_with(load)
    for _ in range(2):
        with pytest.raises(EngineRegistrationError, match="ENGINE is missing"):
            list(made)


def test_in_the_program_parsing_a_trigger_loads_the_engines_and_importing_the_parser_does_not() -> None:
    script = (
        "import sys\n"
        "import keda_gpu_scaler.cli\n"
        "from keda_gpu_scaler.core.trigger.parser import parse_trigger\n"
        "print('keda_gpu_scaler.engines' in sys.modules)\n"
        "print(parse_trigger({'profile': 'llm', 'engine': 'sglang'}).engine.engine)"
    )
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert outcome.stdout.split() == ["False", "sglang"], outcome.stderr
