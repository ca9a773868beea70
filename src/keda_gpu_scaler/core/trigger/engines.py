# SPDX-License-Identifier: Apache-2.0
"""The table of inference engines, which the package ``engines`` fills at the first read.

Law: the table does not depend on the order of registration. ``detection_order`` alone orders it, and the first read
closes it. Reading an empty table, or registering into a closed one, is an error.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum


class LoadRung(Enum):
    """What the metric ``load`` can be computed from, the best first. The value describes it to users.

    An engine's rung is the best that it reaches. A page without the series of a rung is read by a later one.
    """

    TOKEN_TIME = "time between tokens"  # noqa: S105 - a description
    """Each time between two tokens of a request is observed when the second token comes."""
    REQUEST_TOKEN_TIME = "mean time per token of each request"  # noqa: S105 - a description
    """The mean time per token of a request is observed when the request ends."""
    TOKEN_RATE = "running requests per generated token"  # noqa: S105 - a description
    """Running requests, and a counter of generated tokens."""
    SERVICE_TIME = "time of computation"
    """The time of computation of each request is observed when the request ends."""
    RUNNING = "running requests"
    """Running requests. They are compared with their limit."""
    NONE = "none"

    @property
    def has_token_time(self) -> bool:
        """Whether a time per token is measured, or computed by Little's law."""
        return self in (LoadRung.TOKEN_TIME, LoadRung.REQUEST_TOKEN_TIME, LoadRung.TOKEN_RATE)


@dataclass(frozen=True, slots=True)
class ContainerNames:
    """The names by which a container in a manifest is recognised as running an engine. All are lower case.

    ``product`` is the short name used in sentences. ``image_words`` are words of the image's name or tag, where a word
    ends at any character that is neither a letter nor a digit. ``image_parts`` are parts of the whole image reference.
    ``commands`` are names of programs or of Python packages.
    """

    product: str
    image_words: tuple[str, ...] = ()
    image_parts: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Engine:
    """One inference engine, and where it serves its metrics by default.

    ``name`` is its name in trigger metadata. ``port`` and ``path`` are its defaults. ``other_ports`` and
    ``other_paths`` are those of its images and variants; they are tried after the defaults. ``detection_order`` orders
    the engines: where several could match, the lowest number is tried first. ``remark`` says what must be configured,
    or what the engine does not report. ``no_queue_hint`` says why a page of the engine may be without its queue.
    ``behind`` names the engines that may do its work, and whose series its page may then contain. ``reports_queue`` and
    ``reports_kv_cache`` are false where the engine never, or not always, reports its queue or a KV cache.
    ``preallocating_containers`` is given for an engine that takes its memory when it starts and keeps it. ``load_rung``
    is the best rung that the engine reaches for the metric ``load``. ``observes_outputs`` says that its times between
    tokens are times between outputs, each of which may have several tokens (speculative decoding).
    ``counts_tokens_at_end`` says that its tokens are counted when a request ends. ``model_labels`` are
    the labels of its series that may name the model, the first that a series has; empty where it names no model.
    ``has_ensembles`` says that one model may count the requests of others once more.
    """

    name: str
    title: str
    port: int
    detection_order: int
    path: str = "/metrics"
    other_ports: tuple[int, ...] = ()
    other_paths: tuple[str, ...] = ()
    remark: str = ""
    no_queue_hint: str = ""
    behind: tuple[str, ...] = ()
    reports_queue: bool = True
    reports_kv_cache: bool = True
    preallocating_containers: ContainerNames | None = None
    load_rung: LoadRung = LoadRung.RUNNING
    observes_outputs: bool = False
    counts_tokens_at_end: bool = False
    model_labels: tuple[str, ...] = ()
    has_ensembles: bool = False

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports to try, the default first."""
        return (self.port, *self.other_ports)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths to try, the default first."""
        return (self.path, *self.other_paths)


class EngineRegistrationError(Exception):
    """The table of engines is used in a wrong way; the message names the engine and the remedy."""


class EngineTable(Mapping[str, Engine]):
    """Engines by name, in their detection order. Only ``register`` changes it, and only before the first read."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}
        self._is_closed = False
        self._load: Callable[[], object] = lambda: None

    def load_with(self, load: Callable[[], object]) -> None:
        """Have the engines registered by this function, which the first read calls. It is called again if it fails."""
        self._load = load

    def register(self, engine: Engine) -> None:
        """Add an engine at the place of its detection order.

        Raises:
            EngineRegistrationError: the name or the detection order is taken, or the table has already been read.
        """
        if self._is_closed:
            raise EngineRegistrationError(
                f"engine {engine.name}: the table of engines has already been read; register every engine before that"
            )
        if engine.name in self._engines:
            raise EngineRegistrationError(f"engine {engine.name}: it is registered twice")
        for other in self._engines.values():
            if other.detection_order == engine.detection_order:
                raise EngineRegistrationError(
                    f"engine {engine.name}: detection_order {engine.detection_order} belongs to {other.name}; "
                    "choose another number"
                )
        engines = sorted([*self._engines.values(), engine], key=lambda one: one.detection_order)
        self._engines = {one.name: one for one in engines}

    def _closed(self) -> dict[str, Engine]:
        if not self._is_closed:
            self._load()
            if not self._engines:
                raise EngineRegistrationError(
                    "no engine is registered: the table needs a function that registers them (load_with)"
                )
            self._is_closed = True
        return self._engines

    def __getitem__(self, name: str) -> Engine:
        return self._closed()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._closed())

    def __len__(self) -> int:
        return len(self._closed())


_TABLE = EngineTable()
ENGINES: Mapping[str, Engine] = _TABLE
"""Every engine by its name in trigger metadata, in the order in which the engines are tried."""


def register_engine(engine: Engine) -> None:
    """Add an engine to ``ENGINES``.

    Raises:
        EngineRegistrationError: the name or the detection order is taken, or the table has already been read.
    """
    _TABLE.register(engine)


def load_engines_with(load: Callable[[], object]) -> None:
    """Set the function that fills ``ENGINES`` at its first read."""
    _TABLE.load_with(load)
