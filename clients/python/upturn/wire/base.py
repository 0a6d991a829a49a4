"""What every message is, and what a server says of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """Common behaviour of all messages: frozen, strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class ServerView(Message):
    """What a ready server is."""

    status: Literal["ready"]
    model: str
    """The base model, as the settings name it."""
    name: str
    """Name of the policy: what agents send as `model`."""
    engine: str
    weights: Literal["full", "adapter"]
    """What is trained, published and swapped."""
    champion: int
    head: int
    context_tokens: int
    placement: str
    """Which GPU engine and learner have, and how much of its memory."""
