"""What a group of settings is made of. Each part of the server has its own groups, in its `settings.py`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class SettingsError(ValueError):
    """The settings cannot be read at all; a wrong value is pydantic's `ValidationError`."""


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
