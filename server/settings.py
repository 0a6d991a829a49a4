"""The server's settings: one frozen model; TOML file < environment (`UPTURN_...`) < command line."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from server.engines.settings import EngineSettings
from server.environments.settings import EnvironmentSettings
from server.rewards.settings import RewardSettings
from server.section import Section, SettingsError
from server.training.settings import CanarySettings, GateSettings, LearnerSettings, ScheduleSettings, WatchSettings
from server.versions.settings import ShadowSettings, VersionSettings

EnvSource = PydanticBaseSettingsSource
PREFIX = "UPTURN_"
NESTED = "__"


class Settings(BaseSettings):
    """All settings of `python -m server serve`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=NESTED,
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
    def load(cls, args: list[str], *, program: str = "python -m server serve") -> Settings:
        """Read the settings; `--config FILE` names the TOML file.

        Raises:
            SystemExit: after `--help`, or for an unknown flag.
            pydantic.ValidationError: a value is wrong or a key unknown.
            SettingsError: there is no such file, or an environment variable with our prefix is no setting.
        """
        args, config = _take_config(args)
        _refuse_unknown_environment()

        class Loaded(cls):  # type: ignore[valid-type,misc]
            @classmethod
            def settings_customise_sources(
                cls, settings_cls: type[BaseSettings], env_settings: EnvSource, **_: Any
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                """Order of precedence, highest first."""
                flags: PydanticBaseSettingsSource = CliSettingsSource(
                    settings_cls, cli_parse_args=args, cli_prog_name=program
                )
                file = [TomlConfigSettingsSource(settings_cls, toml_file=config)] if config else []
                return (flags, env_settings, *file)

        Loaded.__doc__ = cls.__doc__
        return cls.model_construct(**dict(iter(Loaded())))  # A plain dict(...) would call the setting `keys`.


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _take_config(args: list[str]) -> tuple[list[str], Path | None]:
    """Return the arguments without `--config FILE`, and the file."""
    for position, argument in enumerate(args):
        name, equals, value = argument.partition("=")
        if name == "--config":
            rest = args[position + 1 :]
            if not equals and not rest:
                raise SettingsError("--config needs a file")
            path = Path(value if equals else rest[0])
            if not path.is_file():
                raise SettingsError(f"--config {path}: no such file")
            return args[:position] + (rest if equals else rest[1:]), path
    return args, None


def _refuse_unknown_environment() -> None:
    """pydantic-settings ignores a mistyped variable; a setting that silently does nothing is worse than an error."""
    known = {f"{PREFIX}KEY"}  # The learner's API key, which the same environment may hold.
    for name, field in Settings.model_fields.items():
        known.add(f"{PREFIX}{name}".upper())
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            known.update(f"{PREFIX}{name}{NESTED}{inner}".upper() for inner in section.model_fields)
    unknown = sorted(
        v
        for v in os.environ
        if v.upper().startswith(PREFIX)
        and v.upper() not in known
        and not v.upper().startswith(f"{PREFIX}SCHEDULE{NESTED}RUN{NESTED}")
    )
    if unknown:
        raise SettingsError(f"unknown settings in the environment: {', '.join(unknown)}")
