"""Makes environment instances where they run: in the event loop, in a thread of this process, or in a host process."""

from __future__ import annotations

import asyncio
from pathlib import Path

from env_adapters import REGISTRY, environment_spec
from env_adapters.hosting.instances import Instance, open_instance
from env_adapters.hosting.workers import Workers
from env_adapters.protocol import EnvironmentSpec, UnknownTask
from server.environments.hosts import Hosts
from server.environments.settings import EnvironmentSettings
from server.errors import NotFound
from server.section import SettingsError


def find_environment(name: str) -> EnvironmentSpec:
    """Return an environment's spec. May read files: not for the event loop.

    Raises:
        NotFound: no environment has this name.
    """
    try:
        return environment_spec(name)
    except UnknownTask as error:
        raise NotFound(str(error.args[0]), param="environment", code="environment_not_found") from error


def register_environments(settings: EnvironmentSettings) -> None:
    """Register the environments of the settings. Imports modules: not for the event loop.

    Raises:
        SettingsError: a module cannot be imported, a name is taken, or an address is malformed.
    """
    try:
        REGISTRY.add_modules(settings.modules)
        for name, address in settings.remote.items():
            REGISTRY.add_remote(name, address)
    except (ImportError, ValueError, AttributeError) as error:
        raise SettingsError(f"environments: {error}") from error


class Instances:
    """Loads environments and makes instances of them."""

    def __init__(self, settings: EnvironmentSettings, log_path: Path) -> None:
        self._hosts = Hosts(settings, log_path)
        self._workers = Workers()
        self._specs: dict[str, EnvironmentSpec] = {}

    async def spec(self, name: str) -> EnvironmentSpec:
        """Return an environment's spec, loading it on first use.

        Raises:
            NotFound: no environment has this name.
        """
        if name not in self._specs:
            self._specs[name] = await asyncio.to_thread(find_environment, name)
        return self._specs[name]

    async def make(self, name: str) -> Instance:
        """Make an instance where the environment's `isolation` places it.

        Raises:
            EnvironmentFailure: or any other exception of the environment.
        """
        spec = await self.spec(name)
        if spec.isolation == "host":
            return await self._hosts.make(name)
        return await open_instance(spec, self._workers, inline=spec.isolation == "inline")

    async def close(self) -> None:
        """Stop the hosts and the idle threads."""
        await self._hosts.close()
        self._workers.close()
