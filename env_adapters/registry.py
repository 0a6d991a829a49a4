"""Environments by name: the built-in ones, and the ones that this process adds at run time.

A new built-in environment is one folder and one line in `BUILT_IN`. A name is `textcraft`, or `gymnasium:CartPole-v1`
for an environment that takes an argument. Remote environments get their name from an operator (`Registry.add_remote`),
so a caller who can only choose a name cannot choose what this machine connects to.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from env_adapters.protocol import EnvironmentSpec, UnknownTask

log = logging.getLogger("env_adapters.registry")
BUILT_IN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "babyai": "env_adapters.babyai.spec",
        "miniwob": "env_adapters.miniwob.spec",
        "sciworld": "env_adapters.sciworld.spec",
        "search": "env_adapters.search.spec",
        "shop": "env_adapters.shop.spec",
        "textcraft": "env_adapters.textcraft.spec",
        "textworld": "env_adapters.textworld.spec",
    }
)
"""Name to module. The module's `make_spec()` returns the environment's `EnvironmentSpec`."""
PARAMETRIC: Final[Mapping[str, str]] = MappingProxyType({"gymnasium": "env_adapters.gymnasium.spec"})
"""Environments with an argument: name to module. `make_spec(argument)` gets the text after the colon."""
REMOTE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "agentgym": "env_adapters.remote.agentgym",
        "openenv": "env_adapters.remote.openenv",
        "mcp": "env_adapters.remote.mcp",
        "search": "env_adapters.search.spec",
        "prompts": "env_adapters.prompts.spec",
    }
)
"""Remote protocols and environments over files: name to module. `make_spec(argument, name=...)` validates the rest of
the address."""


class Registry:
    """The built-in environments plus the ones added to this object."""

    def __init__(
        self,
        built_in: Mapping[str, str] = BUILT_IN,
        parametric: Mapping[str, str] = PARAMETRIC,
        remote: Mapping[str, str] = REMOTE,
    ) -> None:
        self._built_in, self._parametric, self._protocols = built_in, parametric, remote
        self._modules: dict[str, str] = {}
        """Added modules by environment name."""
        self._remote: dict[str, tuple[str, str]] = {}
        """Added remote environments by name: module and argument."""
        self._specs: dict[str, EnvironmentSpec] = {}
        """Loaded specs by name."""
        self._deprecated: set[str] = set()
        """Modules whose deprecated `make_family()` has been reported."""

    def names(self) -> list[str]:
        """Return the names of all environments without an argument, sorted."""
        return sorted([*self._built_in, *self._modules, *self._remote])

    def parametric(self) -> list[str]:
        """Return the names of environments that take an argument, such as `gymnasium`, sorted."""
        return sorted(self._parametric)

    def add_module(self, name: str, module: str) -> None:
        """Add an environment: a module with `make_spec()`. Adding the same pair again changes nothing.

        Raises:
            ValueError: another environment has this name.
        """
        if self._module(name) not in (None, module) or name in self._remote:
            raise ValueError(f"environment {name!r} already exists")
        if name not in self._built_in:
            self._modules[name] = module

    def add_modules(self, modules: Iterable[str]) -> list[str]:
        """Import modules, add each under its spec's name, and return the names.

        Raises:
            ImportError: a module cannot be imported.
            ValueError: a module has no `make_spec()`, or another environment has the name.
        """
        found = [(self._make(module).name, module) for module in modules]
        for name, module in found:
            self.add_module(name, module)
        return [name for name, _ in found]

    def add_remote(self, name: str, address: str) -> None:
        """Name a remote environment: `agentgym:KIND@URL`, `openenv@URL`, `mcp@URL` or `mcp@URL#end=TOOL`.

        `search@CORPUS,QUESTIONS` names a local search environment over another corpus, `prompts@FILE` one of prompts.
        Nothing connects yet.

        Raises:
            ValueError: the address is malformed, or the name is malformed or taken.
        """
        protocol, argument = re.fullmatch(r"(\w*)[:@]?(.*)", address, re.DOTALL).groups()  # type: ignore[union-attr]
        if protocol not in self._protocols:
            raise ValueError(
                "an environment's address is agentgym:KIND@URL, openenv@URL, mcp@URL, search@CORPUS,QUESTIONS or "
                f"prompts@FILE, not {protocol!r}"
            )
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
            raise ValueError(f"{name!r} is not a name of lowercase letters, digits, dots, dashes and underscores")
        module = self._protocols[protocol]
        self._make(module, argument, name=name)
        if self._module(name) is not None or self._remote.get(name, (module, argument)) != (module, argument):
            raise ValueError(f"environment {name!r} already exists")
        self._remote[name] = (module, argument)

    def spec(self, name: str) -> EnvironmentSpec:
        """Return an environment's spec, loading it on first use.

        Raises:
            UnknownTask: no environment has this name.
        """
        if name not in self._specs:
            self._specs.setdefault(name, self._load(name))  # Two threads that load it at once get the same object.
        return self._specs[name]

    def _module(self, name: str) -> str | None:
        return self._built_in.get(name) or self._modules.get(name)

    def _load(self, name: str) -> EnvironmentSpec:
        prefix, _, argument = name.partition(":")
        if name in self._remote:
            module, address = self._remote[name]
            return self._make(module, address, name=name)
        if argument and prefix in self._parametric:
            return self._make(self._parametric[prefix], argument)
        if (known := self._module(name)) is not None:
            return self._make(known)
        close = difflib.get_close_matches(name, self.names(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        listed = ", ".join([*self.names(), *(f"{prefix}:ID" for prefix in self.parametric())])
        raise UnknownTask(f"no environment {name!r}; {hint}available: {listed}")

    def _make(self, module: str, *arguments: str, **named: str) -> EnvironmentSpec:
        loaded = importlib.import_module(module)
        make: Callable[..., EnvironmentSpec] | None = getattr(loaded, "make_spec", None)
        if make is None:
            make = getattr(loaded, "make_family", None)
            if make is None:
                raise ValueError(f"{module} has no make_spec()")
            if module not in self._deprecated:
                self._deprecated.add(module)
                log.warning("%s: make_family() is deprecated, rename it to make_spec()", module)
        return make(*arguments, **named)


REGISTRY: Final = Registry()
"""The environments of this process."""


def environment_spec(name: str) -> EnvironmentSpec:
    """Return an environment of this process by name.

    Raises:
        UnknownTask: no environment has this name.
    """
    return REGISTRY.spec(name)
