"""The server's settings: one frozen model; TOML file < environment (`UPTURN_...`) < command line."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from clients.wire import LARGEST_REWARD, RewardRule, RunConfig, ScorerName, Trigger, TriggerName
from server.training.triggers import check_trigger
from server.training.windows import Windows

EnvSource = PydanticBaseSettingsSource
PREFIX = "UPTURN_"
NESTED = "__"


class SettingsError(ValueError):
    """The settings cannot be read at all; a wrong value is pydantic's `ValidationError`."""


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class EngineSettings(Section):
    """What samples the answers."""

    kind: Literal["auto", "vllm", "local", "scripted"] = "auto"
    """`vllm` (a child process, or `url`), `local` (transformers in this process), `scripted` (fixed answers); `auto`
    takes vllm where it is installed, else local."""
    url: str | None = None
    """A running vLLM to use instead of starting one; its control routes must be reachable from here only."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Weights and computation; `auto` is what the model's files hold."""
    context_tokens: int = Field(default=2048, ge=128)
    """Longest prompt plus answer."""
    max_concurrent: int = Field(default=64, ge=1)
    """Answers sampled at once; more wait in the engine."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Memory for the key-value cache on a CPU."""
    gpu_memory: float = Field(default=0.45, gt=0, lt=1)
    """vLLM's share of the GPU's memory."""
    gpu: int = Field(default=0, ge=0)
    """vLLM's GPU."""
    cpu_cores: str | None = None
    """Cores vLLM computes on, such as `0-1`; None takes all of this machine's."""
    max_lora_rank: int = Field(default=16, ge=1, le=512)
    """Largest rank of an adapter."""
    max_adapters: int = Field(default=4, ge=2)
    """Adapters that can answer at once."""
    extra_args: list[str] = []
    """More arguments for vLLM."""


class LearnerSettings(Section):
    """The learner process."""

    start: bool = True
    """Start a learner on this machine when a run is due; False waits for one elsewhere (`python -m learner run`)."""
    processes: int = Field(default=1, ge=1)
    """Processes that share the model and each batch: one a GPU."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each process; None is torch's own choice."""
    gpu: int | None = Field(default=None, ge=0)
    """Its GPU; None takes a second one where there is one, else shares vLLM's."""
    gpu_memory: float = Field(default=0.45, gt=0, lt=1)
    """Its share of a GPU's memory that it has not for itself; more is an error of its own, not of vLLM's."""
    lease_s: float = Field(default=60.0, gt=1)
    """A learner that has not been heard of for so long has lost its run."""
    restarts: int = Field(default=3, ge=0)
    """How often a learner that died is started again within one run."""


class EnvironmentSettings(Section):
    """Environments: what there is beside the built-in ones, where they run, and how many at once."""

    modules: list[str] = []
    """Environments of your own: modules with `make_family()`, such as `games.guess`."""
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


class ScheduleSettings(Section):
    """When runs start by themselves."""

    triggers: dict[TriggerName, Trigger] = {}
    """What starts runs, by name, such as `{"nightly": {"kind": "cron", "cron": "0 3 * * *", "timezone":
    "Europe/Berlin"}}`; without any, runs start on request only."""
    windows: list[str] = []
    """When triggers may start runs, such as `01:00-06:00 Europe/Berlin`; none is always."""
    pause_outside_windows: bool = False
    """Pause a running run when its window closes, and resume it in the next."""
    run: RunConfig | None = None
    """The run to start, for triggers that name none of their own."""

    @model_validator(mode="after")
    def triggers_can_start_something(self) -> ScheduleSettings:
        """A trigger without a run, or one that never comes, would never train."""
        Windows(self.windows)
        for name, trigger in self.triggers.items():
            check_trigger(trigger)
            if trigger.run is None and self.run is None:
                raise ValueError(f"the trigger {name!r} needs a run of its own, or schedule.run")
        return self


class GateSettings(Section):
    """When a run's candidate becomes the champion. The values are ours."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of the bootstrap interval of the mean gain in success over all environments, whose lower bound decides."""
    min_gain: float = Field(default=0.0, ge=-1, lt=1)
    """The lower bound must be above it."""
    margin: float = Field(default=0.05, ge=0, le=1)
    """Success that no single environment may lose more of."""
    min_tasks: int = Field(default=10, ge=2)
    """Tasks with a verdict on both versions that every environment needs: over fewer an interval says little."""
    max_errors: float = Field(default=0.1, ge=0, lt=1)
    """Share of a version's episodes in an environment that may end without a verdict; above it nothing is decided."""
    max_invalid_rise: float = Field(default=0.05, ge=0, le=1)
    """Rise of the share of steps that could not be understood, in any environment."""
    max_kl: float | None = Field(default=None, gt=0)
    """Mean over the run of `reference_kl`, nats a token; None is no bound."""
    min_entropy: float | None = Field(default=None, ge=0)
    """Mean over the run of `entropy`, nats a token; None is no bound."""


