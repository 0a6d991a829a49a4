"""Conversations with more messages than a query has parameters: they are answered, or refused for what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.api.dialects.chat_request import MOST_MESSAGES
from server.engines.settings import EngineSettings
from tests.support.live import InProcess, in_process, script, settings_for
from tests.support.postgres import running_postgres

PARAMETERS = 65_535
"""PostgreSQL's limit for one query."""
ROOM = EngineSettings(kind="scripted", context_tokens=10_000_000)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[InProcess]:
    model = script(tmp_path / "script", "go on")
    settings = settings_for(tmp_path / "data", model=str(model), engine=ROOM)
    if request.param == "sqlite":
        async with in_process(settings) as server:
            yield server
        return
    with running_postgres() as postgres:
        async with in_process(settings.model_copy(update={"database_url": postgres.url})) as server:
            yield server


def answers(count: int) -> list[dict[str, Any]]:
    """Return a conversation with many answers, none of which is recorded."""
    talk = [{"role": "assistant", "content": f"{number}"} for number in range(count)]
    return [{"role": "user", "content": "Start"}, *talk, {"role": "user", "content": "And?"}]


def items(count: int) -> list[dict[str, Any]]:
    """Return the same as items of a response, each with an id that names a turn."""
    start, *talk, end = answers(count)
    return [
        start,
        *({"type": "message", "id": f"msg_turn_{number:024x}", **each} for number, each in enumerate(talk)),
        end,
    ]


async def test_a_conversation_of_the_most_messages_is_answered_in_every_dialect(server: InProcess) -> None:
    most = MOST_MESSAGES - 2
    await server.chat(answers(most))
    for path, body in (
        ("/v1/messages", {"messages": answers(most), "max_tokens": 5}),
        ("/v1/responses", {"input": items(most)}),
    ):
        await server.post(path, {"model": "policy", **body})


async def test_more_messages_than_parameters_are_the_requests_fault(server: InProcess) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": answers(PARAMETERS)}),
        ("/v1/messages", {"messages": answers(PARAMETERS), "max_tokens": 5}),
        ("/v1/responses", {"input": items(PARAMETERS)}),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": f"msg_turn_{n:024x}"} for n in range(10_000)]}),
    ):
        answer = await server.http.post(path, json={"model": "policy", **body})
        assert answer.status_code in (400, 404, 413) and "retry-after" not in answer.headers, (path, answer.text[:300])
