"""An episode as a trace, in OpenTelemetry's conventions for generative AI (`gen_ai.*`). Pure functions.

The episode is `invoke_agent`, each turn `chat`, each environment step `execute_tool`, and each reward from outside a
span of no length with the event `gen_ai.evaluation.result`. Ids are hashes of the record's own, so what is sent twice
is the same span. Messages follow the conventions' JSON form: a role and parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from server.store.tables import RewardRow, StepRow, TurnRow
from server.telemetry.ended import Ended
from upturn import __version__

PROVIDER = "upturn"
SCOPE = InstrumentationScope("upturn", __version__)
NS = 1_000_000_000
LONGEST_TEXT = 100_000
"""Characters of one text that are sent."""


class Traces:
    """Makes the spans of one server."""

    def __init__(self, service: str, policy: str, *, content: bool) -> None:
        """Take the names that spans have.

        Args:
            service: name of the service.
            policy: name of the policy, which agents send as `model`.
            content: whether spans contain what was said.
        """
        self.resource = Resource.create({"service.name": service, "service.version": __version__})
        self._policy = policy
        self._content = content

    def of_episode(self, episode: Ended) -> list[ReadableSpan]:
        """Return the spans of an episode that has ended: itself, its turns, and its steps."""
        row = episode.row
        name = row.environment or str(row.details.get("agent") or self._policy)
        began = [row.opened_at, *(turn.created_at - turn.duration_ms / 1000 for turn in episode.turns)]
        ended = [row.closed_at or row.opened_at, *(turn.created_at for turn in episode.turns)]
        agent = self._span(
            row.id,
            row.id,
            f"invoke_agent {name}",
            began_at=min(began),
            ended_at=max(ended),
            attributes={
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": name,
                "upturn.episode.status": row.status,
                "upturn.episode.reason": row.reason,
                "upturn.environment": row.environment,
                "upturn.task": row.task,
                "upturn.group": row.group_key,
                "upturn.purpose": row.purpose,
                "upturn.policy_version": row.policy_version,
                "upturn.success": row.success,
                "upturn.reward": sum(step.reward for step in episode.steps) if episode.steps else None,
                "error.type": row.error_class,
            },
            status=Status(StatusCode.ERROR, row.error_class) if row.status == "error" else None,
        )
        turns = [self._turn(row.id, turn) for turn in episode.turns]
        steps = [self._step(row.id, row.environment or "", step) for step in episode.steps]
        return [agent, *turns, *steps]

    def of_reward(self, reward: RewardRow) -> ReadableSpan:
        """Return the span of a reward from outside the environment."""
        facts: dict[str, Any] = {"gen_ai.evaluation.name": reward.source, "gen_ai.evaluation.score.value": reward.value}
        at = int(reward.created_at * NS)
        return self._span(
            reward.episode_id,
            reward.id,
            f"evaluation {reward.source}",
            began_at=reward.created_at,
            ended_at=reward.created_at,
            attributes={**facts, "upturn.turn.index": reward.turn_index},
            events=[Event("gen_ai.evaluation.result", facts, timestamp=at)],
        )

    def _turn(self, episode_id: str, turn: TurnRow) -> ReadableSpan:
        said = {}
        if self._content:
            said = {
                "gen_ai.input.messages": _messages(turn.messages),
                "gen_ai.output.messages": _messages([turn.answer], finish_reason=turn.finish_reason),
            }
        version = turn.policy_version
        return self._span(
            episode_id,
            turn.id,
            f"chat {self._policy}",
            began_at=turn.created_at - turn.duration_ms / 1000,
            ended_at=turn.created_at,
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": self._policy,
                "gen_ai.request.temperature": turn.temperature,
                "gen_ai.response.model": None if version is None else f"{self._policy}@{version}",
                "gen_ai.response.id": turn.id,
                "gen_ai.response.finish_reasons": [turn.finish_reason],
                "gen_ai.usage.input_tokens": turn.prompt_tokens,
                "gen_ai.usage.output_tokens": turn.completion_tokens,
                "upturn.turn.index": turn.index,
                "upturn.turn.forked": turn.forked,
                "upturn.trainable": turn.trainable,
                "upturn.untrainable_reason": turn.untrainable_reason,
                "upturn.policy_version": version,
                **said,
            },
        )

    def _step(self, episode_id: str, environment: str, step: StepRow) -> ReadableSpan:
        said = {}
        if self._content:
            said = {
                "gen_ai.tool.call.arguments": json.dumps({"action": _cut(step.action)}, ensure_ascii=False),
                "gen_ai.tool.call.result": json.dumps({"observation": _cut(step.observation)}, ensure_ascii=False),
            }
        return self._span(
            episode_id,
            f"{episode_id}/step/{step.index}",
            f"execute_tool {environment}",
            began_at=step.created_at,
            ended_at=step.created_at,
            attributes={
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": environment,
                "upturn.step.index": step.index,
                "upturn.reward": step.reward,
                "upturn.terminated": step.terminated,
                "upturn.truncated": step.truncated,
                "upturn.valid": step.info.get("valid", True),
                **said,
            },
        )

    def _span(
        self,
        episode_id: str,
        key: str,
        name: str,
        *,
        began_at: float,
        ended_at: float,
        attributes: Mapping[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status | None = None,
        events: Iterable[Event] = (),
    ) -> ReadableSpan:
        """Return a span of an episode's trace; the one whose key is the episode's id is the root."""
        known = {"gen_ai.provider.name": PROVIDER, "gen_ai.conversation.id": episode_id, **attributes}
        return ReadableSpan(
            name,
            context=_context(episode_id, key),
            parent=None if key == episode_id else _context(episode_id, episode_id),
            resource=self.resource,
            attributes={name: value for name, value in known.items() if value is not None},
            events=list(events),
            kind=kind,
            status=status or Status(StatusCode.UNSET),
            start_time=int(began_at * NS),
            end_time=int(max(began_at, ended_at) * NS),
            instrumentation_scope=SCOPE,
        )


def _context(episode_id: str, key: str) -> SpanContext:
    trace = int.from_bytes(hashlib.sha256(episode_id.encode()).digest()[:16])
    span = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
    return SpanContext(trace or 1, span or 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} [cut]"


def _messages(messages: Iterable[Mapping[str, Any]], **more: Any) -> str:
    """Return messages in the conventions' form, as JSON."""
    return json.dumps([{"role": m.get("role"), "parts": _parts(m), **more} for m in messages], ensure_ascii=False)


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") == "tool":
        return [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": _text(content)}]
    parts: list[dict[str, Any]] = []
    if thought := message.get("reasoning_content") or message.get("reasoning"):
        parts.append({"type": "reasoning", "content": _cut(str(thought))})
    if text := _text(content):
        parts.append({"type": "text", "content": text})
    for call in message.get("tool_calls") or []:
        called = call.get("function") or {}
        arguments = called.get("arguments")
        parts.append(
            {
                "type": "tool_call",
                "id": call.get("id"),
                "name": called.get("name"),
                "arguments": _cut(arguments) if isinstance(arguments, str) else arguments,
            }
        )
    return parts


def _text(content: object) -> str:
    """Return a message's content as text; of other parts, their types."""
    if isinstance(content, list):
        return _cut(
            "\n".join(
                str(part.get("text") if "text" in part else f"[{part.get('type')}]")
                for part in content
                if isinstance(part, dict)
            )
        )
    return "" if content is None else _cut(str(content))