class FunctionSettings(Section):
    """A reward function: what it does is `server/feedback/functions.py`."""

    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:function`; it gets an `EpisodeView` and returns a number, numbers by turn, or None."""
    time_limit_s: float = Field(default=30.0, gt=0)
    """A call that takes longer is ended, and is an error."""
    concurrency: int = Field(default=2, ge=1, le=256)
    """Calls at once."""


class JudgeSettings(Section):
    """A language model that scores episodes, behind any OpenAI-compatible URL."""

    url: str = Field(pattern=r"^https?://\S+$")
    """Base URL, such as `https://api.openai.com/v1`."""
    model: str = Field(min_length=1)
    """What is sent as `model`."""
    rubric: str = Field(min_length=1)
    """What a good episode is."""
    scale: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest score; the score is the reward."""
    api_key_env: str | None = None
    """Environment variable that holds the API key; None sends none."""
    timeout_s: float = Field(default=60.0, gt=0)
    """For a whole answer."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Questions at once."""
    transcript_tokens: int = Field(default=8000, ge=100)
    """A longer transcript loses its middle; counted as four characters a token."""
    body: dict[str, Any] = {"temperature": 0}
    """More fields of the request, such as `response_format`."""

    @field_validator("scale")
    @classmethod
    def rises(cls, scale: tuple[float, float]) -> tuple[float, float]:
        """A score between two finite numbers."""
        if not -LARGEST_REWARD <= scale[0] < scale[1] <= LARGEST_REWARD:
            raise ValueError(f"the scale has to rise, within {LARGEST_REWARD:g} of 0")
        return scale


class RewardSettings(Section):
    """How rewards from outside count, and who scores live episodes by itself."""

    sources: dict[Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^*\x00]+$")], RewardRule] = {}
    """Rules by name of source, such as `{"judge": {"weight": 0.5, "cap": 1.0}}`; one set by API is before it."""
    default_weight: float = Field(default=1.0, ge=0, le=LARGEST_REWARD, allow_inf_nan=False)
    """Weight of a source without a rule; with 0 only sources that have one count."""
    default_cap: float | None = Field(default=None, ge=0, le=LARGEST_REWARD, allow_inf_nan=False)
    """Largest absolute value that counts of such a source in one episode; None is no cap."""
    functions: dict[ScorerName, FunctionSettings] = {}
    """Reward functions by name, such as `{"tone": {"function": "rewards.tone:polite"}}`."""
    judges: dict[ScorerName, JudgeSettings] = {}
    """Judges by name, such as `{"helpful": {"url": "http://10.0.0.9:8000/v1", "model": "m", "rubric": "..."}}`."""

    @model_validator(mode="after")
    def a_scorer_has_a_name_of_its_own(self) -> RewardSettings:
        """A scorer's name is the source of its rewards."""
        if both := sorted(self.functions.keys() & self.judges.keys()):
            raise ValueError(f"{both[0]!r} is both a function and a judge")
        return self


class Settings(BaseSettings):
    """All settings of `python -m server serve`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTED, extra="forbid", frozen=True, use_attribute_docstrings=True,
        cli_kebab_case=True, cli_implicit_flags=True, cli_hide_none_type=True, cli_avoid_json=True,
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
    keep_versions: int = Field(default=3, ge=1)
    """Newest versions whose weights stay on disk; the base, the champion and each run's last stay anyway."""
    retention_days: float | None = Field(default=None, gt=0)
    """Erase episodes so long after their end; None keeps them all."""
    engine: EngineSettings = EngineSettings()
    learner: LearnerSettings = LearnerSettings()
    environments: EnvironmentSettings = EnvironmentSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    gate: GateSettings = GateSettings()
    rewards: RewardSettings = RewardSettings()

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
            raise ValueError(f"keys are off, but {self.host} can be reached from other machines: "
                             "use keys = auto, or a loopback host such as 127.0.0.1")
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
            def settings_customise_sources(cls, settings_cls: type[BaseSettings], env_settings: EnvSource, **_: Any
                                           ) -> tuple[PydanticBaseSettingsSource, ...]:
                """Order of precedence, highest first."""
                flags: PydanticBaseSettingsSource = CliSettingsSource(
                    settings_cls, cli_parse_args=args, cli_prog_name=program)
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
    unknown = sorted(v for v in os.environ if v.upper().startswith(PREFIX) and v.upper() not in known
                     and not v.upper().startswith(f"{PREFIX}SCHEDULE{NESTED}RUN{NESTED}"))
    if unknown:
        raise SettingsError(f"unknown settings in the environment: {', '.join(unknown)}")
