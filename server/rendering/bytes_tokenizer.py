"""A tokenizer of 259 tokens, one a byte and ChatML's three, for chats that need no model files.

The scripted engine speaks it. It has what `render.Renderer` asks of a tokenizer, and no dependency.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

END_OF_TEXT, IM_START, IM_END = 256, 257, 258
SPECIAL = {"<|endoftext|>": END_OF_TEXT, "<|im_start|>": IM_START, "<|im_end|>": IM_END}
VOCABULARY_SIZE = 259
END_OF_TURN = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_SPECIAL_TEXT = {token_id: text for text, token_id in SPECIAL.items()}
_SPLIT = re.compile("(" + "|".join(re.escape(text) for text in SPECIAL) + ")")


class BytesTokenizer:
    """UTF-8 bytes are their own ids; special tokens in the text become theirs."""

    size = VOCABULARY_SIZE

    def encode(self, text: str) -> list[int]:
        """Return ids, adding no special tokens."""
        ids: list[int] = []
        for part in _SPLIT.split(text):
            ids.extend([SPECIAL[part]] if part in SPECIAL else part.encode())
        return ids

    def decode(self, token_ids: Sequence[int], skip_special: bool = True) -> str:
        """Return text; bytes that are no UTF-8 become replacement characters."""
        raw = bytearray()
        for token_id in token_ids:
            if token_id < END_OF_TEXT:
                raw.append(token_id)
            elif not skip_special:
                raw.extend(_SPECIAL_TEXT[token_id].encode())
        return raw.decode(errors="replace")
