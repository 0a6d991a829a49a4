"""The tokenizer of the scripted engine: 259 tokens, one for each byte and ChatML's three. Needs no files.

It implements `tokenizer.Tokenizer`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from server.rendering.content_marks import without_splits
from server.rendering.json_text import escaped

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
    """Encodes UTF-8 bytes as themselves, and special tokens in the text as their ids."""

    size = VOCABULARY_SIZE
    parts: Collection[int] = ()
    normalize: Callable[[str], str] | None = None
    longest = max(map(len, SPECIAL))

    def encode(self, text: str) -> list[int]:
        """Return ids without adding special tokens."""
        ids: list[int] = []
        for part in _SPLIT.split(text):
            ids.extend([SPECIAL[part]] if part in SPECIAL else escaped(without_splits(part)).encode())
        return ids

    def shown(self, token_ids: Sequence[int]) -> list[int]:
        """Return the ids that `decode` shows."""
        return [token_id for token_id in token_ids if token_id < END_OF_TEXT]

    def text_of(self, token_id: int) -> str:
        """Return the text of one token, special or not."""
        return self.decode_all([token_id])

    def marks(self, template: str) -> Collection[str]:
        """Return the texts of the tokens that only the template may write."""
        return SPECIAL.keys()

    def decode(self, token_ids: Sequence[int], skip_special: bool = True) -> str:
        """Return text; invalid UTF-8 becomes replacement characters."""
        raw = bytearray()
        for token_id in token_ids:
            if token_id < END_OF_TEXT:
                raw.append(token_id)
            elif not skip_special:
                raw.extend(_SPECIAL_TEXT[token_id].encode())
        return raw.decode(errors="replace")

    def decode_all(self, token_ids: Sequence[int]) -> str:
        """Return text including special tokens."""
        return self.decode(token_ids, skip_special=False)
