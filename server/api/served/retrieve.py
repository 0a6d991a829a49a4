"""Search-R1's retrieval protocol over a `search` environment's corpus, for trainers that play search themselves.

`POST /retrieve` takes `query` or `queries`, returns the best passages for each, and records nothing. `?environment=`
selects the corpus; the default is the Factbook.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from env_adapters import environment_spec
from env_adapters.protocol import EnvironmentFailure, UnknownTask
from env_adapters.search.index import Hit
from env_adapters.search.spec import Search
from server.api.access.authentication import needs
from server.errors import BadRequest, EnvironmentFailed, NotFound

MOST_QUERIES, MOST_PASSAGES = 512, 100

router = APIRouter(tags=["served"])

Query = Annotated[StrictStr, Field(max_length=10_000)]
Queries = Annotated[list[Query], Field(max_length=MOST_QUERIES)]


class RetrieveRequest(BaseModel):
    """The request of Search-R1's and SkyRL's clients."""

    model_config = ConfigDict(extra="forbid")

    query: Query | Queries | None = None
    queries: Queries | None = None
    topk: Annotated[int, Field(strict=True, ge=1, le=MOST_PASSAGES)] | None = None
    """Search-R1's default: 3."""
    return_scores: StrictBool = False


class RetrieveResult(BaseModel):
    """The passages of each query: `{"document": ..., "score": ...}`, or the documents alone without scores."""

    result: list[list[dict[str, Any]]]


@router.post("/retrieve", dependencies=[needs("agent")])
def retrieve(body: RetrieveRequest, environment: str = "search") -> RetrieveResult:
    """Return the best passages for each query."""
    asked = body.queries if body.queries is not None else body.query
    if asked is None or (body.queries is not None and body.query is not None):
        raise BadRequest("exactly one of query and queries is required", param="queries")
    try:
        definition = environment_spec(environment)
    except UnknownTask as error:
        raise NotFound(str(error.args[0]), param="environment", code="environment_not_found") from error
    if not isinstance(definition, Search):
        raise BadRequest(f"environment {environment!r} has no passages to search", param="environment")
    queries = [asked] if isinstance(asked, str) else asked
    try:
        hits = [definition.retriever.search(query, body.topk or 3) for query in queries]
    except EnvironmentFailure as error:
        raise EnvironmentFailed(f"{environment}: {error}") from error
    return RetrieveResult(result=[[_shown(hit, scored=body.return_scores) for hit in each] for each in hits])


def _shown(hit: Hit, *, scored: bool) -> dict[str, Any]:
    document = {"contents": f'"{hit.passage.title}"\n{hit.passage.text}'}
    return {"document": document, "score": hit.score} if scored else document
