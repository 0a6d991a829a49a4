"""The server's commands: names, options and help. A command's module is imported only when the command runs.

`python -m server` runs them, and so does `upturn`, which finds them as an entry point of the group `upturn.commands`.
"""

from __future__ import annotations

import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from server.commands.groups import keys, policies
from server.commands.running import Config, DatabaseUrl, DataDir, run_command
from server.commands.settings_command import FORWARD, DoctorCommand, SettingsCommand, complete_topic, show_topic
from upturn.command.examples import examples
from upturn.command.run import OPTIONS, help_unless_command

PANEL = "Server"

app = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False, context_settings=OPTIONS)
app.add_typer(keys, name="keys", rich_help_panel=PANEL, invoke_without_command=True, callback=help_unless_command)
app.add_typer(
    policies, name="policies", rich_help_panel=PANEL, invoke_without_command=True, callback=help_unless_command
)

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


@app.command(
    cls=SettingsCommand,
    context_settings=FORWARD,
    rich_help_panel=PANEL,
    epilog=examples(
        "upturn serve", "upturn serve --config upturn.toml --port 8001", "upturn serve --help-topic engine"
    ),
)
def serve(context: typer.Context, config: Config = None, help_topic: Topic = None) -> int:
    """Start the server; it migrates the database first.

    Settings come from a TOML file, the environment (`UPTURN_...`) and flags; the later source wins.
    """
    return run_command("serve", {"config": config}, context.args)


@app.command(rich_help_panel=PANEL, epilog=examples("upturn migrate --data-dir data"))
def migrate(config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> int:
    """Bring the database to the newest revision and stop. Serving does so too."""
    return run_command("migrate", {"config": config, "data-dir": data_dir, "database-url": database_url})


@app.command(
    rich_help_panel=PANEL,
    epilog=examples(
        "upturn export episodes.jsonl", "upturn export good.parquet --since 2026-01-31 --min-reward 0.5 --trainable"
    ),
)
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
    return run_command(
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


@app.command("import", rich_help_panel=PANEL, epilog=examples("upturn import episodes.jsonl --data-dir elsewhere"))
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
    return run_command(
        "import_",
        {"config": config, "data-dir": data_dir, "database-url": database_url},
        file=file,
        file_format=file_format and file_format.value,
        replace=replace,
    )


@app.command(rich_help_panel=PANEL, epilog=examples("upturn backup /backups/monday --data-dir data"))
def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to create.")],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Copy database, weights and learner checkpoints into a new directory. The server may be running."""
    databases = {"config": config, "data-dir": data_dir, "database-url": database_url}
    return run_command("backup", databases, directory=directory)


@app.command(rich_help_panel=PANEL, epilog=examples("upturn restore /backups/monday --data-dir new-data"))
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
    return run_command("restore", databases, directory=directory, base=base and base.absolute())


@app.command(
    cls=DoctorCommand,
    context_settings=FORWARD,
    rich_help_panel=PANEL,
    options_metavar="[MODEL] [OPTIONS]",
    epilog=examples("upturn doctor smollm2-135m-instruct --quick", "upturn doctor ./model --json"),
)
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
    return run_command("doctor", {"config": config}, context.args, quick=quick, as_json=as_json)


@app.command("settings", rich_help_panel=PANEL, epilog=examples("upturn settings"))
def print_settings() -> int:
    """Print every setting as Markdown: the page docs/settings.md."""
    from server.configuration.page import page
    from server.settings import Settings

    print(page(Settings), end="")
    return 0
