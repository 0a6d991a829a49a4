"""Homes for agents, and a scripted engine that follows JSON schemas."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import jsonschema_rs
import pytest

from server.engines.protocol import Piece, SamplingParams
from server.engines.scripted import ScriptedEngine
from server.rendering.bytes_tokenizer import BytesTokenizer
from tests.support.programs.agents import Sandbox, Schemas, sandbox


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Sandbox]:
    """An agent's home. It fails the test if the agent tries to reach another machine."""
    with sandbox(tmp_path / "agent") as made:
        yield made
    assert made.asked == [], "the agent tried to reach other machines"


@pytest.fixture
def schemas(monkeypatch: pytest.MonkeyPatch) -> Schemas:
    """Let the scripted engine accept JSON schemas, and compare its answers with them."""
    seen = Schemas()
    generate = ScriptedEngine.generate

    async def following(
        self: ScriptedEngine, version: int, prompt_ids: list[int], params: SamplingParams, *, whole: bool = False
    ) -> AsyncGenerator[Piece, None]:
        ids: list[int] = []
        async for piece in generate(self, version, prompt_ids, params, whole=whole):
            ids.extend(piece.token_ids)
            yield piece
        if params.json_schema is not None:
            seen.used.append(params.json_schema)
            try:
                jsonschema_rs.validate(params.json_schema, json.loads(BytesTokenizer().decode(ids)))
            except ValueError as error:
                seen.wrong.append(str(error))

    monkeypatch.setattr(ScriptedEngine, "constrains", True)
    monkeypatch.setattr(ScriptedEngine, "generate", following)
    return seen
