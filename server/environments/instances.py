"""Where each environment runs: in the event loop, in a thread of this process, or in a host process."""

from __future__ import annotations

import asyncio
from pathlib import Path

from env_adapters import family, register, register_modules
from env_adapters.hosting.instances import Instance, open_instance
from env_adapters.hosting.workers import Workers
from env_adapters.protocol import Family, UnknownTask
from server.environments.hosts import Hosts
from server.environments.settings import EnvironmentSettings
from server.errors import NotFound
from server.section import SettingsError


def find_family(name: str) -> Family:
    """Return the environment of that name. It may read files: not for the event loop.

    Raises:
        NotFound: there is none.
    """
    try:
        return family(name)
    except UnknownTask as error:
        raise NotFound(str(error.args[0]), param="environment", code="environment_not_found") from error


def register_environments(settings: EnvironmentSettings) -> None:
    """Name the environments that the settings bring. It imports modules: not for the event loop.

    Raises:
        SettingsError: a module cannot be imported, a name is taken, or an address is none.
    """
    try:
        register_modules(settings.modules)
        for name, spec in settings.remote.items():
            register(name, spec)
    except (ImportError, ValueError, AttributeError) as error:
        raise SettingsError(f"environments: {error}") from error


class Instances:
    """Finds environments and makes instances of them."""

    def __init__(self, settings: EnvironmentSettings, log_path: Path) -> None:
        self._hosts = Hosts(settings, log_path)
        self._workers = Workers()
        self._families: dict[str, Family] = {}

    async def family(self, name: str) -> Family:
        """Return the environment of that name, loaded once.

        Raises:
            NotFound: there is none.
        """
        if name not in self._families:
            self._families[name] = await asyncio.to_thread(find_family, name)
        return self._families[name]

    async def make(self, name: str) -> Instance:
        """Make an instance where its family says that it runs.

        Raises:
            EnvironmentFailure: or whatever else the environment raises.
        """
        found = await self.family(name)
        if found.isolation == "host":
            return await self._hosts.make(name)
        return await open_instance(found, self._workers, inline=found.isolation == "inline")

    async def close(self) -> None:
        """Stop the hosts and the idle threads."""
        await self._hosts.close()
        self._workers.close()
