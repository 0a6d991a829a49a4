"""A training run by the Python client: supervised on the solver's episodes of TextCraft, then GRPO."""

import os
import time

from upturn.client import Client
from upturn.wire import OptimizerConfig, PlayPlan, RunConfig, RunRequest, RunView, StepwiseHorizon

SERVER = os.environ.get("UPTURN_SERVER", "http://127.0.0.1:8000")
KEY = os.environ.get("UPTURN_KEY")
STAGES = {
    "SFT": RunConfig(
        algorithm="sft",
        steps=8,
        play=PlayPlan(environment="textcraft", split="train", groups=16, group_size=1, agent="oracle"),
        optimizer=OptimizerConfig(lr=5e-5, warmup_steps=3),
    ),
    "GRPO": RunConfig(
        algorithm="grpo",
        steps=20,
        play=PlayPlan(environment="textcraft", split="train", groups=8, group_size=8),
        schedule=StepwiseHorizon(rounds=[4, 6], every=10),
        optimizer=OptimizerConfig(lr=2e-5),
    ),
}


def follow(client: Client, run: RunView) -> RunView:
    """Print each learner step as it ends; return the run when it has ended."""
    shown = 0
    while run.state in ("queued", "running", "paused"):
        time.sleep(1)
        run = client.run(run.id)
        for step in run.steps[shown:]:
            print(f"  step {step.step + 1}: success {step.metrics.get('success_rate', 0):.1%}, @{step.policy_version}")
        shown = len(run.steps)
    return run


def main() -> None:
    """Train both stages; each starts from the newest version."""
    with Client(SERVER, key=KEY) as client:
        for name, config in STAGES.items():
            run = client.create_run(RunRequest(config=config, trigger="example"))
            print(f"{name}: run {run.id}", flush=True)
            run = follow(client, run)
            print(f"{name}: {run.state}, head @{client.ready().head}", flush=True)
            if run.state != "done":
                return


if __name__ == "__main__":
    main()
