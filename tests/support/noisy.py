"""An environment, a scorer, and an engine whose failures quote the conversation.

A server that loads this module as an environment's (`environments.modules`) gets all three.
"""

from __future__ import annotations

import logging
import random
import sys
from typing import Any

from env_adapters.protocol import EnvironmentFailure, Reset, Transition
from env_adapters.simple import SimpleSpec
from server.engines.scripted import ScriptedEngine
from upturn.wire import EpisodeView

BREAK = b"break the engine"
_generate = ScriptedEngine.generate


def _generate_or_fail(self: ScriptedEngine, version: int, prompt_ids: list[int], *rest: Any, **more: Any) -> Any:
    text = bytes(one for one in prompt_ids if one < 256)
    if BREAK in text:
        raise ValueError(f"cannot sample after {text.decode(errors='replace')}")
    return _generate(self, version, prompt_ids, *rest, **more)


ScriptedEngine.generate = _generate_or_fail  # type: ignore[method-assign]


def quoting(episode: EpisodeView) -> float:
    """Fail with the episode's text."""
    raise ValueError(f"no score for {episode.model_dump_json()}")


class Noisy:
    """Prints each action, then fails with it."""

    def reset(self, task: str, seed: int) -> Reset:
        return Reset([{"role": "user", "content": "Say something."}])

    def step(self, text: str) -> Transition:
        print(text)
        try:
            int(text)
        except ValueError as error:
            if "gently" in text:
                raise EnvironmentFailure(f"what is {text}?") from error
            raise
        return Transition("", 0.0, True, success=False)

    def oracle(self) -> str:
        return "1"

    def random(self, rng: random.Random) -> str:
        return "1"

    def close(self) -> None:
        logging.getLogger("env_adapters.noisy").info("closed")
        sys.stdout.flush()


def make_spec(**_: Any) -> SimpleSpec:
    return SimpleSpec("noisy", "Fail with the action.", Noisy, isolation="host", lists={"train": ["a"], "test": ["b"]})
