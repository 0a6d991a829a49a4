"""`upturn runs`, `upturn train` and `upturn run ...`: list, start, follow, pause and cancel training runs."""

from __future__ import annotations

import json
import math
import sys
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from upturn.client import Client
from upturn.command.connection import LOCAL, AsJson, Key, Server, connect
from upturn.command.examples import examples
from upturn.command.output import print_json, print_table, time_text
from upturn.command.progress import follow_run, progress_line
from upturn.command.run import OPTIONS, help_unless_command
from upturn.outcome import nothing_to_learn
from upturn.wire import RunConfig, RunRequest, RunStep, RunView

ACTIVE = ("queued", "running", "paused")
"""States of a run that has not ended."""
EXAMPLES = examples("upturn runs", "upturn runs --watch", "upturn runs --json")
TRAIN_EXAMPLES = examples(
    "upturn train --config run.toml",
    "upturn train --set algorithm=grpo --set steps=20 --set play.environment=textcraft --set play.split=train",
)
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="TOML or JSON file of the run's settings (docs/algorithms); default: the server's `schedule.run`.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting, such as `steps=10` or `play.environment=textcraft`; repeatable; overrides the file.",
    ),
]

group = typer.Typer(
    help="Start, show, pause, resume or cancel a training run.",
    context_settings=OPTIONS,
    invoke_without_command=True,
    callback=help_unless_command,
)


