"""The server's settings: one frozen model. TOML file < environment (`UPTURN_...`) < flags."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.configuration import sources
from server.engines.settings import EngineSettings
from server.environments.settings import EnvironmentSettings
from server.notifications.settings import NotifySettings
from server.rewards.settings import RewardSettings
from server.telemetry.settings import TelemetrySettings
from server.training.scheduling.settings import ScheduleSettings
from server.training.settings import CanarySettings, GateSettings, LearnerSettings, WatchSettings
from server.versions.settings import ShadowSettings, VersionSettings
from upturn import logs

_HOST = r"^(\*\.)?[A-Za-z0-9_.-]+(:[0-9]{1,5})?$|^\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?$|^[0-9A-Fa-f:.]+$"
_ORIGIN = r"^\*$|^[a-z][a-z0-9+.-]*://[a-z0-9_.:\[\]-]+$"


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
    """Base model: a directory, a name on the model hub, or `smollm2-135m-instruct`, which comes from a PyPI package."""
    renderer: str = "auto"
    """How messages become tokens and answers are parsed. `auto`: the model family's own format (library `renderers`)
    if its output is identical to the chat template's, otherwise the template. `template`: the chat
    template. A family's name, such as `qwen3`: that format; refused if it does not match the model."""
    name: str = Field(default="policy", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    """Name of the policy: what agents send as `model`."""
    aliases: list[Annotated[str, Field(min_length=1, max_length=200)]] = []
    """Further names of the policy, for agents whose model names are fixed, such as `["gpt-4o", "claude-*"]`. In a
    pattern, `*` stands for any characters; `*` alone accepts every name. A name without `*` also takes `@VERSION`."""
    weights: Literal["auto", "full", "adapter"] = "auto"
    """What is trained, published and swapped; `auto`: adapters on a GPU, full weights elsewhere (an adapter halves
    decoding speed on a CPU). With full weights the engine holds one version, so live traffic gets each new version at
    once."""
    data_dir: Path = Path("data")
    """Directory of database, weights and logs."""
    models_dir: Path | None = None
    """Directory of converted and downloaded base models; default: `models` in the data directory."""
    database_url: str | None = None
    """SQLAlchemy URL; default: SQLite in the data directory."""
    start_wait_s: float = Field(default=30.0, ge=0, le=3600)
    """Seconds that a start waits for another server on the same database or data directory to stop."""
    min_free_bytes: int = Field(default=64 * 2**20, ge=0)
    """Free space on the disks of data directory and database below which `/readyz` is 503."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 picks a free port."""
    log_level: logs.Level = "info"
    """Lowest level of log lines: of the server, of learners, and of environment hosts."""
    log_format: logs.Form = "text"
    """Form of log lines: `text` for people, `json` for programs, one object per line."""
    keys: Literal["auto", "required", "off"] = "auto"
    """Whether requests need an API key; `auto`: required unless the host is loopback. `off` is refused elsewhere."""
    allowed_hosts: list[Annotated[str, Field(pattern=_HOST)]] = []
    """Names under which clients may call the server (the `Host` header), in addition to loopback names and `host`;
    `*.example.com` allows every name below it. Without any, a server that requires keys answers to every name."""
    allowed_origins: list[Annotated[str, Field(pattern=_ORIGIN)]] = []
    """Origins of web pages that may call the server from a browser, such as `http://localhost:3000`; where no key is
    required, they may do everything. `*` allows every page, and is refused where no key is required."""
    default_horizon: int = Field(default=100, ge=1, le=10_000)
    """Horizon of episodes that do not set one, in turns."""
    drain_s: float = Field(default=60.0, ge=0, le=86_400)
    """Longest time that calls in progress may take after SIGTERM or Ctrl-C, in seconds. New calls are refused meanwhile
    (503), and so is `/readyz`. A second signal ends them at once."""
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    """Maximum size of a request body."""
    concurrent_episodes: int = Field(default=64, ge=1)
    """Maximum number of episodes that one play runs concurrently."""
    retention_days: float | None = Field(default=None, gt=0)
    """Days after which an ended episode is erased; default: never."""
    idle_close_s: float | None = Field(default=None, gt=0)
    """Seconds without a turn after which an open live episode is closed; default: never. A conversation that returns
    continues in a new episode. Runs train on ended episodes only, and many agents never close one."""
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
    notify: NotifySettings = NotifySettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @property
    def resolved_database_url(self) -> str:
        """`database_url`, or the URL of SQLite in the data directory."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'upturn.db'}"

    @property
    def keys_required(self) -> bool:
        """Whether requests need an API key."""
        return self.keys == "required" or (self.keys == "auto" and not _is_loopback(self.host))

    @field_validator("data_dir", "models_dir", mode="before")
    @classmethod
    def no_empty_name(cls, value: Any) -> Any:
        """Refuse an empty name, which an unset shell variable gives: it would be the current directory."""
        if value == "":
            raise ValueError("the name of the directory is empty; `.` is the current directory")
        return value

    @model_validator(mode="after")
    def an_open_address_needs_keys(self) -> Settings:
        """Refuse a reachable address without keys: anyone who reaches it could use, train and erase everything."""
        if self.keys == "off" and not _is_loopback(self.host):
            raise ValueError(
                f"keys are off, but {self.host} can be reached from other machines: "
                "use keys = auto, or a loopback host such as 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def every_page_needs_keys(self) -> Settings:
        """Refuse to trust every web page without keys: each page that a browser here shows would be an admin."""
        if "*" in self.allowed_origins and not self.keys_required:
            raise ValueError("allowed_origins is *, but no key is required: name the origins, or set keys = required")
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
