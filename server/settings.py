"""The server's settings: one frozen model; TOML file < environment (`UPTURN_...`) < command line."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.configuration import sources
from server.engines.settings import EngineSettings
from server.environments.settings import EnvironmentSettings
from server.feedback.settings import RewardSettings
from server.training.settings import CanarySettings, GateSettings, LearnerSettings, ScheduleSettings, WatchSettings
from server.versions.settings import ShadowSettings, VersionSettings


class Settings(BaseSettings):
    """All settings of `python -m server serve`."""

    model_config = SettingsConfigDict(
        env_prefix=sources.PREFIX,
        env_nested_delimiter=sources.NESTED,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    model: str = "smollm2-135m-instruct"
    """Base model: a directory, a model hub's name, or `smollm2-135m-instruct`, which a PyPI package brings."""
    renderer: str = "auto"
    """How messages become tokens and answers are read: `auto` takes the model family's own form (the library
    `renderers`) where it writes exactly what the model's chat template does, `template` that template, and a family's
    name, such as `qwen3`, is refused where it does not fit."""
    name: str = Field(default="policy", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    """Name of the policy: what agents send as `model`."""
    weights: Literal["auto", "full", "adapter"] = "auto"
    """What is published and swapped; `auto` is adapters on a GPU and full weights elsewhere (an adapter halves a CPU's
    decoding speed). With full weights one engine holds one version, so live traffic gets each new version at once."""
    data_dir: Path = Path("data")
    """Database, weights, logs."""
    models_dir: Path | None = None
    """Where base models are kept once converted or downloaded; None is `models` in the data directory."""
    database_url: str | None = None
    """SQLAlchemy URL; None is SQLite in the data directory."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    keys: Literal["auto", "required", "off"] = "auto"
    """Whether callers need an API key; `auto` is required unless the host is loopback. `off` is for loopback only."""
    default_horizon: int = Field(default=100, ge=1, le=10_000)
    """Horizon of episodes that name none."""
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    """Largest request body."""
    concurrent_episodes: int = Field(default=64, ge=1)
    """Episodes a play has open at once."""
    retention_days: float | None = Field(default=None, gt=0)
    """Erase episodes so long after their end; None keeps them all."""
    engine: EngineSettings = EngineSettings()
    learner: LearnerSettings = LearnerSettings()
    environments: EnvironmentSettings = EnvironmentSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    gate: GateSettings = GateSettings()
    rewards: RewardSettings = RewardSettings()
    watch: WatchSettings = WatchSettings()
    canary: CanarySettings = CanarySettings()
    shadow: ShadowSettings = ShadowSettings()
    versions: VersionSettings = VersionSettings()

    @property
    def resolved_database_url(self) -> str:
        """The URL in use."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'upturn.db'}"

    @property
    def keys_required(self) -> bool:
        """Whether callers need an API key."""
        return self.keys == "required" or (self.keys == "auto" and not _is_loopback(self.host))

    @model_validator(mode="after")
    def an_open_address_needs_keys(self) -> Settings:
        """Without keys, whoever reaches the address could use, train and erase everything."""
        if self.keys == "off" and not _is_loopback(self.host):
            raise ValueError(
                f"keys are off, but {self.host} can be reached from other machines: "
                "use keys = auto, or a loopback host such as 127.0.0.1"
            )
        return self

    @classmethod
    def load(cls, args: list[str]) -> Settings:
        """Read the settings from a TOML file, which `--config FILE` names, the environment, and flags.

        Raises:
            pydantic.ValidationError: a value is wrong, or a key of the file is unknown.
            SettingsError: a flag or variable is unknown, or a source cannot be read.
        """
        loaded = sources.read(cls, args)
        return cls.model_construct(**dict(iter(loaded)))  # A plain dict(...) would call the setting `keys`.


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
