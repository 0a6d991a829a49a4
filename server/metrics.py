"""What operations watch, as Prometheus reads it (`GET /metrics`): counted in this process since it started.

The record in the database is the truth; these are its rates. `docs/metrics.md` lists them, and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from server.recording.recorder import NewTurn

TRAINABLE = "trainable"


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._turns = Counter(
            "upturn_turns",
            "Recorded turns; why one is not trainable, else `trainable`",
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
            "From the start of sampling to the durable turn, apart while a learner is at work",
            ["training"],
            registry=self.registry,
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
        )
        self.training: Callable[[], bool] = lambda: False
        """Says whether a learner is at work."""
        self._ended = Counter(
            "upturn_episodes_ended",
            "Ended episodes by status and class of failure",
            ["status", "error_class"],
            registry=self.registry,
        )
        self._scores = Counter(
            "upturn_scores",
            "Episodes dealt with by a scorer: `scored`, `cached` or `error`",
            ["scorer", "outcome"],
            registry=self.registry,
        )
        self.champion = Gauge("upturn_champion_version", "Version that live traffic gets", registry=self.registry)
        self.head = Gauge("upturn_head_version", "Newest trained version", registry=self.registry)
        self.busy = Gauge("upturn_turns_in_progress", "Answers being sampled or recorded", registry=self.registry)
        self.engine_up = Gauge("upturn_engine_up", "1 while the engine can answer", registry=self.registry)

    def turn(self, turn: NewTurn) -> None:
        """Count a recorded turn."""
        self._turns.labels(turn.untrainable_reason or TRAINABLE).inc()
        self._forks.inc(turn.prompt.forked)
        self._prompt.inc(len(turn.prompt.ids))
        self._answered.inc(turn.completion_tokens)
        self._seconds.labels("yes" if self.training() else "no").observe(turn.duration_ms / 1000)

    def ended(self, status: str, error_class: str | None) -> None:
        """Count an ended episode."""
        self._ended.labels(status, error_class or "").inc()

    def scored(self, scorer: str, outcome: str) -> None:
        """Count what came of a scorer's work on an episode."""
        self._scores.labels(scorer, outcome).inc()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
