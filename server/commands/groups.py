"""Groups of commands: API keys and policy versions."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from server.commands.running import Config, DatabaseUrl, DataDir, run_command
from upturn.command.examples import examples
from upturn.command.run import OPTIONS

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
keys = typer.Typer(help="Create, list and revoke API keys. A running server notices.", context_settings=OPTIONS)
policies = typer.Typer(help="Export policy versions.", context_settings=OPTIONS)


class KeyScope(StrEnum):
    """What a key may do."""

    agent = "agent"
    reward = "reward"
    learner = "learner"
    metrics = "metrics"
    admin = "admin"


@keys.command(
    "create",
    epilog=examples(
        "upturn keys create --name shop --scope agent --scope reward",
        "upturn keys create --name grader --scope reward --reward-source judge --json",
    ),
)
def create_key(
    name: Annotated[str, typer.Option(help="Owner of the key; for people only.")],
    scope: Annotated[list[KeyScope], typer.Option(help="What it may do; may be repeated.")],
    reward_source: Annotated[
        list[str] | None, typer.Option(help="Name under which it may reward; may be repeated. Default: any.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(metavar="N", help="Default: no limit.")] = None,
    max_concurrent: Annotated[
        int | None, typer.Option(metavar="N", help="Requests at the same time; default: no limit.")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> int:
    """Create a key and print it; it is shown only this once."""
    return run_command(
        "keys",
        {"config": config, "data-dir": data_dir, "database-url": database_url},
        create=True,
        name=name,
        scopes=[one.value for one in scope],
        reward_sources=reward_source,
        requests_per_minute=requests_per_minute,
        max_concurrent=max_concurrent,
        as_json=as_json,
    )


@keys.command("list", epilog=examples("upturn keys list", "upturn keys list --json --data-dir data"))
def list_keys(
    config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None, as_json: AsJson = False
) -> int:
    """List all keys, newest first."""
    databases = {"config": config, "data-dir": data_dir, "database-url": database_url}
    return run_command("keys", databases, as_json=as_json)


@keys.command("revoke", epilog=examples("upturn keys revoke key_0123"))
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as shown by `list`.")],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Revoke a key at once."""
    databases = {"config": config, "data-dir": data_dir, "database-url": database_url}
    return run_command("keys", databases, revoke=key_id)


@policies.command(
    "export",
    epilog=examples(
        "upturn policies export champion ./champion",
        "upturn policies export 12 ./adapter --adapter --base Qwen/Qwen3-0.6B",
    ),
)
def export_policy(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="`champion`, `head`, or a number.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to create.")],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Write the adapter alone instead of adding it to the base's weights.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the base model in the card; default: its name on the hub."),
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> int:
    """Write a version as a model that transformers, peft and vLLM load, with tokenizer and model card.

    The server may be running.
    """
    return run_command(
        "policies",
        {"config": config, "data-dir": data_dir, "database-url": database_url},
        version=version,
        directory=directory,
        adapter=adapter,
        base=base,
        as_json=as_json,
    )
