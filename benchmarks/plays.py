"""Episodes/s of plays with KV blocks of 32 and of 128 tokens: two servers, the same plays in alternation.

.venv/bin/python benchmarks/plays.py [--quick] [--model NAME]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from clients.demo import plan
from clients.demo.machine import machine
from clients.demo.server_process import ServerProcess, free_port
from upturn.client import Client
from upturn.wire import PlayRequest, Sampling


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="16 episodes, once")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="model that plays")
    arguments = parser.parse_args()
    tasks, repeats = (2, 1) if arguments.quick else (8, 3)
    common = [
        "--model",
        arguments.model,
        "--models-dir",
        str(Path("data/models").absolute()),
        "--engine.kind",
        "vllm",
        "--weights",
        "full",
        "--engine.context-tokens",
        "1024",
        "--engine.extra-args",
    ]
    rates: dict[str, list[float]] = {"32": [], "128": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder, "a"), free_port(), [*common, '["--block-size","32"]'], _quiet) as small,
        ServerProcess(Path(folder, "b"), free_port(), [*common, '["--block-size","128"]'], _quiet) as large,
        Client(small.url) as one,
        Client(large.url) as other,
    ):
        goals = plan.of_depths(one.tasks(plan.ENVIRONMENT, "train").tasks)[:tasks]
        for seed in range(repeats + 1):
            for name, client in (("32", one), ("128", other)):
                request = PlayRequest(
                    environment=plan.ENVIRONMENT,
                    tasks=goals,
                    group_size=8,
                    horizon=4,
                    seed=seed,
                    sampling=Sampling(max_tokens=12),
                )
                view = client.wait_for_play(client.start_play(request).id)
                if seed:  # The first round is the warm-up.
                    rates[name].append(view.finished / view.wall_s)
    print(f"{machine()}; {8 * tasks} concurrent episodes, horizon 4, 12 tokens per answer, {arguments.model}")
    for name, measured in rates.items():
        print(f"KV blocks of {name:>3} tokens: {statistics.median(measured):6.2f} episodes/s")
    ratio = statistics.median(a / b for a, b in zip(rates["32"], rates["128"], strict=True))
    print(f"blocks of 32 are {ratio:.2f} times as fast")
    print(json.dumps({"machine": machine(), "episodes_per_s": rates, "ratio": ratio}))


def _quiet(_waited: float, _doing: str) -> None:
    pass


if __name__ == "__main__":
    main()
