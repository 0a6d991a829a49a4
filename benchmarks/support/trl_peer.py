"""TRL's GRPOTrainer on recorded episodes, for comparison. Used by `learner.py`.

It runs in a virtual environment, created at the first run, with the same torch and transformers. There this file is the
program: it runs `GRPOTrainer.train()` with generation replaced by the given batch, padded as TRL pads (prompts left,
completions right, each to the longest of the batch). So TRL's shuffling, splitting, forward, loss, backward, clipping
and AdamW are measured; its sampling, rewards, advantages and padding are not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ANSWERS_AT_ONCE = 8
"""TRL's default `per_device_train_batch_size`."""


def requirements() -> list[str]:
    """Return the packages of its environment: TRL, and this project's torch and transformers."""
    ours = ("torch", "transformers", "accelerate")
    return ["trl==1.16.0", *(f"{name}=={version(name).split('+')[0]}" for name in ours)]


def installed(venv: Path) -> Path:
    """Return the interpreter that has TRL, creating its virtual environment at the first run."""
    python, complete, wanted = venv / "bin" / "python", venv / "complete", "\n".join(requirements())
    if not complete.is_file() or complete.read_text() != wanted:
        print(f"installing TRL into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements()], check=True)
        complete.write_text(wanted)
    return python


class Memory:
    """Peak resident memory of this process since `reset`, minus the memory after imports."""

    def __init__(self) -> None:
        self._imports = self._kib("VmRSS")

    def reset(self) -> None:
        """Start a new measurement."""
        Path("/proc/self/clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """Return the peak since `reset`."""
        return (self._kib("VmHWM") - self._imports) / 1024

    def _kib(self, name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


def padded(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return these episodes as TRL's `_generate_and_score_completions` would."""
    import torch
    from trl.trainer.utils import pad

    def rows(name: str, side: str, value: int = 0, ones: bool = False) -> Any:
        lists = [torch.tensor(e[name]) for e in episodes]
        return pad([torch.ones_like(one) if ones else one for one in lists], padding_value=value, padding_side=side)

    tool_mask = rows("mask", "right", 1)
    completion_mask = rows("completion", "right", ones=True)
    return {
        "prompt_ids": rows("prompt", "left"),
        "prompt_mask": rows("prompt", "left", ones=True),
        "completion_ids": rows("completion", "right"),
        "completion_mask": completion_mask,
        "tool_mask": tool_mask,
        "advantages": torch.tensor([e["advantage"] for e in episodes]),
        "num_items_in_batch": (completion_mask * tool_mask).sum(),
    }


def main() -> None:
    """Train on the batch named on the command line; print the measurements."""
    given = json.loads(sys.argv[1])
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(given["threads"])
    memory = Memory()
    episodes = json.loads(Path(given["batch"]).read_text())
    whole = padded(episodes)
    short = padded([e | {"completion": e["completion"][:8], "mask": [1] * len(e["completion"][:8])} for e in episodes])
    began, seconds, cpu_seconds, losses = [0.0, 0.0], [], [], []

    class Played(GRPOTrainer):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            losses.clear()
            memory.reset()
            began[:] = time.perf_counter(), time.process_time()
            return dict(whole if self.state.global_step else short)

        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(*arguments, **named)
            losses.append(loss.detach())
            return loss

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            seconds.append(time.perf_counter() - began[0])
            cpu_seconds.append(time.process_time() - began[1])

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "a": 1}, unk_token="a")), pad_token="<pad>", eos_token="<pad>"
    )
    settings = GRPOConfig(
        output_dir=given["folder"],
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        max_steps=1 + given["steps"],
        per_device_train_batch_size=ANSWERS_AT_ONCE,
        num_generations=given["size"],
        gradient_accumulation_steps=len(episodes) // ANSWERS_AT_ONCE,
        learning_rate=given["lr"],
        adam_beta2=0.99,
        lr_scheduler_type="constant",
        bf16=given["bf16"],
        gradient_checkpointing=given["checkpointing"],
        loss_type="dapo",
    )
    trainer = Played(
        given["model"],
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * len(episodes)}),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    print(
        json.dumps(
            {
                "seconds": seconds[1:],
                "cpu_seconds": cpu_seconds[1:],
                "peak_mib": memory.peak_mib(),
                "loss": float(sum(losses)),
                "grad_norm": [log["grad_norm"] for log in trainer.state.log_history if "grad_norm" in log][-1],
                "tokens": whole["prompt_ids"].numel() + whole["completion_ids"].numel(),
            }
        )
    )


if __name__ == "__main__":
    main()
