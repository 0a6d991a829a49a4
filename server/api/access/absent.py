"""APIs of OpenAI's that this server does not have. It says so, since clients take a bare 404 for a wrong base URL."""

from __future__ import annotations

import re

ABSENT = {
    "embeddings": "embeddings: the policy is a language model; configure another server for them",
    "moderations": "moderations",
    "images": "images",
    "audio": "audio",
    "files": "files",
    "conversations": "stored conversations: use previous_response_id",
    "assistants": "assistants: use /v1/responses",
    "threads": "threads: use /v1/responses",
    "vector_stores": "vector stores",
    "fine_tuning": "fine-tuning jobs: use /v1/runs",
    "realtime": "realtime sessions",
    "rerank": "reranking",
}
"""What is absent, by the first part of its path."""
_OF_OPENAI = re.compile(r"(?:/episodes/[^/]+)?/v1/([a-z_]+)(?:/|$)")


def what_is_absent(path: str) -> str | None:
    """Return the name of the absent API that a path belongs to, or None."""
    found = _OF_OPENAI.match(path)
    return ABSENT.get(found[1]) if found else None
