"""`upturn play`: let the server play an environment with a policy, and show the success rate."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from upturn.command.connection import LOCAL, AsJson, Key, Server, connect
from upturn.command.examples import examples
from upturn.command.output import print_json, print_table, share_text
from upturn.command.progress import play_text, progress_line
from upturn.wire import PlayRequest, PlayView, Sampling

EXAMPLES = examples(
    "upturn play textcraft --split test --limit 25",
    "upturn play textcraft --policy policy@head --group-size 4 --json",
    "upturn play babyai --agent oracle",
)


class Agent(StrEnum):
    """Who chooses the actions."""

    policy = "policy"
    oracle = "oracle"
    random = "random"


def play(
    environment: Annotated[str, typer.Argument(metavar="ENV", help="Environment, such as `textcraft`.")],
    split: Annotated[str, typer.Option(help="Split of its tasks.")] = "test",
    task: Annotated[list[str] | None, typer.Option(help="A task by name; may be repeated; replaces --split.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of tasks.")] = 10,
    group_size: Annotated[int, typer.Option(min=1, help="Episodes per task.")] = 1,
    horizon: Annotated[int, typer.Option(min=1, help="Maximum number of turns per episode.")] = 10,
    policy: Annotated[str | None, typer.Option(help="Such as `policy@3` or `policy@head`; default: champion.")] = None,
    agent: Annotated[Agent, typer.Option(help="Who chooses the actions; `oracle` is the environment's solver.")] = (
        Agent.policy
    ),
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the environments and of sampling.")] = 0,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> int:
    """Play tasks of an environment on the server. The episodes are recorded but not trained on."""
    with connect(server, key) as client:
        tasks = task or client.tasks(environment, split).tasks[:limit]
        if not tasks:
            raise typer.BadParameter(f"{environment} has no tasks in the split {split!r}")
        request = PlayRequest(
            environment=environment,
            tasks=tasks,
            group_size=group_size,
            horizon=horizon,
            policy=policy,
            agent=agent.value,
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens),
            trainable=False,
            seed=seed,
        )
        line = progress_line(sys.stderr)
        try:
            started = client.start_play(request)
            view = client.wait_for_play(started.id, on_progress=lambda view: line.show(play_text(view)))
        finally:
            line.end()
    if as_json:
        print_json(view)
    else:
        _print_results(view)
    return 0 if view.state == "done" else 1


def _print_results(view: PlayView) -> None:
    print_table(
        ("episode", "task", "status", "turns", "reward", "success"),
        [
            (e.episode_id, e.task, e.status, str(e.turns), "-" if e.reward is None else f"{e.reward:g}", str(e.success))
            for e in view.results
        ],
    )
    error = f": {view.error}" if view.error else ""
    reward = "-" if view.mean_reward is None else f"{view.mean_reward:.3f}"
    print(
        f"{view.state}{error}: {view.finished} of {view.episodes} episodes, {view.errors} failed; "
        f"success {share_text(view.success_rate)}, mean reward {reward}, {view.wall_s:.1f} s"
    )
