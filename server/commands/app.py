"""The server's commands: names, options and help. A command's module is imported only when the command runs.

`python -m server` runs them, and so does `upturn`, which finds them as an entry point of the group `upturn.commands`.
"""

from __future__ import annotations

import datetime
import sys
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from server.commands.settings_command import FORWARD, DoctorCommand, SettingsCommand, complete_topic, show_topic
from upturn import logs
from upturn.command.failure import report
from upturn.command.run import OPTIONS, help_unless_command

PANEL = "Server"

app = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False, context_settings=OPTIONS)
keys = typer.Typer(help="Create, list and revoke API keys. A running server notices.", context_settings=OPTIONS)
app.add_typer(keys, name="keys", rich_help_panel=PANEL, invoke_without_command=True, callback=help_unless_command)

Config = Annotated[str | None, typer.Option("--config", metavar="FILE", help="TOML file of settings.")]
DataDir = Annotated[str | None, typer.Option("--data-dir", metavar="DIR", help="Data directory of the server.")]
DatabaseUrl = Annotated[str | None, typer.Option("--database-url", metavar="URL", help="SQLAlchemy URL.")]
Topic = Annotated[
    str | None,
    typer.Option(
        "--help-topic",
        metavar="TOPIC",
        is_eager=True,
        callback=show_topic,
        autocompletion=complete_topic,
        help="Show the settings of one topic, or of `all`, and exit.",
    ),
]


def moment(text: str) -> float:
    """Read a date, a date with time, or Unix seconds; return Unix seconds.

    Raises:
        ValueError: the text is neither.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        read = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a date nor Unix seconds") from None
    return (read if read.tzinfo else read.replace(tzinfo=datetime.UTC)).timestamp()


class KeyScope(StrEnum):
    """What a key may do."""

    agent = "agent"
    reward = "reward"
    learner = "learner"
    metrics = "metrics"
    admin = "admin"


class Form(StrEnum):
    """Formats of exported episodes."""

    jsonl = "jsonl"
    parquet = "parquet"


class Status(StrEnum):
    """States of an episode."""

    open = "open"
    terminated = "terminated"
    truncated = "truncated"
    closed = "closed"
    error = "error"


FileFormat = Annotated[Form | None, typer.Option("--format", help="Default: by the file's ending.")]


@app.command(cls=SettingsCommand, context_settings=FORWARD, rich_help_panel=PANEL)
def serve(context: typer.Context, config: Config = None, help_topic: Topic = None) -> int:
    """Start the server; it migrates the database first.

    Settings come from a TOML file, the environment (`UPTURN_...`) and flags; the later source wins.
    """
    return _run("serve", {"config": config}, context.args)


@app.command(rich_help_panel=PANEL)
def migrate(config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> int:
    """Bring the database to the newest revision and stop. Serving does so too."""
    return _run("migrate", {"config": config, "data-dir": data_dir, "database-url": database_url})


@keys.command("create")
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
) -> int:
    """Create a key and print it; it is shown only this once."""
    return _run(
        "keys",
        {"config": config, "data-dir": data_dir, "database-url": database_url},
        create=True,
        name=name,
        scopes=[one.value for one in scope],
        reward_sources=reward_source,
        requests_per_minute=requests_per_minute,
        max_concurrent=max_concurrent,
    )


@keys.command("list")
def list_keys(config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> int:
    """List all keys, newest first."""
    return _run("keys", {"config": config, "data-dir": data_dir, "database-url": database_url})


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as shown by `list`.")],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Revoke a key at once."""
    databases = {"config": config, "data-dir": data_dir, "database-url": database_url}
    return _run("keys", databases, revoke=key_id)


