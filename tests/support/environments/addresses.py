"""Registers remote environments under new names."""

from __future__ import annotations

import itertools

from env_adapters import REGISTRY, environment_spec
from env_adapters.protocol import Environment, EnvironmentFailure

SOLUTION = ("get 1 acacia logs", "craft 4 acacia planks using 1 acacia logs")
TRAIN = environment_spec("textcraft").tasks("train")
_numbers = itertools.count()


def named(spec: str) -> str:
    """Register an address under a new name."""
    name = f"elsewhere-{next(_numbers)}"
    REGISTRY.add_remote(name, spec)
    return name


def begun(spec: str, task: str, seed: int = 0) -> tuple[Environment, str]:
    env = environment_spec(named(spec)).make()
    try:
        return env, env.reset(task, seed).messages[-1]["content"]
    except EnvironmentFailure:
        env.close()
        raise
