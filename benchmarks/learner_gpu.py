"""A learner step on a CUDA GPU: full training at 0.5 B and 1.5 B, and a long sample with an adapter at 7 B.

Used by `learner.py`. Weights are random and created on the GPU. Model FLOPs are the operations that the step requires:
6 per weight and trie node, 6 per weight of the output layer and trained token, 12 per visible pair of tokens, layer and
hidden unit; for a frozen base 4 instead of 6. Recomputation in the backward pass does not count.
"""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from learner.model.acceleration import accelerate
from learner.model.load import with_new_adapter
from learner.model.policy import Policy
from learner.packing import RowLimits, pack
from learner.settings import LearnerSettings
from learner.step import Trainer
from upturn.wire import Guards, RunConfig, Sample

QWEN = {  # Shapes of Qwen2.5.
    "0.5 B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "1.5 B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7 B": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}
PEAK_TFLOPS = {"H100": 989, "H200": 989, "B200": 2250, "A100": 312, "L40S": 362}
"""Dense bfloat16, from the manufacturers' data sheets (SXM versions)."""
DEVICE = "cuda"
SETTINGS: list[dict[str, bool]] = [{}, {"compile": True}, *([{"liger": True}] if find_spec("liger_kernel") else [])]


def policy(shape: str, config: RunConfig, settings: LearnerSettings) -> Policy:
    """Return a randomly initialized policy in the state that `load_policy` returns."""
    torch.manual_seed(0)
    held = torch.float32 if config.kind == "full" else torch.bfloat16
    with torch.device(DEVICE):
        torch.set_default_dtype(held)
        model: Any = Qwen2ForCausalLM(Qwen2Config(**QWEN[shape], max_position_embeddings=32768))
        torch.set_default_dtype(torch.float32)
    if config.kind == "adapter":
        model = with_new_adapter(model, Path("random"), config)
    made = Policy(model.train(), Path("random"), torch.bfloat16)
    accelerate(made, settings)
    return made


def group(size: int, shared: int, own: int, vocabulary: int) -> list[Sample]:
    """Return a group of episodes: a shared prompt, then turns of 64 sampled and 64 observation tokens."""
    rng = random.Random(0)
    prompt, samples = [rng.randrange(vocabulary) for _ in range(shared)], []
    for episode in range(size):
        ids = prompt + [rng.randrange(vocabulary) for _ in range(own)]
        mask = [0] * shared + [int(i % 128 < 64) for i in range(own)]
        samples.append(
            Sample(
                episode_id=str(episode),
                group="g",
                token_ids=ids,
                loss_mask=mask,
                reward=episode % 2,
                logprobs=[-11.0 * m for m in mask],
                temperatures=[1.0] * len(ids),
            )
        )
    return samples


def model_flops(shape: str, samples: list[Sample], max_row_tokens: int, adapter: bool) -> float:
    """Return the floating-point operations that a step on these samples requires."""
    s, each = QWEN[shape], 4 if adapter else 6
    hidden, layers = s["hidden_size"], s["num_hidden_layers"]
    head_size = hidden // s["num_attention_heads"]
    by_layer = 2 * hidden**2 + 2 * hidden * s["num_key_value_heads"] * head_size + 3 * hidden * s["intermediate_size"]
    total = 0.0
    for row in pack(samples, RowLimits(max_row_tokens)):
        visible = float((row.depth + 1).sum())
        total += each * (layers * by_layer * len(row.token_ids) + hidden * s["vocab_size"] * len(row.target))
        total += 12 * layers * hidden * visible
    return total


def step(
    name: str, shape: str, samples: list[Sample], kind: str, max_row_tokens: int, repeats: int, **settings: bool
) -> dict[str, Any]:
    """Measure steps of one model; print and return the row."""
    config = RunConfig(steps=100, kind=kind, guards=Guards(mismatch_kl=None))
    how = LearnerSettings(server="", learner="-", **settings)
    trainer = Trainer(policy(shape, config, how), config, max_row_tokens)
    for _ in range(2):  # Compiles FlexAttention and Triton kernels.
        trainer.step(samples, 0)
    torch.cuda.reset_peak_memory_stats()
    steps = [trainer.step(samples, i).metrics for i in range(1, 1 + repeats)]
    torch.cuda.synchronize()
    seconds, peak = median(s["train_s"] for s in steps), torch.cuda.max_memory_allocated() / 2**30
    device = torch.cuda.get_device_name()
    peak_tflops = next((value for known, value in PEAK_TFLOPS.items() if known in device), None)
    tflops = model_flops(shape, samples, max_row_tokens, kind == "adapter") / seconds / 1e12
    mfu = None if peak_tflops is None else tflops / peak_tflops
    packed, trained = (steps[-1][f"{which}_tokens"] / seconds for which in ("packed", "trained"))
    print(
        f"{shape:<6} {name:<52} {packed:>9.0f} {trained:>9.0f} {tflops:>7.0f} "
        f"{'-' if mfu is None else format(mfu, '.0%'):>5} {peak:>9.1f}"
    )
    return {
        "what": name,
        "shape": shape,
        "seconds": [s["train_s"] for s in steps],
        "peak_gib": peak,
        "mfu": mfu,
        "packed_tokens_per_s": packed,
        "trained_tokens_per_s": trained,
        "tflops": tflops,
        **settings,
    }


def measure(*, quick: bool) -> list[dict[str, Any]]:
    """Measure and print; return nothing without a GPU."""
    if not torch.cuda.is_available():
        print("\nNo CUDA GPU: skipping full training at 0.5 B and 1.5 B, and a 16k-token sample with an adapter at 7 B")
        return []
    print(f"\n{torch.cuda.get_device_name()}, bfloat16; FLOPs of the whole step, including the optimizer")
    print("                                                             packed/s trained/s TFLOP/s   MFU  peak GiB")
    found = []
    paths, trie = group(2, 0, 4096, 150_000), group(8, 1024, 384, 150_000)
    for sample in paths:
        sample.loss_mask[0] = 0
    for shape in ("0.5 B",) if quick else ("0.5 B", "1.5 B"):
        for name, samples in (("whole, rows of one 4096-token sample", paths), ("whole, a trie of 4096 nodes", trie)):
            for settings in SETTINGS[: 1 if quick else None]:
                words = "".join(f", {word}" for word in settings)
                found.append(step(name + words, shape, samples, "full", 4096, 1 if quick else 5, **settings))
                torch.cuda.empty_cache()
    if not quick:
        found.append(
            step(
                "adapter, a 16k-token sample, activations recomputed",
                "7 B",
                group(2, 64, 16320, 150_000),
                "adapter",
                16384,
                1,
                activation_checkpointing=True,
            )
        )
    return found
