"""Settings of telemetry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from server.section import Section


class TelemetrySettings(Section):
    """Where episodes, metrics, and learner metrics are sent besides the record; by default nowhere."""

    otlp: Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")] | None = None
    """Base URL of an OTLP receiver over HTTP, such as `http://127.0.0.1:4318`: it gets ended episodes as traces, and
    all metrics."""
    otlp_headers: dict[str, SecretStr] = {}
    """Headers of these requests, such as `{"authorization": "Bearer ..."}`; never shown."""
    content: bool = False
    """Whether traces contain what was said: prompts, answers, actions, and observations."""
    every_s: float = Field(default=10.0, ge=0.1, le=3600)
    """Seconds between two exports."""
    tracker: Literal["trackio", "wandb"] | None = None
    """Experiment tracker that gets each learner step's metrics, one of its runs per run; its package must be
    installed."""
    project: str = Field(default="upturn", min_length=1, max_length=100)
    """Name of the tracker's project, and of the service in traces and metrics."""
