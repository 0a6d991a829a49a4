"""`upturn eval` measures a policy or an endpoint on tasks; `upturn leaderboard` compares what was measured."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

from upturn.client import Client
from upturn.command.connection import LOCAL, AsJson, Key, Server, connect
from upturn.command.examples import examples
from upturn.command.output import print_json, print_table, share_text
from upturn.command.progress import ProgressLine, play_text, progress_line
from upturn.endpoint import Endpoint, EndpointError
from upturn.measuring import play_entry
from upturn.wire import LeaderboardEntry, LeaderboardRequest, Price, Sampling, Share

POLL_S = 1.0
EXAMPLES = examples(
    "upturn eval --model policy@champion --environment textcraft",
    "upturn eval --model https://models.example/v1 --name large-model --environment textcraft --price 1.25,10",
)
BOARD_EXAMPLES = examples("upturn leaderboard", "upturn leaderboard --environment textcraft --json")


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(metavar="POLICY|URL", help="A policy such as `policy@3`, or the base URL of an OpenAI-style API."),
    ] = None,
    environment: Annotated[str | None, typer.Option(metavar="ENV", help="Environment, such as `textcraft`.")] = None,
    name: Annotated[str | None, typer.Option(help="The endpoint's name of the model.")] = None,
    split: Annotated[str, typer.Option(help="Split of the environment's tasks.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of tasks; default: all.")] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Episodes per task.")] = 1,
    horizon: Annotated[int, typer.Option(min=1, help="Maximum number of turns per episode.")] = 20,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 takes the likeliest token.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the environments and of sampling.")] = 0,
    tools: Annotated[bool, typer.Option("--tools", help="Offer the environment's actions as tools.")] = False,
    at_once: Annotated[int | None, typer.Option(min=1, help="Maximum number of episodes at once.")] = None,
    label: Annotated[str | None, typer.Option(help="Name of the row; default: the model.")] = None,
    key_variable: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable with the endpoint's API key.")
    ] = "OPENAI_API_KEY",
    price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="US dollars per million prompt and completion tokens.")
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="ENTRY", help="Continue an interrupted entry.")] = None,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> int:
    """Measure a model on an environment's tasks, and put it on the leaderboard.

    The server plays its own policies. For any other model this program asks the endpoint, and the server's environments
    act and judge. Nothing is trained on.
    """
    with connect(server, key) as client:
        if resume is None:
            if model is None or environment is None:
                raise typer.BadParameter("--model and --environment are needed, or --resume")
            external = model.startswith(("http://", "https://"))
            if external and name is None:
                raise typer.BadParameter("an endpoint needs --name, its name of the model")
            tasks = client.tasks(environment, split).tasks[:limit]
            if not tasks:
                raise typer.BadParameter(f"{environment} has no tasks in the split {split!r}")
            policy = None if external else _version(client, model)
            request = LeaderboardRequest(
                label=label or policy or name or model,
                policy=policy,
                endpoint=model if external else None,
                model=name if external else None,
                environment=environment,
                split=split,
                tasks=tasks,
                repetitions=repetitions,
                horizon=horizon,
                tools=tools,
                sampling=Sampling(temperature=temperature, max_tokens=max_tokens),
                seed=seed,
                at_once=at_once,
                price=_price(price),
            )
            entry = client.add_to_leaderboard(request)
        else:
            entry = client.leaderboard_entry(resume)
        line = progress_line(sys.stderr)
        try:
            entry = _measure(client, entry, line, os.environ.get(key_variable))
        except (KeyboardInterrupt, EndpointError):
            line.end()
            if entry.play_id is None:
                print(f"continue it: upturn eval --resume {entry.id}", file=sys.stderr)
            else:
                print(f"the server continues; see: upturn eval --resume {entry.id}", file=sys.stderr)
            raise
        line.end()
    if as_json:
        print_json(entry)
    else:
        _print([entry])
        _print_families(entry)
    return 0 if entry.state == "done" else 1


def leaderboard(
    environment: Annotated[str | None, typer.Option(metavar="ENV", help="Only this environment.")] = None,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> int:
    """Show the measured models, the best of each environment first."""
    with connect(server, key) as client:
        view = client.leaderboard(environment)
    if as_json:
        print_json(view)
    else:
        _print(sorted(view.data, key=lambda e: (e.request.environment, -(e.figures.success or _NONE).success)))
    return 0


_NONE = Share(tasks=0, episodes=0, success=-1.0, low=0.0, high=0.0)


def _version(client: Client, policy: str) -> str:
    """Return a policy with its version's number, so that a promotion in the meantime changes nothing."""
    view = client.ready()
    name, _, version = policy.partition("@")
    number = {"": view.champion, "champion": view.champion, "head": view.head}.get(version)
    return policy if number is None or name != view.name else f"{name}@{number}"


def _measure(client: Client, entry: LeaderboardEntry, line: ProgressLine, key: str | None) -> LeaderboardEntry:
    request = entry.request
    if entry.play_id is not None:
        while entry.state == "running":
            line.show(play_text(client.play(entry.play_id)))
            time.sleep(POLL_S)
            entry = client.leaderboard_entry(entry.id)
        return entry
    if entry.state != "running" or request.endpoint is None or request.model is None:
        return entry
    offered = next((e.tools for e in client.environments().data if e.name == request.environment), [])
    with Endpoint(
        request.endpoint,
        request.model,
        key=key,
        tools=offered if request.tools else None,
        sampling=request.sampling,
        seed=request.seed,
    ) as endpoint:
        return play_entry(client, entry, endpoint, lambda done, of: line.show(f"{done}/{of} episodes"))


def _price(text: str | None) -> Price | None:
    if text is None:
        return None
    try:
        prompt, completion = map(float, text.split(","))
        return Price(prompt=prompt, completion=completion)
    except ValueError as error:
        raise typer.BadParameter("--price is two numbers such as 1.25,10") from error


def _interval(share: Share | None) -> str:
    return "-" if share is None else f"{share_text(share.success)} [{share_text(share.low)}, {share_text(share.high)}]"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _print(entries: list[LeaderboardEntry]) -> None:
    print_table(
        ("id", "model", "environment", "state", "success (95 %)", "reward", "turns", "episodes", "tokens", "cost"),
        [
            (
                entry.id,
                entry.request.label,
                entry.request.environment + (f"/{entry.request.split}" if entry.request.split else ""),
                entry.state if entry.error is None else f"{entry.state}: {entry.error}",
                _interval(entry.figures.success),
                _number(entry.figures.mean_reward, ".3f"),
                _number(entry.figures.mean_turns, ".1f"),
                f"{entry.figures.finished}/{entry.figures.expected}"
                + (f" ({entry.figures.errors} failed)" if entry.figures.errors else ""),
                _number(entry.tokens, ","),
                _number(entry.cost_usd, ".2f"),
            )
            for entry in entries
        ],
    )


def _print_families(entry: LeaderboardEntry) -> None:
    if entry.figures.families:
        print()
        print_table(
            ("family", "tasks", "success (95 %)"),
            [(name, str(share.tasks), _interval(share)) for name, share in entry.figures.families.items()],
        )
