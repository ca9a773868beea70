# SPDX-License-Identifier: Apache-2.0
"""The external triggers that the ScaledObjects and ScaledJobs of one namespace declare.

Law: what the API server did not say is not known, and is neither declared nor refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keda_gpu_scaler.core.trigger.metric_type import declares
from keda_gpu_scaler.core.trigger.near_keys import FROM_ENVIRONMENT, misspelt_keys, misspelt_problem
from keda_gpu_scaler.core.trigger.parser import PARAMETERS, TriggerError, parse_trigger
from keda_gpu_scaler.core.types import DeclaredTrigger

_OWN_KEYS = tuple(parameter.key for parameter in PARAMETERS)


@dataclass(frozen=True, slots=True)
class DeclaredObjects:
    """The triggers by the name of their object. With ``is_complete`` there is no object of another name."""

    triggers: Mapping[str, tuple[DeclaredTrigger, ...]]
    is_complete: bool

    def declares(self, name: str, metadata: Mapping[str, str]) -> bool | None:
        """Whether an object declares a trigger with this metadata; None where that is not known."""
        triggers = self.triggers.get(name)
        if triggers is None:
            return False if self.is_complete else None
        return declares(triggers, metadata)


def declared_problems(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return why a declared trigger is refused, as far as its declaration says.

    A value from the environment is known to KEDA alone. Without it only the keys can be judged.
    """
    from_environment = {key for key in metadata if key.endswith(FROM_ENVIRONMENT)}
    if any(key.removesuffix(FROM_ENVIRONMENT) in _OWN_KEYS for key in from_environment):
        return tuple(misspelt_problem(key, meant) for key, meant in misspelt_keys(metadata, _OWN_KEYS))
    try:
        parse_trigger(metadata)
    except TriggerError as error:
        return error.problems
    return ()
