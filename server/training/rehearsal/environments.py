"""Rehearses environments: opens each, lets the served policy take a turn or two, and closes it. Nothing is recorded.

Prompts, answers and actions are made by the same functions as in a play; only their record is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from env_adapters.calls import text_of_call
from env_adapters.hosting.instances import plain_text
from env_adapters.hosting.messages import class_of, text_of
from env_adapters.protocol import Transition
from server import heavy
from server.engines.protocol import Engine, SamplingParams
from server.environments.open_environments import OpenEnvironment, OpenEnvironments
from server.errors import EnvironmentsFull
from server.recording.episode import Episode
from server.recording.prompts import render_prompt
from server.recording.turn_request import TurnRequest
from server.rendering.answers import AnswerReader
from server.rendering.render import Renderer
from server.training.data.curriculum import tasks_of, tasks_of_split
from server.training.rehearsal.report import Finding, failed, ok, warning
from server.versions.routing import Pointers
from upturn.messages import Message, result_messages
from upturn.wire import PlayPlan, RunConfig, Sampling

TURNS = 2
"""Turns of a rehearsal's episode: the second one shows that an observation can be answered."""
TOKENS = 16
"""Longest answer, in tokens."""


@dataclass(frozen=True, slots=True)
class Use:
    """One way in which a run uses an environment."""

    environment: str
    task: Callable[[], str]
    """Returns a task to try; may read files."""
    version: int
    """The policy version that plays it."""
    sampling: Sampling
    oracle: bool = False
    """The environment's own solver plays."""
    tools: bool = False
    """The policy acts by tool calls."""

    @property
    def name(self) -> str:
        """What the check is called."""
        how = " by its solver" if self.oracle else " with tools" if self.tools else ""
        return f"environment {self.environment}{how}"


def uses_of(config: RunConfig, pointers: Pointers) -> list[Use]:
    """Return the environments of a run's plays, evaluation and guards, each once for each way in which it is used."""
    found: dict[str, Use] = {}
    for use in _all_uses(config, pointers):
        found.setdefault(use.name, use)
    return list(found.values())


def _all_uses(config: RunConfig, pointers: Pointers) -> Iterator[Use]:
    if (plan := config.play) is not None:
        for name in plan.choices:
            yield Use(name, _first_of_play(plan, name), pointers.head, plan.sampling, oracle=plan.agent == "oracle")
    if (evaluation := config.evaluation) is not None:
        for name, listed in (*evaluation.tasks.items(), *evaluation.guards.items()):
            yield Use(name, _first_of(name, listed), pointers.champion, evaluation.sampling, tools=evaluation.tools)


def _first_of_play(plan: PlayPlan, name: str) -> Callable[[], str]:
    return lambda: tasks_of(PlayPlan(environments={name: plan.choices[name]}))[name][0]


def _first_of(name: str, listed: list[str] | str) -> Callable[[], str]:
    return lambda: (tasks_of_split(name, listed) if isinstance(listed, str) else listed)[0]


class Trial:
    """Plays a few turns without a record."""

    def __init__(self, engine: Engine, renderer: Renderer, pointers: Pointers, environments: OpenEnvironments) -> None:
        self._engine = engine
        self._renderer = renderer
        self._pointers = pointers
        self._environments = environments

    async def findings(self, use: Use) -> list[Finding]:
        """Open an environment, play it, and close it.

        Raises:
            UpturnError: it could not be opened, or the engine did not answer.
        """
        task = await asyncio.to_thread(use.task)
        try:
            opened, reset = await self._environments.prepare(use.environment, task, 0)
        except EnvironmentsFull as error:
            return [warning(f"not tried, since other episodes use the capacity now: {error.message}")]
        try:
            messages: list[Message] = [dict(message) for message in reset.messages]
            return await self._played(use, opened, messages)
        finally:
            self._environments.discard(opened)

    async def _played(self, use: Use, opened: OpenEnvironment, messages: list[Message]) -> list[Finding]:
        found: list[Finding] = []
        tools = (await self._environments.instances.spec(use.environment)).tools if use.tools else []
        if use.tools and not tools:
            return [failed("has no tools, which the evaluation asks for: set evaluation.tools to false")]
        turns = prompt_tokens = 0
        while turns < TURNS:
            if use.oracle:
                try:
                    answer: Message = {"role": "assistant", "content": await opened.instance.oracle()}
                except NotImplementedError:
                    return [failed("has no solver: set play.agent to `policy`, or choose another environment")]
                except Exception as error:
                    return [failed(f"its solver failed: {class_of(error)}: {text_of(error)}")]
            else:
                prompt_ids, answer = await self._answer(use, messages, tools)
                if not turns:
                    prompt_tokens = prompt_ids
            turns += 1
            try:
                transition = await self._act(use, opened, answer)
            except Exception as error:
                return [failed(f"failed at turn {turns}: {class_of(error)}: {text_of(error)}")]
            if transition.terminated or transition.truncated:
                break
            messages += [answer, *result_messages(answer, transition.observation)]
        context, longest = self._engine.context_tokens, use.sampling.max_tokens
        if prompt_tokens + longest > context:
            found.append(
                warning(
                    f"its first prompt has {prompt_tokens} tokens, and with sampling.max_tokens {longest} that is more "
                    f"than the context of {context}: episodes end early; raise engine.context_tokens"
                )
            )
        who = "its solver" if use.oracle else f"{self._pointers.name}@{use.version}"
        length = "" if use.oracle else f"; the first prompt has {prompt_tokens} of {context} tokens"
        return [*found, ok(f"opened, {turns} turns by {who}, closed{length}")]

    async def _answer(self, use: Use, messages: list[Message], tools: list[Message]) -> tuple[int, Message]:
        """Return the number of the prompt's tokens, and the policy's answer."""
        params = SamplingParams(min(TOKENS, use.sampling.max_tokens), temperature=use.sampling.temperature, seed=0)
        request = TurnRequest(list(messages), params, tools=tools, parallel_calls=False, whole=True)
        episode = Episode("rehearsal", use.environment, None, 0, TURNS, use.version, "other", trainable=False)
        weight = sum(len(str(message)) for message in messages)
        rendered = await heavy.run(weight, lambda: render_prompt(self._renderer, episode, request))
        room = self._engine.context_tokens - len(rendered.prompt.ids)
        reader = AnswerReader(self._renderer.tokenizer, rendered.format)
        sampling = request.params(0, room, self._renderer.stop_ids)
        async with aclosing(self._engine.generate(use.version, rendered.prompt.ids, sampling, whole=True)) as pieces:
            async for piece in pieces:
                reader.push(piece.token_ids)
        reader.finish()
        message = reader.message
        answer: Message = {"role": "assistant", "content": message["content"] or ""}
        calls = message.get("tool_calls")
        return len(rendered.prompt.ids), {**answer, "tool_calls": calls} if calls else answer

    async def _act(self, use: Use, opened: OpenEnvironment, answer: Message) -> Transition:
        """Act in the environment as a play would."""
        text = answer["content"]
        if calls := answer.get("tool_calls"):
            called = calls[0]["function"]
            spec = await self._environments.instances.spec(use.environment)
            try:
                text = text_of_call(spec, called["name"], called["arguments"])
            except ValueError as error:
                return Transition(plain_text(str(error)), 0.0, False, valid=False)
        return await opened.instance.step(plain_text(text))