@app.command(rich_help_panel=PANEL)
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; an existing file is replaced.")],
    since: Annotated[
        float | None,
        typer.Option(
            metavar="WHEN",
            parser=moment,
            help="Opened at or after: a date, a date with time (UTC by default), or Unix time.",
        ),
    ] = None,
    until: Annotated[float | None, typer.Option(metavar="WHEN", parser=moment, help="Opened before this time.")] = None,
    environment: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="In this environment; may be repeated.")
    ] = None,
    status: Annotated[list[Status] | None, typer.Option(help="With this status; may be repeated.")] = None,
    min_reward: Annotated[float | None, typer.Option(metavar="R", help="With at least this total reward.")] = None,
    trainable: Annotated[bool, typer.Option("--trainable", help="Trainable episodes only.")] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Maximum number of episodes, oldest first.")] = None,
    file_format: FileFormat = None,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Write episodes to a file: one line (JSONL) or row (Parquet) each. docs/data.md lists the fields."""
    return _run(
        "export",
        {"config": config, "data-dir": data_dir, "database-url": database_url},
        file=file,
        since=since,
        until=until,
        environments=environment or [],
        statuses=[one.value for one in status or []],
        min_reward=min_reward,
        trainable=trainable,
        limit=limit,
        file_format=file_format and file_format.value,
    )


@app.command("import", rich_help_panel=PANEL)
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File that `export` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace episodes that exist already, except open ones.")
    ] = False,
    file_format: FileFormat = None,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Import exported episodes with their ids; existing ones are skipped. The server may be running."""
    return _run(
        "import_",
        {"config": config, "data-dir": data_dir, "database-url": database_url},
        file=file,
        file_format=file_format and file_format.value,
        replace=replace,
    )


@app.command(rich_help_panel=PANEL)
def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to create.")],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Copy database, weights and learner checkpoints into a new directory. The server may be running."""
    databases = {"config": config, "data-dir": data_dir, "database-url": database_url}
    return _run("backup", databases, directory=directory)


@app.command(rich_help_panel=PANEL)
def restore(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory that `backup` wrote.")],
    base: Annotated[
        Path | None, typer.Option("--base", metavar="DIR", help="Where the base model is, if it has moved.")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Verify a backup and put it into an empty database and data directory, of any path and kind."""
    databases = {"config": config, "data-dir": data_dir, "database-url": database_url}
    return _run("restore", databases, directory=directory, base=base and base.absolute())


@app.command(cls=DoctorCommand, context_settings=FORWARD, rich_help_panel=PANEL, options_metavar="[MODEL] [OPTIONS]")
def doctor(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Skip the engine checks; takes seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
    config: Config = None,
    help_topic: Topic = None,
) -> int:
    """Check a model before anyone trains it.

    Checks the model's files, chat template and tokenizer; that the engine's logprobs match the learner's; that weights
    can be swapped in and out; and the database's schema. MODEL comes first: a directory or a name, like the setting
    `model`, which is its default. The model is loaded in float32 in addition to the engine; modified copies of it are
    kept in the data directory during the checks. All settings of `serve` are accepted.
    """
    return _run("doctor", {"config": config}, context.args, quick=quick, as_json=as_json)


@app.command("settings", rich_help_panel=PANEL)
def print_settings() -> int:
    """Print every setting as Markdown: the page docs/settings.md."""
    from server.configuration.page import page
    from server.settings import Settings

    print(page(Settings), end="")
    return 0


def _run(command: str, named: dict[str, str | None], flags: list[str] | None = None, **options: Any) -> int:
    """Load the settings and run a command's module.

    Args:
        command: a module of this package, with `run(settings, ...) -> exit code`.
        named: settings by flag; None values are left out.
        flags: further settings, as on the command line.
        options: further arguments of `run`.

    Returns:
        The exit code: 2 if the settings are invalid, 1 if another server or a newer version owns the database.
    """
    from pydantic import ValidationError

    from server.commands.failures import explain as explain_failure
    from server.configuration.errors import explain
    from server.section import SettingsError
    from server.settings import Settings

    logs.configure()
    arguments = [f"--{name}={value}" for name, value in named.items() if value is not None]
    try:
        settings = Settings.load([*arguments, *(flags or [])])
    except ValidationError as error:
        return _wrong_settings(explain(error, Settings))
    except SettingsError as error:
        return _wrong_settings([str(error)])
    logs.configure(settings.log_level, settings.log_format)
    try:
        return int(import_module(f"server.commands.{command}").run(settings, **options))
    except SettingsError as error:
        return _wrong_settings([str(error)])
    except Exception as error:
        return report(error, command.rstrip("_"), lambda e: explain_failure(e, settings), settings.data_dir / "logs")


def _wrong_settings(lines: list[str]) -> int:
    for line in lines:
        print(f"settings: {line}", file=sys.stderr)
    return 2
