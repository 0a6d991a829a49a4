"""One of several learner processes, for `tests/studies/test_learner_distributed.py`.

python -m tests.support.learner_process ORDERS.json        learner steps on generated samples
python -m tests.support.learner_process run --server ...    the program, in which the second process runs out of memory
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from learner.__main__ import main as program
from learner.model.load import load_policy
from learner.model.policy import Logprobs, Policy
from learner.parallel import distributed
from learner.parallel.sharding import whole
from learner.state.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from learner.step import Trainer
from tests.unit.learner.test_learner_samples import random_samples
from upturn.wire import RunConfig, Sample


def work(order: dict) -> None:
    """Train some steps, save a checkpoint if ordered, and write weights and metrics.

    Args:
        order: `model`, `config`, `steps`, `max_row_tokens`, `out`, and optionally `save` or `load`: a directory of
            checkpoints.
    """
    config, out = RunConfig.model_validate(order["config"]), Path(order["out"])
    policy = load_policy(Path(order["model"]), None, config, torch.device("cpu"))
    trainer = Trainer(policy, config, order["max_row_tokens"])
    first, last = order["steps"]
    if "load" in order:
        newest = newest_checkpoint(Path(order["load"]), first)
        assert newest is not None and newest[0] == first
        load_checkpoint(trainer, newest[1])
    metrics = [trainer.step(samples_of(step, order.get("broken", False)), step).metrics for step in range(first, last)]
    if "save" in order:
        save_checkpoint(trainer, Path(order["save"]), last)
    weights = {name: whole(p.detach()).contiguous() for name, p in policy.trainable().items()}
    if distributed.is_first():
        save_file(weights, out.with_suffix(".safetensors"))
        out.write_text(json.dumps(metrics))


def samples_of(step: int, broken: bool) -> list[Sample]:
    """Return the samples of a step; if broken, one has a temperature so low that its logprobs are NaN."""
    samples = random_samples(seed=step)
    if broken:
        samples[0] = samples[0].model_copy(update={"temperatures": [1e-45] * len(samples[0].token_ids)})
    return samples


def program_whose_second_process_has_no_memory() -> int:
    """Run `python -m learner` with an out-of-memory error in the second process."""
    compute = Policy.compute

    def without_memory(policy, row) -> Logprobs:
        if distributed.number() == 1:
            raise torch.OutOfMemoryError("out of memory")
        return compute(policy, row)

    Policy.compute = without_memory
    return program(sys.argv[1:])


def main() -> None:
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    for order in json.loads(Path(sys.argv[1]).read_text()):
        work(order)
    distributed.close(0)


if __name__ == "__main__":
    sys.exit(program_whose_second_process_has_no_memory() if sys.argv[1] == "run" else main())