def runs(
    watch: Annotated[
        bool, typer.Option("--watch", help="Print each learner step as it ends, until no run is queued or running.")
    ] = False,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the training runs, newest first."""
    with connect(server, key) as client:
        if watch:
            _follow(client)
            return
        found = client.runs().data
    if as_json:
        print_json(found)
        return
    print_table(
        ("run", "state", "algorithm", "steps", "versions", "gate", "created", "trigger"),
        [
            (
                run.id,
                run.state,
                run.config.algorithm,
                _steps(run),
                _versions(run),
                run.gate or "-",
                time_text(run.created_at),
                run.trigger,
            )
            for run in found
        ],
    )


def train(
    config: Config = None, settings: Set = None, server: Server = LOCAL, key: Key = None, as_json: AsJson = False
) -> int:
    """Request a training run and follow it until it has ended: `run start --watch`."""
    return start(config, settings, True, server, key, as_json)


@group.command(
    "start", epilog=examples("upturn run start --config run.toml --watch", "upturn run start --set steps=10 --json")
)
def start(
    config: Config = None,
    settings: Set = None,
    watch: Annotated[bool, typer.Option("--watch", help="Print each learner step as it ends.")] = False,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> int:
    """Request a training run."""
    request = RunRequest(config=read_config(config, settings or []) if config or settings else None)
    with connect(server, key) as client:
        made = client.create_run(request)
        if watch:
            made = _follow_one(client, made)
    _print(made, as_json)
    return 1 if made.state == "failed" else 0


@group.command("show", epilog=examples("upturn run show run_0123", "upturn run show run_0123 --json"))
def show(run_id: str, server: Server = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """Show a run and each of its learner steps."""
    with connect(server, key) as client:
        found = client.run(run_id)
    if as_json:
        print_json(found)
        return
    print(run_line(found))
    for step in found.steps:
        print(step_line(found, step))


@group.command("cancel", epilog=examples("upturn run cancel run_0123"))
def cancel(run_id: str, server: Server = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """Cancel a run; its learner stops at its next request."""
    with connect(server, key) as client:
        _print(client.cancel_run(run_id), as_json)


@group.command("pause", epilog=examples("upturn run pause run_0123"))
def pause(run_id: str, server: Server = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """Pause a run: its learner stops, and its steps are kept."""
    with connect(server, key) as client:
        _print(client.pause_run(run_id), as_json)


@group.command("resume", epilog=examples("upturn run resume run_0123"))
def resume(run_id: str, server: Server = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """Resume a paused run at its step, once no other run is running."""
    with connect(server, key) as client:
        _print(client.resume_run(run_id), as_json)


def _print(run: RunView, as_json: bool) -> None:
    if as_json:
        print_json(run)
    else:
        print(run_line(run))


def read_config(file: Path | None, settings: Sequence[str] = ()) -> RunConfig:
    """Read a run's settings from a TOML or JSON file, and from `NAME=VALUE`, which override it.

    Raises:
        typer.BadParameter: the file is not valid TOML or JSON, or a setting is unknown or wrong.
    """
    try:
        data: dict[str, Any] = {}
        if file is not None:
            text = file.read_text()
            data = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
        for setting in settings:
            _set(data, setting)
        return RunConfig.model_validate_json(json.dumps(data))
    except ValidationError as error:
        wrong = "; ".join(_mistake(detail["type"], detail["loc"], detail["msg"]) for detail in error.errors())
        raise typer.BadParameter(f"{file or '--set'}: {wrong}") from error
    except (ValueError, TypeError, OSError) as error:
        raise typer.BadParameter(f"{file or '--set'}: {error}") from error


def _set(data: dict[str, Any], setting: str) -> None:
    """Put `NAME=VALUE` into the settings; a value that TOML does not read is text.

    Raises:
        ValueError: there is no `=`, or a part of the name already has a value of its own.
    """
    name, equals, text = setting.partition("=")
    if not equals or not name:
        raise ValueError(f"{setting!r} is not NAME=VALUE")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = name.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ValueError(f"{section} is not a section in {setting!r}")
    data[last] = value


def _mistake(kind: str, place: tuple[int | str, ...], message: str) -> str:
    """Describe the error in a setting, with a suggestion for an unknown setting."""
    name = ".".join(map(str, place))
    if kind != "extra_forbidden":
        return f"{name}: {message}"
    close = get_close_matches(name, RunConfig.model_fields, n=1)
    return f"{name}: no such setting" + (f"; did you mean {close[0]}?" if close else "")


def run_line(run: RunView) -> str:
    """Return a run's state in one line."""
    reason = f": {run.reason}" if run.reason else ""
    return f"run {run.id} {run.state}, {run.config.algorithm}, step {run.step} of {run.config.steps}{reason}"


def step_line(run: RunView, step: RunStep) -> str:
    """Return the results of a learner step in one line."""
    why = nothing_to_learn(step.metrics)
    version = f"nothing to learn: {why}" if why else "no version"
    if step.policy_version is not None:
        version = f"@{step.policy_version}"
    shown = (("success", "success_rate", ".1%"), ("reward", "mean_reward", ".3f"), ("loss", "loss", ".4f"))
    figures = [
        f"{word} {step.metrics[name]:{form}}"
        for word, name, form in shown
        if math.isfinite(step.metrics.get(name, math.nan))
    ]
    return "  ".join([f"  step {step.step + 1}/{run.config.steps}", f"horizon {step.horizon}", *figures, version])


def _steps(run: RunView) -> str:
    idle = "" if run.trained_steps in (None, run.step) else f", {run.trained_steps} trained"
    return f"{run.step}/{run.config.steps}{idle}"


def _versions(run: RunView) -> str:
    if run.last_version is None:
        return "-"
    return f"@{run.first_version} to @{run.last_version}"


def _follow(client: Client) -> None:
    """Follow every run in turn until none is queued or running."""
    while waiting := [run for run in reversed(client.runs().data) if run.state in ("queued", "running")]:
        running = [run for run in waiting if run.state == "running"]
        print(run_line(_follow_one(client, (running or waiting)[0])), flush=True)
    print("no run is queued or running", flush=True)


def _follow_one(client: Client, run: RunView) -> RunView:
    """Print a run's steps as they end, on stderr; return the run when it is no longer queued or running."""
    line = progress_line(sys.stderr)
    line.say(run_line(run))
    return follow_run(client, run.id, line, step_line)
