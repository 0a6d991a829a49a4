"""What clients say about a conversation in headers and in fields next to its messages.

| client | what it sends |
|---|---|
| Claude Code | `X-Claude-Code-Session-Id`, and the same id within `metadata.user_id` |
| Codex | `session-id` (earlier `session_id`), the same for all threads of a session; `prompt_cache_key` |
| opencode | `x-opencode-session` to its own providers, `X-Session-Id` and `x-session-affinity` to others |
| verifiers | `X-Session-ID`, one for each rollout |
| LiteLLM, Helicone, Open WebUI | `x-litellm-session-id`, `Helicone-Session-Id`, `X-OpenWebUI-Chat-Id` |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from server.recording.matching.talk import Hints

CONVERSATION_HEADERS = (
    "x-conversation-id",
    "conversation-id",
    "x-session-id",
    "x-claude-code-session-id",
    "x-opencode-session",
    "session-id",
    "session_id",
    "thread-id",
    "x-openwebui-chat-id",
    "x-litellm-session-id",
    "helicone-session-id",
)
"""Headers with the client's id of a conversation: the first that is sent counts."""
GROUP_HEADERS = ("x-session-affinity",)
"""Headers whose value calls of one conversation share, and sometimes calls of several."""
CONVERSATION_FIELDS = ("conversation_id", "thread_id", "session_id", "chat_id")
"""The same in `metadata`."""
CALLER_FIELDS = ("user", "safety_identifier", "prompt_cache_key")
"""Fields next to the messages that tell apart users, or groups of calls."""
LONGEST = 512
"""Characters of an id beyond which it is none."""
_OF_CLAUDE_CODE = re.compile(r"_session_([0-9a-fA-F-]{36})$")


def read_hints(headers: Mapping[str, str], fields: Mapping[str, Any], returned: tuple[str, ...] = ()) -> Hints:
    """Return what a request says about its conversation.

    Args:
        headers: the request's headers.
        fields: the fields of its body next to the messages.
        returned: ids of recorded turns, responses and items that it contains, the newest first.
    """
    metadata = fields.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    user = _id(metadata.get("user_id"))
    session = _session_of(user)
    conversation = next((name for header in CONVERSATION_HEADERS if (name := _id(headers.get(header)))), "")
    if not conversation:
        conversation = next((name for field in CONVERSATION_FIELDS if (name := _id(metadata.get(field)))), session)
    users = [_id(fields.get("user")), _id(fields.get("safety_identifier")), "" if session else user]
    group = [_id(fields.get("prompt_cache_key")), *(_id(headers.get(header)) for header in GROUP_HEADERS)]
    return Hints(conversation or None, _joined(users), _joined(group), returned)


def _joined(ids: Sequence[str]) -> str:
    """Return one text for several ids, different for different ones, and on one line; a single id is its own."""
    kept = [each for each in ids if each]
    if not kept or (len(kept) == 1 and "\n" not in kept[0] and not kept[0].startswith("[")):
        return "".join(kept)
    return json.dumps(ids)


def _id(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value.strip() if isinstance(value, str) and len(value) <= LONGEST else ""


def _session_of(user_id: str) -> str:
    """Return the session within the `user_id` of Claude Code, as JSON or at its end; otherwise an empty string."""
    if user_id.startswith("{"):
        try:
            return _id(json.loads(user_id).get("session_id"))
        except (ValueError, RecursionError):
            return ""
    found = _OF_CLAUDE_CODE.search(user_id)
    return found[1] if found else ""
