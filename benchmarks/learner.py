"""Speed and memory of a learner step, compared with TRL's GRPOTrainer on the same model, batch and loss.

    .venv/bin/python benchmarks/learner.py [--quick] [--groups N] [--steps N]

Both sides train the same multi-turn episodes: groups of eight with a shared prompt, two to ten turns each, GRPO
advantages, the token-level clipped loss, AdamW, randomly initialized weights. Each step runs in its own process, ours
and TRL's alternating (A B A B), after a short warm-up step. TRL receives the episodes as if it had just sampled them
(`support/trl_peer.py` and `support/learner_ours.py` describe what is timed) and processes eight at a time, its default.
The comparison is void unless loss and gradient norm agree. Memory is the peak of a step, including weights and
optimizer state, minus the memory after imports. The fastest step of each side counts: other load on the machine can
only slow it down. CPU seconds are the sum over all cores.

`row per sample` is our learner without token tries. With a CUDA GPU `learner_gpu.py` measures larger shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import learner_gpu
from benchmarks.support import trl_peer
from clients.demo.machine import machine

VENV = Path.home() / ".cache" / "upturn-bench" / "trl"
HERE = Path(__file__).parent
GROUP = 8
GOAL = 1.5
"""Goal, as a multiple of TRL's speed."""
APART = {"float32": 1e-5, "bfloat16": 1e-2}
"""Maximum difference of the losses (absolute) and gradient norms (relative); bfloat16 rounds every layer's output."""


@dataclass(frozen=True)
class Shape:
    """Shape of a randomly initialized model."""

    name: str
    dtype: str
    config: dict[str, Any]


