"""The demo's defaults: tasks, stages, horizons, learning rates.

Chosen by measurement on 2 CPU cores with SmolLM2-135M-Instruct; `docs/demo.md` lists the alternatives tried.
"""

from __future__ import annotations

from upturn.wire import (
    OptimizerConfig,
    PlayPlan,
    PlayRequest,
    RunConfig,
    Sampling,
    StepwiseHorizon,
)

ENVIRONMENT = "textcraft"
DEPTHS = ("1",)
"""Depths of the goals that are played: number of crafting steps."""
MAX_TOKENS = 32
"""Maximum length of an answer; an action has about a dozen tokens."""
ROUNDS = [4, 6]
"""Horizons of the RL stage (ScalingInter-RL's `stepwise` schedule); evaluations use the last one."""
EVALUATION_SEED = 1000
EVALUATIONS_PER_GOAL = 6
BASE_EVALUATIONS_PER_GOAL = 2
"""The base model is no part of the interval, so fewer episodes of it are played."""
SFT_STEPS = 8
RL_STEPS = 20


def of_depths(tasks: list[str]) -> list[str]:
    """Return the tasks of the demo's depths; a TextCraft task is named `depth/goal`."""
    return [task for task in tasks if task.split("/")[0] in DEPTHS]


def evaluation(tasks: list[str], per_goal: int) -> PlayRequest:
    """Return the play that evaluates a version: always the same goals and seeds, sampled as in training."""
    return PlayRequest(
        environment=ENVIRONMENT,
        tasks=tasks,
        group_size=per_goal,
        horizon=ROUNDS[-1],
        policy=None,
        sampling=Sampling(max_tokens=MAX_TOKENS),
        trainable=False,
        seed=EVALUATION_SEED,
        purpose="evaluation",
    )


def supervised(tasks: list[str], steps: int, kind: str, seed: int) -> RunConfig:
    """Return the first stage: brief supervised training on episodes of the environment's solver."""
    return RunConfig(
        algorithm="sft",
        steps=steps,
        kind=kind,  # type: ignore[arg-type]
        seed=seed,
        play=PlayPlan(environment=ENVIRONMENT, tasks=tasks, groups=16, group_size=1, agent="oracle"),
        optimizer=OptimizerConfig(lr=5e-5, beta2=0.95, warmup_steps=3),
        checkpoint_every=steps,
    )


def reinforcement(tasks: list[str], steps: int, kind: str, seed: int) -> RunConfig:
    """Return the second stage: GRPO under a growing horizon; a single step has the last one."""
    rounds = ROUNDS[-steps:]
    return RunConfig(
        algorithm="grpo",
        steps=steps,
        kind=kind,  # type: ignore[arg-type]
        seed=seed,
        play=PlayPlan(
            environment=ENVIRONMENT,
            tasks=tasks,
            curriculum="learnability",
            groups=10,
            group_size=8,
            sampling=Sampling(max_tokens=MAX_TOKENS),
        ),
        schedule=StepwiseHorizon(rounds=rounds, every=steps // len(rounds)),
        optimizer=OptimizerConfig(lr=2e-5, beta2=0.95),
        checkpoint_every=100,
    )
