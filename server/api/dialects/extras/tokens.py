"""vLLM's `POST /tokenize` and `POST /detokenize`: a prompt's token ids, and their text. Nothing is recorded."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server import heavy
from server.api.dialects.call import CallOf
from server.api.dialects.chat_request import MOST_MESSAGES, MOST_TOOLS, ChatRequest
from server.api.dialects.conversation import ConversationsOf
from server.api.dialects.dialect import Dialect
from server.api.dialects.tools.chat_tools import Tool
from server.api.dialects.translation import checked
from server.errors import BadRequest

dialect = Dialect("tokens")
MOST_TOKENS = 250_000


class TokenizeRequest(BaseModel):
    """A text, or a conversation as a chat request has it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = Field(default=None, min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    tools: list[Tool] | None = Field(default=None, max_length=MOST_TOOLS)
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, max_length=32)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(BaseModel):
    """Token ids."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MOST_TOKENS, fail_fast=True)]


@dialect.post("/tokenize")
async def tokenize(body: TokenizeRequest, conversations: ConversationsOf, call: CallOf) -> dict[str, Any]:
    """Return the ids of a text, or of a conversation's prompt."""
    if (body.prompt is None) == (body.messages is None):
        raise BadRequest("send either prompt or messages", param="prompt")
    model = body.model or conversations.policy
    await conversations.require(model)
    if body.prompt is not None:
        text = body.prompt
        ids = await heavy.run(call.size, lambda: conversations.tokenizer.encode(text))
    else:
        tools = [tool.model_dump(mode="json", exclude_none=True) for tool in body.tools or []]
        fields = body.model_dump(include={"messages", *_OF_CHAT})
        ids = await conversations.prompt_ids(
            call, checked(ChatRequest, {**fields, "model": model, "tools": tools or None})
        )
    shown = [conversations.tokenizer.text_of(token_id) for token_id in ids] if body.return_token_strs else None
    return {
        "count": len(ids),
        "max_model_len": conversations.engine.context_tokens,
        "tokens": ids,
        "token_strs": shown,
    }


@dialect.post("/detokenize")
async def detokenize(body: DetokenizeRequest, conversations: ConversationsOf, call: CallOf) -> dict[str, str]:
    """Return the text of token ids, including special tokens."""
    await conversations.require(body.model or conversations.policy)
    size = conversations.tokenizer.size
    if body.tokens and max(body.tokens) >= size:
        raise BadRequest(f"a token must be below {size}", param="tokens")
    return {"prompt": await heavy.run(call.size, lambda: conversations.tokenizer.decode_all(body.tokens))}


_OF_CHAT = ("chat_template_kwargs", "add_generation_prompt", "continue_final_message")