SHAPES = [
    Shape(
        "5 M, float32",
        "float32",
        {
            "vocab_size": 8192,
            "hidden_size": 256,
            "intermediate_size": 688,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
    ),
    Shape(
        "SmolLM2-135M, bfloat16",
        "bfloat16",
        {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
    ),
]


def made(shape: Shape, folder: Path) -> Path:
    """Write a randomly initialized model; return its directory."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **shape.config,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, shape.dtype))
    directory = folder / shape.name.split(",")[0].replace(" ", "")
    model.save_pretrained(directory)
    return directory


def batch(groups: int, vocabulary: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the episodes for both sides: prompt, completion with its mask, group, reward and advantage.

    A group shares its prompt of 60 to 240 tokens; an episode has 2 to 10 turns of 4 to 24 sampled tokens with
    observations of 8 to 40 between them.
    """
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> list[int]:
        return [rng.randrange(3, vocabulary) for _ in range(rng.randint(low, high))]

    episodes = []
    for group in range(groups):
        prompt, rewards = tokens(60, 240), [float(i % 2) for i in range(GROUP)]
        for reward in rewards:
            completion, mask = tokens(4, 24), []
            mask += [1] * len(completion)
            for _ in range(rng.randint(1, 9)):
                observation, answer = tokens(8, 40), tokens(4, 24)
                completion += observation + answer
                mask += [0] * len(observation) + [1] * len(answer)
            episodes.append(
                {
                    "prompt": prompt,
                    "completion": completion,
                    "mask": mask,
                    "group": str(group),
                    "reward": reward,
                    "advantage": (reward - fmean(rewards)) / (stdev(rewards) + 1e-6),
                }
            )
    return episodes


def step(python: Path | str, program: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run one side in a separate process; return its measurements."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(given["threads"]),
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        [python, HERE / "support" / program, json.dumps(given)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(f"{program} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(
    shape: Shape,
    peer: Path | None,
    groups: int,
    steps: int,
    folder: Path,
    *,
    checkpointing: bool = False,
    alone: bool = False,
) -> dict[str, Any]:
    """Measure one model on both sides, A B A B, and optionally without tries; print and return the rows."""
    episodes = batch(groups, shape.config["vocab_size"])
    trained = sum(sum(e["mask"]) for e in episodes)
    (folder / "batch.json").write_text(json.dumps(episodes))
    given = {
        "model": str(made(shape, folder)),
        "batch": str(folder / "batch.json"),
        "folder": str(folder / "trl"),
        "steps": steps,
        "size": GROUP,
        "lr": 1e-9,
        "bf16": shape.dtype == "bfloat16",
        "threads": os.cpu_count(),
        "max_row_tokens": None,
        "checkpointing": checkpointing,
        "compile": False,
    }
    runs: dict[str, list[dict[str, Any]]] = {"Upturn": [], "TRL": [], "row per sample": []}
    for _ in range(2):
        runs["Upturn"].append(step(sys.executable, "learner_ours.py", given))
        if peer is not None:
            runs["TRL"].append(step(peer, "trl_peer.py", given))
    if alone:
        runs["row per sample"].append(step(sys.executable, "learner_ours.py", given | {"max_row_tokens": 1}))
    kept = "recomputed" if checkpointing else "kept"
    print(f"\n{shape.name}, activations {kept}: {len(episodes)} episodes, {trained} trained tokens")
    print("                tokens computed  s/step   CPU s  trained tokens/s  peak MiB         loss  gradient norm")
    measured: dict[str, Any] = {"model": shape.name, "activations": kept, "trained_tokens": trained}
    for name, several in runs.items():
        if several:
            seconds = min(s for one in several for s in one["seconds"])
            cpu_seconds = min(s for one in several for s in one["cpu_seconds"])
            peak = max(one["peak_mib"] for one in several)
            last = several[-1]
            print(
                f"{name:<15} {last['tokens']:>15} {seconds:>7.2f} {cpu_seconds:>7.2f} {trained / seconds:>17.1f} "
                f"{peak:>9.0f} {last['loss']:>12.6f} {last['grad_norm']:>14.5f}"
            )
            measured[name] = {
                **last,
                "seconds": [s for one in several for s in one["seconds"]],
                "cpu_seconds": cpu_seconds,
                "tokens_per_s": trained / seconds,
                "peak_mib": peak,
            }
    if runs["TRL"]:
        ours, theirs = measured["Upturn"], measured["TRL"]
        measured["speed_ratio"] = ours["tokens_per_s"] / theirs["tokens_per_s"]
        measured["cpu_ratio"] = theirs["cpu_seconds"] / ours["cpu_seconds"]
        measured["memory_ratio"] = ours["peak_mib"] / theirs["peak_mib"]
        measured["loss_apart"] = abs(ours["loss"] - theirs["loss"])
        measured["grad_norm_apart"] = abs(ours["grad_norm"] / theirs["grad_norm"] - 1)
        print(
            f"{measured['speed_ratio']:.2f} times TRL's speed ({measured['cpu_ratio']:.2f} by CPU seconds) with "
            f"{measured['memory_ratio']:.2f} times its memory; losses differ by {measured['loss_apart']:.1e}, gradient "
            f"norms by {measured['grad_norm_apart']:.1e} of theirs"
        )
        if max(measured["grad_norm_apart"], measured["loss_apart"]) > APART[shape.dtype]:
            raise RuntimeError("the two sides do not compute the same loss: the comparison is void")
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the 5 M model and two groups, under a minute")
    parser.add_argument("--groups", type=int, default=8, help="groups of eight episodes (%(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="measured steps per process (%(default)s)")
    arguments = parser.parse_args()
    quick, ways = arguments.quick, [{"alone": True}, {"checkpointing": True}]
    groups, steps = (2, 2) if quick else (arguments.groups, arguments.steps)
    try:
        peer = trl_peer.installed(VENV)
    except subprocess.CalledProcessError as error:
        print(f"TRL cannot be installed ({error}): measuring only our learner")
        peer = None
    print(f"{machine()}; {', '.join(trl_peer.requirements())}")
    with tempfile.TemporaryDirectory() as folder:
        measured = [
            compare(shape, peer, groups, steps, Path(folder), **way)
            for shape in SHAPES[: 1 if quick else None]
            for way in ([{}] if quick else ways)
        ]
    gpu = learner_gpu.measure(quick=quick)
    worst = min((m["speed_ratio"] for m in measured if "speed_ratio" in m), default=None)
    print(
        json.dumps(
            {
                "machine": machine(),
                "cpu": measured,
                "gpu": gpu,
                "goal": GOAL,
                "worst_speed_ratio": worst,
                "reached": worst is not None and worst >= GOAL and all(m["memory_ratio"] <= 1 for m in measured),
            }
        )
    )


if __name__ == "__main__":
    main()
