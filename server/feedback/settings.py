"""Settings of rewards and their sources."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from server.section import Section
from upturn.wire import LARGEST_REWARD, RewardRule, ScorerName


class FunctionSettings(Section):
    """A reward function; `server/feedback/functions.py` calls it."""

    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:function`; takes an `EpisodeView` and returns a number, a number per turn, or None."""
    time_limit_s: float = Field(default=30.0, gt=0)
    """Maximum duration of a call in seconds; a longer call is stopped and counts as an error."""
    concurrency: int = Field(default=2, ge=1, le=256)
    """Maximum number of concurrent calls."""


class JudgeSettings(Section):
    """A language model that scores episodes, behind any OpenAI-compatible URL."""

    url: str = Field(pattern=r"^https?://\S+$")
    """Base URL, such as `https://api.openai.com/v1`."""
    model: str = Field(min_length=1)
    """Model name in the request."""
    rubric: str = Field(min_length=1)
    """Description of a good episode."""
    scale: tuple[float, float] = (0.0, 1.0)
    """Minimum and maximum score; the score is the reward."""
    api_key_env: str | None = None
    """Environment variable that holds the API key; default: no key is sent."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Maximum time for a complete answer, in seconds."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Maximum number of concurrent requests."""
    transcript_tokens: int = Field(default=8000, ge=100)
    """Maximum transcript length, at four characters per token; the middle of a longer one is omitted."""
    body: dict[str, Any] = {"temperature": 0}
    """Additional request fields, such as `response_format`."""

    @field_validator("scale")
    @classmethod
    def rises(cls, scale: tuple[float, float]) -> tuple[float, float]:
        """Require an increasing, finite scale."""
        if not -LARGEST_REWARD <= scale[0] < scale[1] <= LARGEST_REWARD:
            raise ValueError(f"the scale must be increasing, within {LARGEST_REWARD:g} of 0")
        return scale


class RewardSettings(Section):
    """How external rewards count, and which scorers reward live episodes."""

    sources: dict[Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^*\x00]+$")], RewardRule] = {}
    """Rules by source, such as `{"judge": {"weight": 0.5, "cap": 1.0}}`; a rule set over the API takes precedence."""
    default_weight: float = Field(default=1.0, ge=0, le=LARGEST_REWARD, allow_inf_nan=False)
    """Weight of sources without a rule; with 0 only sources with a rule count."""
    default_cap: float | None = Field(default=None, ge=0, le=LARGEST_REWARD, allow_inf_nan=False)
    """Maximum absolute reward of a source without a rule that counts per episode; default: no cap."""
    functions: dict[ScorerName, FunctionSettings] = {}
    """Reward functions by name, such as `{"tone": {"function": "rewards.tone:polite"}}`."""
    judges: dict[ScorerName, JudgeSettings] = {}
    """Judges by name, such as `{"helpful": {"url": "http://10.0.0.9:8000/v1", "model": "m", "rubric": "..."}}`."""

    @model_validator(mode="after")
    def a_scorer_has_a_name_of_its_own(self) -> RewardSettings:
        """Refuse a name used twice: a scorer's name is the source of its rewards."""
        if both := sorted(self.functions.keys() & self.judges.keys()):
            raise ValueError(f"{both[0]!r} is both a function and a judge")
        return self
