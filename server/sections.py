"""The groups of the server's settings, each with what it decides. How they are read is `settings.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from server.training.triggers import check_trigger
from server.training.windows import Windows
from upturn.wire import LARGEST_REWARD, RewardRule, RunConfig, ScorerName, Trigger, TriggerName


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
    nice: int = Field(default=0, ge=0, le=19)
    """How far it gives way to others on the same CPU cores: 0 shares evenly, 19 learns in what serving leaves."""
    gpu: int | None = Field(default=None, ge=0)
    """Its GPU; None takes a second one where there is one, else shares vLLM's."""
    gpu_memory: float = Field(default=0.45, gt=0, lt=1)
    """Its share of a GPU's memory that it has not for itself; more is an error of its own, not of vLLM's."""
    lease_s: float = Field(default=60.0, gt=1)
    """A learner that has not been heard of for so long has lost its run."""
    restarts: int = Field(default=3, ge=0)
    """How often a learner that died is started again within one run."""
    arguments: list[str] = []
    """More for its command line (`python -m learner run --help`), such as `["--activation-checkpointing"]`."""


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
    max_tool_error_rise: float | None = Field(default=0.05, ge=0, le=1)
    """Rise of the share of tool calls that could not be read, in any environment; None is no bound."""
    max_latency_ratio: float | None = Field(default=None, gt=0)
    """How many times the champion's mean time of an answer the candidate's may be; None is no bound."""
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


class WatchSettings(Section):
    """When live rewards take a new champion back. The values are ours."""

    enabled: bool = True
    """Compare the live rewards of a promoted version with those of the champion before, and roll back where it is
    worse; without live rewards nothing happens."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """How likely one that is no worse is rolled back at most, however often it is looked at."""
    window: int = Field(default=200, ge=2, le=2000)
    """Rewarded episodes of each version that are compared: the newest ones before, the first ones since."""
    min_episodes: int = Field(default=20, ge=1, le=2000)
    """Rewarded episodes of each that anything is decided on."""
    min_drop: float = Field(default=0.05, ge=0)
    """Fall of the mean reward that is tolerated."""
    low: float = -1.0
    """Lowest reward there is; lower ones count as this."""
    high: float = 1.0
    """Highest reward there is; higher ones count as this."""

    @model_validator(mode="after")
    def it_can_decide(self) -> WatchSettings:
        """A range of nothing, or a minimum beyond the window, would never decide."""
        if not self.low < self.high or self.min_drop >= self.high - self.low:
            raise ValueError("watch.high must be above watch.low, by more than watch.min_drop")
        if self.min_episodes > self.window:
            raise ValueError("watch.min_episodes cannot be above watch.window")
        return self


class CanarySettings(Section):
    """How much live traffic tries a candidate that the gate approved, before it becomes the champion."""

    share: float = Field(default=0.0, ge=0, lt=1)
    """Share of new live episodes that get the candidate; 0 promotes at once. It needs adapters."""
    by: Literal["episode", "key"] = "episode"
    """What is drawn: every episode by itself, or an API key with all its episodes."""
    min_episodes: int = Field(default=50, ge=1, le=2000)
    """Rewarded episodes of both versions after which a candidate that is no worse is promoted."""
    max_hours: float = Field(default=24.0, gt=0)
    """After so long it is promoted with fewer, where nothing shows that it is worse."""


class ShadowSettings(Section):
    """How many live turns the newest version answers once more, unseen."""

    share: float = Field(default=0.0, ge=0, le=1)
    """Share of live turns whose prompt the head answers too, after the turn is answered. It needs adapters."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest such answer."""
    waiting: int = Field(default=100, ge=1, le=10_000)
    """Turns that wait for it; more are left out."""
    keep: int = Field(default=10_000, ge=1)
    """Such answers that are kept, the newest ones."""


class VersionSettings(Section):
    """Which versions' weights stay on disk, and which are loaded.

    The base, champion and head, the champion before, pinned ones, and what open episodes, runs and the gate need stay
    anyway.
    """

    newest: int = Field(default=3, ge=1)
    """Newest versions whose weights stay."""
    ancestors: int = Field(default=1, ge=0)
    """So many versions stay that the champion was trained from, one from the other."""
    best: bool = True
    """The version with the highest success in an evaluation stays, for each environment."""
    on_demand: int = Field(default=2, ge=1)
    """Adapters that are loaded at once since calls name them (`name@N`) or go on with a conversation on them."""
    idle_s: float = Field(default=600.0, gt=0)
    """One of those that nobody has used for so long is unloaded."""
