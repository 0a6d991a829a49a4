"""Plays search environments in tests."""

from __future__ import annotations

import hashlib

from env_adapters.protocol import Transition
from env_adapters.search.questions import factbook_questions
from env_adapters.search.spec import Inquiry, Search

QUESTIONS = {question.task: question for question in factbook_questions()}
EXAMPLE = "2/former-northern-rhodesia/capital"


def begun(spec: Search, task: str) -> Inquiry:
    env = spec.make()
    env.reset(task, 0)
    return env


def solve(env: Inquiry) -> list[Transition]:
    seen = [env.step(env.oracle())]
    while not seen[-1].terminated:
        assert len(seen) < 10
        seen.append(env.step(env.oracle()))
    return seen


def digest(spec: Search) -> str:
    """Return a digest of everything a player can see: tasks, first messages, and some search results."""
    seen, env = hashlib.sha256(), spec.make()
    for split in spec.splits():
        for task in spec.tasks(split):
            seen.update(repr((split, task, env.reset(task, 0))).encode())
    for task in list(QUESTIONS)[::40]:
        env.reset(task, 0)
        seen.update(repr(solve(env)).encode())
    return seen.hexdigest()
