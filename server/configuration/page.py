"""Writes the page docs/settings.md from the settings' docstrings: `python -m server settings > docs/settings.md`."""

from __future__ import annotations

from pydantic_settings import BaseSettings

from server.configuration.flags import Flag, flags_of

INTRODUCTION = """\
# Settings

<!-- Written by `python -m server settings`; edit the docstrings in the code instead. -->

These are the settings of `python -m server serve`. A TOML file (`--config FILE`) is overridden by the environment, and
the environment by flags. The three forms of a setting:

```toml
[engine]
kind = "local"
```

`UPTURN_ENGINE__KIND=local`, and `--engine.kind local`. A list or table is JSON in a variable or flag. An unknown key,
variable or flag is refused with a suggestion. `python -m server serve --help-topic engine` shows the settings of one
section. Commands that need only the database take `--config`, `--data-dir` and `--database-url`.

See also `keys.md`, `scaling.md` (several GPUs), `environments.md`, `schedule.md`, `promotion.md` (gate, watch, canary,
shadow, versions) and `rewards.md`.
"""
HEADER = "| setting | values | default | what it does |\n|---|---|---|---|\n"


def page(settings: type[BaseSettings]) -> str:
    """Return the whole page; a run's own settings are explained in docs/algorithms and get one row."""
    sections: dict[str, list[str]] = {}
    for flag in flags_of(settings):
        if flag.topic != "schedule.run":
            sections.setdefault(flag.topic, []).append(_row(flag))
    parts = [INTRODUCTION]
    for topic, rows in sections.items():
        if topic == "schedule":
            described = settings.model_fields["schedule"].annotation.model_fields["run"].description  # type: ignore[union-attr]
            rows.append(f"| `schedule.run` | table | none | {described} Its fields: `algorithms/`. |\n")
        title = f"## {topic}\n\n{_introduction(settings, topic)}\n\n" if topic else ""
        parts.append(f"{title}{HEADER}{''.join(rows)}")
    return "\n".join(parts)


def _introduction(settings: type[BaseSettings], topic: str) -> str:
    """Return the docstring of a section."""
    section = settings.model_fields[topic].annotation
    return " ".join((section.__doc__ or "").split())


def _row(flag: Flag) -> str:
    values = " ".join(flag.choices) or flag.values.replace("|", "\\|").replace("SecretStr", "str") or "bool"
    default = "none" if flag.default == "None" else flag.default
    return f"| `{flag.path}` | {values} | {default} | {flag.help.replace('|', chr(92) + '|')} |\n"
