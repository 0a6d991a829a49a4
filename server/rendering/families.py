"""The registry of model families. To add one, write a module with its `FAMILIES` and add its name here."""

from __future__ import annotations

from importlib import import_module

from server.rendering.model_family import ModelFamily

MODULES = (
    "server.rendering.hermes",
    "server.rendering.library_families",
)


def model_families() -> dict[str, ModelFamily]:
    """Return every registered family by name, in the order in which they are tried."""
    return {family.name: family for module in MODULES for family in import_module(module).FAMILIES}
