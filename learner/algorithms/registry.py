"""From the name in a run's config to its algorithm: `upturn.wire.ALGORITHMS` is the registry, NAME.py the code."""

from __future__ import annotations

import functools
import importlib

from learner.algorithms.algorithm import Algorithm
from learner.checks import BadInput
from upturn.wire import ALGORITHMS, RunConfig


def algorithm_of(config: RunConfig) -> Algorithm:
    """Return the algorithm of a run.

    Raises:
        BadInput: no algorithm of this name is registered, or it knows no entropy bonus and the config asks for one.
        TypeError: the algorithm's file contradicts its line in the registry.
    """
    if config.algorithm not in ALGORITHMS:
        raise BadInput(
            f"unknown algorithm {config.algorithm!r}: this learner knows {', '.join(ALGORITHMS)}; "
            "use the same release for server and learner"
        )
    algorithm = _class_of(config.algorithm)(config)
    if config.entropy_coef > 0 and algorithm.loss == "imitation":
        raise BadInput(f"{config.algorithm} imitates, and knows no entropy bonus: leave entropy_coef at 0")
    return algorithm


@functools.cache
def _class_of(name: str) -> type[Algorithm]:
    """Return the one algorithm class that a file defines."""
    module = importlib.import_module(f"learner.algorithms.{name}")
    classes = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Algorithm) and one.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise TypeError(f"{module.__name__} defines {len(classes)} algorithms: one is expected")
    if ALGORITHMS[name].off_policy and classes[0].loss != "imitation":
        raise TypeError(f"{name} is off-policy and needs the imitation loss: old episodes have no usable logprobs")
    return classes[0]
