"""An environment: guess a number.

Try it: `python -m env_adapters play guess_number --module examples.guess --policy random`.
"""

import random
import re

from env_adapters.protocol import Reset, Transition, UnknownTask
from env_adapters.simple import SimpleSpec

TASKS = {"train": ["below-10", "below-100"], "test": ["below-50"]}


class Guess:
    """One game; all randomness comes from the task and the seed, so that an episode can be repeated."""

    def reset(self, task: str, seed: int) -> Reset:
        """Start a game; return the first messages."""
        if task not in TASKS["train"] + TASKS["test"]:
            raise UnknownTask(f"no task {task!r}")
        self.limit = int(task.removeprefix("below-"))
        self.number = random.Random(f"guess_number/{task}/{seed}").randrange(self.limit)
        text = f"Guess my number, 0 to {self.limit - 1}. Answer with a number only."
        return Reset([{"role": "user", "content": text}])

    def step(self, text: str) -> Transition:
        """Judge a guess; an answer without a number is invalid, never an error."""
        found = re.search("[0-9]{1,9}", text)
        if found is None:
            return Transition("Answer with a number.", 0.0, terminated=False, valid=False)
        if int(found[0]) == self.number:
            return Transition("Right!", 1.0, terminated=True, success=True)
        return Transition("Too low." if int(found[0]) < self.number else "Too high.", 0.0, terminated=False)

    def oracle(self) -> str:
        """Return a correct answer, for demonstrations."""
        return str(self.number)

    def random(self, rng: random.Random) -> str:
        """Return any possible answer, for the random baseline."""
        return str(rng.randrange(self.limit))

    def close(self) -> None:
        """Release nothing."""


def make_spec() -> SimpleSpec:
    """Return the environment's definition; the server finds it by this name."""
    return SimpleSpec("guess_number", "Guess a number.", Guess, TASKS)
