"""APIs of OpenAI's that this server does not have. It says so, since clients take a bare 404 for a wrong base URL."""

from __future__ import annotations

from server.api.dialects.dialect import Dialect
from server.errors import NotFound

ABSENT = {
    "/v1/embeddings": "embeddings: the policy is a language model; configure another server for them",
    "/v1/moderations": "moderations",
    "/v1/images/generations": "images",
    "/v1/audio/speech": "audio",
    "/v1/audio/transcriptions": "audio",
    "/v1/files": "files",
    "/v1/conversations": "stored conversations: use previous_response_id",
    "/v1/threads": "threads: use /v1/responses",
    "/v1/rerank": "reranking",
}
"""What is absent, by path."""
dialect = Dialect("absent")


def _absent(path: str, what: str) -> None:
    @dialect.absent(path)
    async def refuse() -> None:
        raise NotFound(f"this server does not have {what}", code="not_supported")


for _path, _what in ABSENT.items():
    _absent(_path, _what)
