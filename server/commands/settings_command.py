"""A Typer command that takes every setting as a flag without parsing any.

`Settings.load` parses them, so that flags, variables and the file follow one rule. This module adds what Typer then
lacks: completion of the flags and their values, and help by topic.
"""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from server.configuration.flags import Flag

FORWARD = {"ignore_unknown_options": True, "allow_extra_args": True}
"""Context settings that leave the flags in `context.args`."""
_HELP = "upturn.help"


class SettingsCommand(TyperCommand):
    """Completes every setting, and lists the top-level settings in its help."""

    lists_settings = True

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the command's own parameters, and the flags when they are completed or listed."""
        own = super().get_params(ctx)
        if ctx.resilient_parsing:
            return [*own, *_options(_flags())]
        if self.lists_settings and ctx.meta.get(_HELP):
            return [*own, *_options(flag for flag in _flags() if not flag.topic)]
        return own

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with the topics at its end."""
        ctx.meta[_HELP] = True
        own = self.epilog
        topics = f"Settings by topic, with `--help-topic TOPIC`: {', '.join(_topics())}."
        self.epilog = "\n\n".join(filter(None, (topics, own)))
        try:
            super().format_help(ctx, formatter)
        finally:
            self.epilog = own


class DoctorCommand(SettingsCommand):
    """Takes a model as its first argument, short for the setting `model`."""

    lists_settings = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Turn a leading MODEL into a flag."""
        if args and not args[0].startswith("-"):
            args = [f"--model={args[0]}", *args[1:]]
        return super().parse_args(ctx, args)


def show_topic(topic: str | None) -> None:
    """Print the settings of a topic and exit if `--help-topic` names one.

    Raises:
        typer.BadParameter: there is no such topic.
    """
    if topic is None:
        return
    topics = _topics()
    if topic not in topics:
        from server.configuration.flags import suggestion

        raise typer.BadParameter(f"no topic {topic!r}{suggestion(topic, topics)}; topics: {', '.join(topics)}")
    width = min(shutil.get_terminal_size().columns, 120)
    for flag in _flags():
        if topic in (flag.topic, "all"):
            name = flag.name if flag.values else f"{flag.name} / --no-{flag.name[2:]}"
            print(f"{name} {flag.values}".rstrip() + ("" if _is_none(flag) else f"  (default: {flag.default})"))
            if flag.help:
                print(textwrap.fill(flag.help, width, initial_indent="    ", subsequent_indent="    "))
    raise typer.Exit


def complete_topic(incomplete: str) -> list[str]:
    """Return the topics that begin with the given text."""
    return [topic for topic in _topics() if topic.startswith(incomplete)]


def _flags() -> tuple[Flag, ...]:
    """Import the settings only here: a command line that needs none starts faster."""
    from server.configuration.flags import flags_of
    from server.settings import Settings

    return flags_of(Settings)


def _topics() -> list[str]:
    """Return the sections that have flags, in the order of the settings, and `all`."""
    return [*dict.fromkeys(flag.topic for flag in _flags() if flag.topic), "all"]


def _options(flags: Iterable[Flag]) -> list[Any]:
    """Return Typer's options for flags, by declaring a function with one parameter per flag."""

    def command(**_: str | None) -> None: ...

    parameters = [
        inspect.Parameter(
            f"setting_{number}",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                list[str] | None if flag.values else bool | None,
                typer.Option(
                    *([flag.name] if flag.values else [f"{flag.name}/--no-{flag.name[2:]}"]),
                    help=flag.help + ("" if _is_none(flag) else f" [default: {flag.default}]"),
                    metavar=flag.values.upper() if not flag.choices else "|".join(flag.choices),
                    show_default=False,
                    rich_help_panel="Settings",
                    autocompletion=_complete(flag.choices),
                ),
            ],
        )
        for number, flag in enumerate(flags)
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(command)
    names = {parameter.name for parameter in parameters}
    return [option for option in typer.main.get_command(app).params if option.name in names]


def _is_none(flag: Flag) -> bool:
    """Whether the help already states the default."""
    return flag.default in ("", "None")


def _complete(choices: list[str]) -> Any:
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]
