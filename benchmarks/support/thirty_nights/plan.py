"""The plan: what happens in which night, what each night trains, and the settings of the server. Only data."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.support.thirty_nights.game import LISTS, NAME
from upturn.wire import (
    CronTrigger,
    EvaluationPlan,
    OptimizerConfig,
    PlayPlan,
    PlayRequest,
    RunConfig,
    Sampling,
    StepwiseHorizon,
)

Event = Literal["kill", "swap", "clock", "loophole", "sabotage", "broken"]
EVENTS: Mapping[Event, str] = {
    "kill": "the server is killed (kill -9) at a random moment of the night",
    "swap": "it is killed while it loads a new version",
    "clock": "the clock is set back by an hour while a run trains",
    "loophole": "the game pays for answers that are no action, and calls them successes",
    "sabotage": "in the evening bad weights are published by hand, in a run by itself",
    "broken": "the game breaks at every reset",
}
CAMPAIGN, TRIGGER = "nightly", "nightly"
ROUNDS = [3, 4, 5]
"""Horizons of the schedule; decisions and measurements use the last one."""
ANSWER = Sampling(max_tokens=2)
LATEST_KILL_S = 20.0
"""Maximum time from the start of a night's run to a kill at random."""
LEASE_S = 15.0
"""Seconds that the run of a killed learner waits for the next one."""


@dataclass(frozen=True)
class Plan:
    """Some nights of one campaign. Sizes and rates were chosen so that a tiny model learns over most of the nights."""

    nights: int
    planted: Mapping[int, Event]
    """Events of fixed nights."""
    kills: int
    """Further nights, drawn at random, in which the server is killed at random."""
    swap_kills: int
    """The same, while it loads a new version."""
    steps: int
    """Learner steps of a night."""
    every: int
    """Learner steps of a stage of the horizon."""
    lr: float
    draw: int
    """Tasks that a decision draws."""
    conversations: int
    """Conversations of users on each day, in addition to those in the night."""
    repetitions: int
    """Episodes of each task in a measurement."""
    seed: int = 0

    def events(self) -> dict[int, Event]:
        """Return the event of each night that has one; the first night and the last one are quiet."""
        free = [night for night in range(2, self.nights) if night not in self.planted]
        drawn = random.Random(self.seed).sample(free, self.kills + self.swap_kills)
        kinds: list[Event] = ["kill"] * self.kills + ["swap"] * self.swap_kills
        return {**self.planted, **dict(zip(drawn, kinds, strict=True))}

    def run(self) -> RunConfig:
        """Return what each night trains."""
        return RunConfig(
            campaign=CAMPAIGN,
            kind="adapter",
            steps=self.steps,
            checkpoint_every=1,
            schedule=StepwiseHorizon(rounds=ROUNDS, every=self.every),
            optimizer=OptimizerConfig(lr=self.lr),
            play=PlayPlan(environment=NAME, split="train", curriculum="learnability", sampling=ANSWER),
            evaluation=EvaluationPlan(tasks={NAME: "test"}, draw=self.draw, rounds=4, sampling=ANSWER),
        )

    def flags(self, model: Path, engine: str) -> list[str]:
        """Return the flags of the server."""
        trigger = CronTrigger(kind="cron", cron="0 1 * * *", run=self.run())
        return [
            f"--model={model}",
            f"--engine.kind={engine}",
            "--engine.dtype=float32",
            "--engine.context-tokens=1024",
            "--engine.kv-cache-gib=0.3",
            "--engine.max-concurrent=32",
            "--weights=adapter",
            "--learner.threads=1",
            f"--learner.lease-s={LEASE_S:g}",
            f"--environments.modules={json.dumps(['benchmarks.support.thirty_nights.game'])}",
            "--environments.workers=0",
            "--watch.low=0",
            f"--schedule.triggers={json.dumps({TRIGGER: trigger.model_dump(mode='json')})}",
        ]

    def measurement(self) -> PlayRequest:
        """Return the play that measures the champion: always the same tasks and seeds, which no decision sees."""
        return PlayRequest(
            environment=NAME,
            tasks=LISTS["unseen"],
            group_size=self.repetitions,
            horizon=ROUNDS[-1],
            policy="policy@champion",
            sampling=ANSWER,
            trainable=False,
            seed=4711,
            purpose="evaluation",
        )


FULL = Plan(
    nights=30,
    planted={8: "loophole", 9: "loophole", 10: "loophole", 14: "clock", 18: "sabotage", 23: "broken"},
    kills=6,
    swap_kills=3,
    steps=8,
    every=56,
    lr=2e-3,
    draw=120,
    conversations=40,
    repetitions=4,
)
QUICK = Plan(
    nights=8,
    planted={3: "loophole", 4: "clock", 6: "sabotage", 7: "broken"},
    kills=1,
    swap_kills=1,
    steps=8,
    every=16,
    lr=6e-3,
    draw=60,
    conversations=20,
    repetitions=2,
)
