"""How much token tries save a learner step: the same batch packed, and with a row per sample, in turn.

    .venv/bin/python benchmarks/learner.py [--quick] [--model DIR]

The batch has the shape of the demo's: groups of episodes that share a prompt and differ in their answers.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from clients.demo.machine import machine
from clients.wire import Guards, RunConfig, Sample
from learner.model import load_policy
from learner.step import Trainer
from server.policy.model_source import resolve_model

PROMPT, ANSWER, OBSERVATION, TURNS = 140, 11, 24, 4  # Tokens; means in the demo's episodes.


def batch(groups: int, size: int, seed: int) -> list[Sample]:
    """Return a batch: every group has its prompt, every episode its own answers."""
    rng = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(300, 40_000) for _ in range(count)]

    samples = []
    for group in range(groups):
        prompt = tokens(PROMPT)
        for episode in range(size):
            ids, mask = list(prompt), [0] * PROMPT
            for _ in range(TURNS):
                ids += tokens(ANSWER) + tokens(OBSERVATION)
                mask += [1] * ANSWER + [0] * OBSERVATION
            samples.append(Sample(
                episode_id=f"{group}-{episode}", group=str(group), token_ids=ids, loss_mask=mask,
                logprobs=[-2.0 * m for m in mask], temperatures=[1.0] * len(ids), reward=float(episode % 2)))
    return samples


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two groups of four, once")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="model whose shape is used")
    arguments = parser.parse_args()
    groups, size, repeats = (2, 4, 1) if arguments.quick else (8, 8, 3)
    model = resolve_model(arguments.model, Path("data/models").absolute())
    config = RunConfig(steps=100, guards=Guards(mismatch_kl=None))  # made-up logprobs
    policy = load_policy(model, None, config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    packed, single = Trainer(policy, config), Trainer(policy, config, max_row_tokens=1)
    samples = batch(groups, size, seed=0)
    packed.step(batch(1, 2, seed=1), 0)  # Warm up.
    seconds: dict[str, list[float]] = {"packed": [], "row per sample": []}
    tokens: dict[str, float] = {}
    for step in range(repeats):
        for name, trainer in (("packed", packed), ("row per sample", single)):
            metrics = trainer.step(samples, step).metrics
            seconds[name].append(metrics["train_s"])
            tokens[name] = metrics["packed_tokens"]
    print(f"{machine()}; {groups} groups of {size}, {model.name}")
    print("                 seconds   tokens computed")
    for name, measured in seconds.items():
        print(f"{name:<15}  {statistics.median(measured):7.2f}   {tokens[name]:.0f}")
    ratio = statistics.median(a / b for a, b in zip(seconds["row per sample"], seconds["packed"], strict=True))
    print(f"packed is {ratio:.2f} times as fast")
    print(json.dumps({"machine": machine(), "packed_s": seconds["packed"], "single_s": seconds["row per sample"],
                      "packed_tokens": tokens["packed"], "single_tokens": tokens["row per sample"], "ratio": ratio}))


if __name__ == "__main__":
    main()
