"""The base class of settings sections. Each part of the server declares its own sections in its `settings.py`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\*?$")]
"""Name of an environment variable, or the beginning of several, such as `GAME_*`."""


class SettingsError(ValueError):
    """The settings cannot be read at all; a wrong value raises pydantic's `ValidationError` instead."""


class Section(BaseModel):
    """A section of settings: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
