"""Settings of reward sources and of the scorers that reward live episodes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from server.section import Section
from upturn.wire import LARGEST_REWARD, RewardRule, ScorerName


class FunctionSettings(Section):
    """A reward function (`server/feedback/functions.py`)."""

    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:function`; takes an `EpisodeView` and returns a number, a dict of numbers by turn, or None."""
    time_limit_s: float = Field(default=30.0, gt=0)
    """A longer call is stopped and counts as an error."""
    concurrency: int = Field(default=2, ge=1, le=256)
    """Concurrent calls."""


class JudgeSettings(Section):
    """A language model that scores episodes, behind any OpenAI-compatible URL."""

    url: str = Field(pattern=r"^https?://\S+$")
    """Base URL, such as `https://api.openai.com/v1`."""
    model: str = Field(min_length=1)
    """Value of the request's `model`."""
    rubric: str = Field(min_length=1)
    """Describes a good episode."""
    scale: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest score. The score is the reward."""
    api_key_env: str | None = None
    """Environment variable that holds the API key; None sends no key."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Timeout of one request, including its answer."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Concurrent requests."""
    transcript_tokens: int = Field(default=8000, ge=100)
    """A longer transcript is cut in the middle; a token counts as four characters."""
    body: dict[str, Any] = {"temperature": 0}
    """Additional request fields, such as `response_format`."""

    @field_validator("scale")
    @classmethod
    def rises(cls, scale: tuple[float, float]) -> tuple[float, float]:
        """Check that the scale runs from a lower to a higher score, both within bounds."""
        if not -LARGEST_REWARD <= scale[0] < scale[1] <= LARGEST_REWARD:
            raise ValueError(f"scale must be [lowest, highest], both within {LARGEST_REWARD:g} of 0")
        return scale


class RewardSettings(Section):
    """How external rewards count, and which scorers reward live episodes."""

    sources: dict[Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^*\x00]+$")], RewardRule] = {}
    """Rules by source, such as `{"judge": {"weight": 0.5, "cap": 1.0}}`. A rule set by API takes precedence."""
    default_weight: float = Field(default=1.0, ge=0, le=LARGEST_REWARD, allow_inf_nan=False)
    """Weight of sources without a rule; with 0 only sources with a rule count."""
    default_cap: float | None = Field(default=100.0, ge=0, le=LARGEST_REWARD, allow_inf_nan=False)
    """Cap on the absolute sum of such a source in one episode, so that no reward outweighs all others; None: no cap."""
    episode_keys: bool = False
    """Whether an episode's own key may reward its episode, if the key that opened it may. Agents usually hold that key,
    and would then choose their own rewards."""
    functions: dict[ScorerName, FunctionSettings] = {}
    """Reward functions by name, such as `{"tone": {"function": "rewards.tone:polite"}}`."""
    judges: dict[ScorerName, JudgeSettings] = {}
    """Judges by name, such as `{"helpful": {"url": "http://10.0.0.9:8000/v1", "model": "m", "rubric": "..."}}`."""

    @model_validator(mode="after")
    def a_scorer_has_a_name_of_its_own(self) -> RewardSettings:
        """Check that no function and judge share a name: it is the source of their rewards."""
        if both := sorted(self.functions.keys() & self.judges.keys()):
            raise ValueError(f"rewards.functions and rewards.judges both define {both[0]!r}")
        return self
