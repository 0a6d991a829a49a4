"""Settings of rewards and their sources."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from server.section import Section
from upturn.wire import LARGEST_REWARD, RewardRule, ScorerName


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
