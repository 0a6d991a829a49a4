"""Settings of environments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from server.section import Section, VariableName


class EnvironmentSettings(Section):
    """Environments beyond the built-in ones, where environments run, and how many may be open."""

    modules: list[str] = []
    """Modules of your own environments, each with `make_spec()`, such as `games.guess`."""
    remote: dict[str, str] = {}
    """Remote environments by URL, under their local names, such as `{"shop": "openenv@http://10.0.0.7:8000"}`, and
    environments over files of your own: `search@CORPUS,QUESTIONS`, `prompts@FILE`."""
    workers: int | None = Field(default=None, ge=0)
    """Host processes on this machine, for environments that are heavy or may hang; default: one per two cores."""
    env: list[VariableName] = []
    """Environment variables of the server that host processes get in addition to a fixed list without secrets, such as
    `GAME_*`. A variable whose name ends like a secret's (`_KEY`, `TOKEN`) must be named in full."""
    hosts: list[Annotated[str, Field(pattern=r"^\S+:[0-9]{1,5}$")]] = []
    """Hosts on other machines (`python -m env_adapters serve`), such as `10.0.0.8:8200`."""
    token_file: Path | None = None
    """File with the secret that these hosts require."""
    capacity: int = Field(default=256, ge=1)
    """Maximum number of open environment episodes; further ones are refused with 429."""
    capacity_of: dict[str, int] = {}
    """Capacity per environment, such as `{"miniwob": 16}`."""
    lease_s: float = Field(default=900.0, gt=0)
    """Seconds without a turn or step after which an episode is closed; the episodes of plays are exempt."""
