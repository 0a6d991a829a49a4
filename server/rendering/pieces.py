"""The text of each token, for people who look at what was sampled."""

from __future__ import annotations

from collections.abc import Sequence

from server.rendering.tokenizer import Tokenizer

BROKEN = "\ufffd"
MOST = 8
"""Tokens that can spell one character together; more of them are shown as they are."""


def pieces(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[str]:
    """Return [T] the text of each token, special tokens included.

    A character that several tokens spell is the text of the last of them; the others are empty.
    """
    texts: dict[int, str] = {}
    shown: list[str] = []
    pending: list[int] = []
    for token_id in token_ids:
        if token_id not in texts:
            texts[token_id] = tokenizer.text_of(token_id)
        if not pending and BROKEN not in texts[token_id]:
            shown.append(texts[token_id])
            continue
        pending.append(token_id)
        joined = tokenizer.decode_all(pending)
        whole = not joined.endswith(BROKEN)
        shown.append(joined if whole or len(pending) == MOST else "")
        if whole or len(pending) == MOST:
            pending = []
    if pending:
        shown[-1] = tokenizer.decode_all(pending)
    return shown
