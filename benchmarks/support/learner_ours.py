"""A learner step of this project in a separate process. Used by `learner.py`.

Times `Trainer.step`: packing, forward, loss, backward, clipping and AdamW.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.support.trl_peer import Memory
from learner.minibatch import Minibatch
from learner.model.acceleration import accelerate
from learner.model.load import load_policy
from learner.model.policy import Policy
from learner.settings import LearnerSettings
from learner.step import Trainer
from upturn.wire import OptimizerConfig, RunConfig, Sample


def samples(episodes: list[dict[str, Any]]) -> list[Sample]:
    """Return the episodes as samples in the server's format, with engine logprobs of 0."""
    found = []
    for number, e in enumerate(episodes):
        ids = e["prompt"] + e["completion"]
        found.append(
            Sample(
                episode_id=str(number),
                group=e["group"],
                token_ids=ids,
                loss_mask=[0] * len(e["prompt"]) + e["mask"],
                logprobs=[0.0] * len(ids),
                temperatures=[1.0] * len(ids),
                reward=e["reward"],
            )
        )
    return found


def as_sampled(given: list[Sample], policy: Policy, config: RunConfig, max_row_tokens: int) -> list[Sample]:
    """Return the samples with the policy's logprobs as engine logprobs, so that all importance weights are 1."""
    seen = Minibatch(given, policy, None, config, policy.row_limits(max_row_tokens)).no_grad_pass()
    found = []
    for sample, one in zip(given, seen, strict=True):
        own = iter(one.old.tolist())
        found.append(sample.model_copy(update={"logprobs": [next(own) if m else 0.0 for m in sample.loss_mask]}))
    return found


def main() -> None:
    """Train on the batch named on the command line; print the measurements."""
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    memory = Memory()
    episodes = json.loads(Path(given["batch"]).read_text())
    config = RunConfig(steps=100, optimizer=OptimizerConfig(lr=given["lr"]))
    policy = load_policy(Path(given["model"]), None, config, torch.device("cpu"))
    accelerate(
        policy,
        LearnerSettings(
            server="", learner="-", activation_checkpointing=given["checkpointing"], compile=given["compile"]
        ),
    )
    trainer = Trainer(policy, config, given["max_row_tokens"])
    whole = as_sampled(samples(episodes), policy, config, given["max_row_tokens"])
    short = samples([e | {"completion": e["completion"][:8], "mask": [1] * len(e["completion"][:8])} for e in episodes])
    trainer.step(as_sampled(short, policy, config, given["max_row_tokens"]), 0)
    steps, cpu_seconds = [], []
    for step in range(1, 1 + given["steps"]):
        memory.reset()
        began = time.process_time()
        steps.append(trainer.step(whole, step).metrics)
        cpu_seconds.append(time.process_time() - began)
    print(
        json.dumps(
            {
                "seconds": [s["train_s"] for s in steps],
                "cpu_seconds": cpu_seconds,
                "peak_mib": memory.peak_mib(),
                "loss": steps[-1]["loss"],
                "grad_norm": steps[-1]["grad_norm"],
                "tokens": int(steps[-1]["packed_tokens"]),
            }
        )
    )


if __name__ == "__main__":
    main()
