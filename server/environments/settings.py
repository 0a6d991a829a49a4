"""Settings of environments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from server.section import Section


class EnvironmentSettings(Section):
    """Environments: what there is beside the built-in ones, where they run, and how many at once."""

    modules: list[str] = []
    """Environments of your own: modules with `make_spec()`, such as `games.guess`."""
    remote: dict[str, str] = {}
    """Environments that run elsewhere, by the name they get here, such as `{"shop": "openenv@http://10.0.0.7:8000"}`."""
    workers: int | None = Field(default=None, ge=0)
    """Host processes on this machine, for environments that are heavy or can hang; None is one for two cores."""
    hosts: list[Annotated[str, Field(pattern=r"^\S+:[0-9]{1,5}$")]] = []
    """Hosts on other machines (`python -m env_adapters serve`), such as `10.0.0.8:8200`."""
    token_file: Path | None = None
    """A file with the secret that those hosts want."""
    capacity: int = Field(default=256, ge=1)
    """Open environment episodes; one more is refused with 429."""
    capacity_of: dict[str, int] = {}
    """The same for single environments, such as `{"miniwob": 16}`."""
    lease_s: float = Field(default=900.0, gt=0)
    """An episode with no turn and no step for so long is closed; a play's are not."""
