"""Prometheus metrics (`GET /metrics`), counted in this process since it started.

The database is the complete record; these counters are its rates. `docs/metrics.md` lists them, and a test compares.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

TRAINABLE = "trainable"
RECENT = 1000
"""Number of newest turns whose reasons are kept."""
RATED_S = 60
"""Seconds over which the present rates are averaged."""


class RecordedTurn(Protocol):
    """The counted properties of a recorded turn."""

    @property
    def untrainable_reason(self) -> str | None:
        """Why the learner must not train on it, or None."""

    @property
    def forked(self) -> bool:
        """Whether it does not extend its episode's newest turn."""

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the whole prompt."""

    @property
    def completion_tokens(self) -> int:
        """Number of tokens of the answer."""

    @property
    def duration_ms(self) -> float:
        """Time from the start of sampling to the end of the answer."""


@dataclass(slots=True)
class Rates:
    """What was recorded in some seconds; per second as `Metrics.rates` returns it."""

    turns: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0

    def add(self, other: Rates) -> None:
        """Add other figures."""
        self.turns += other.turns
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens


class Metrics:
    """The counters of one server."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds_of: dict[int, Rates] = {}
        """What was recorded in each of the last seconds."""
        self.registry = CollectorRegistry()
        self._turns = Counter(
            "upturn_turns",
            "Recorded turns by outcome: `trainable`, or why not",
            ["outcome"],
            registry=self.registry,
        )
        self._forks = Counter(
            "upturn_forks", "Turns that did not extend their episode's newest turn", registry=self.registry
        )
        self._prompt = Counter("upturn_prompt_tokens", "Prompt tokens of recorded turns", registry=self.registry)
        self._answered = Counter("upturn_answer_tokens", "Tokens of recorded answers", registry=self.registry)
        self._seconds = Histogram(
            "upturn_turn_seconds",
            "From the start of sampling to the end of the answer, split by whether a learner is training",
            ["training"],
            registry=self.registry,
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )
        self._recent: deque[str | None] = deque(maxlen=RECENT)
        """Why the newest turns cannot be trained on."""
        self.training: Callable[[], bool] = lambda: False
        """Returns whether a learner is training."""
        self._ended = Counter(
            "upturn_episodes_ended",
            "Ended episodes by status and error class",
            ["status", "error_class"],
            registry=self.registry,
        )
        self._scores = Counter(
            "upturn_scores",
            "Episodes handled by a scorer: `scored`, `cached` or `error`",
            ["scorer", "outcome"],
            registry=self.registry,
        )
        self.champion = Gauge("upturn_champion_version", "Version that serves live traffic", registry=self.registry)
        self.head = Gauge("upturn_head_version", "Newest trained version", registry=self.registry)
        self.busy = Gauge("upturn_turns_in_progress", "Answers being sampled or recorded", registry=self.registry)
        self.engine_up = Gauge("upturn_engine_up", "1 while the engine can answer", registry=self.registry)
        self._notifications = Counter(
            "upturn_notifications",
            "Attempts to deliver a notification (`sent`, `failed`), and notifications `given_up`",
            ["target", "outcome"],
            registry=self.registry,
        )
        self.notifications_waiting = Gauge(
            "upturn_notifications_waiting",
            "Notifications that have not arrived yet",
            ["target"],
            registry=self.registry,
        )

        self._exports = Counter(
            "upturn_telemetry",
            "Requests to an OTLP receiver or an experiment tracker: `sent` or `failed`",
            ["target", "outcome"],
            registry=self.registry,
        )

    def exported(self, target: str, outcome: str) -> None:
        """Count a request to a receiver of telemetry."""
        self._exports.labels(target, outcome).inc()

    def turn(self, turn: RecordedTurn) -> None:
        """Count a recorded turn."""
        self._turns.labels(turn.untrainable_reason or TRAINABLE).inc()
        self._recent.append(turn.untrainable_reason)
        self._forks.inc(turn.forked)
        self._prompt.inc(turn.prompt_tokens)
        self._answered.inc(turn.completion_tokens)
        self._seconds.labels("yes" if self.training() else "no").observe(turn.duration_ms / 1000)
        second = int(self._clock())
        if second not in self._seconds_of:
            self._seconds_of = {at: its for at, its in self._seconds_of.items() if at > second - RATED_S}
            self._seconds_of[second] = Rates()
        self._seconds_of[second].add(Rates(1, turn.prompt_tokens, turn.completion_tokens))

    def rates(self) -> Rates:
        """Return what was recorded in the last minute, per second."""
        now, total = int(self._clock()), Rates()
        for at, its in self._seconds_of.items():
            if at > now - RATED_S:
                total.add(its)
        return Rates(total.turns / RATED_S, total.prompt_tokens / RATED_S, total.completion_tokens / RATED_S)

    def recent_turns(self) -> tuple[int, dict[str, int]]:
        """Return the number of newest turns, at most `RECENT`, and how many of them are untrainable, by reason."""
        reasons = [reason for reason in self._recent if reason is not None]
        return len(self._recent), dict(Tally(reasons).most_common())

    def ended(self, status: str, error_class: str | None) -> None:
        """Count an ended episode."""
        self._ended.labels(status, error_class or "").inc()

    def scored(self, scorer: str, outcome: str) -> None:
        """Count the outcome of a scorer's work on an episode."""
        self._scores.labels(scorer, outcome).inc()

    def notified(self, target: str, outcome: str) -> None:
        """Count an attempt to deliver a notification, or a notification that is given up."""
        self._notifications.labels(target, outcome).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
