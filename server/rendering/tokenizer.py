"""Token ids to text and back: a model's `tokenizer.json`, and text that streams cleanly while ids are sampled.

Used by both directions of rendering: `template.py` encodes prompts, `answers.py` decodes answers.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from server import heavy
from server.errors import BadRequest
from server.rendering.content_marks import SPLIT
from server.rendering.tool_calls import MARKS, PROMPT_MARKS

_CONTEXT_TOKENS = 6
"""Settled tokens decoded again in front of new ones: a token's text may depend on its neighbors."""
_MARK = re.compile(r"(?=.*\w)(?=.*[^\w▁])\S{3,}")
"""An added token that can be a mark: not white space, and not a word or a part of one."""

logger = logging.getLogger(__name__)


class Tokenizer(Protocol):
    """What rendering needs from a tokenizer. Special tokens in a text become their ids."""

    @property
    def size(self) -> int:
        """Number of ids, counted from 0."""

    @property
    def longest(self) -> int | None:
        """Maximum number of characters that one token stands for; None if there is no maximum."""

    def encode(self, text: str) -> list[int]:
        """Return ids without adding special tokens."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return text without special tokens."""

    def decode_all(self, token_ids: Sequence[int]) -> str:
        """Return text including special tokens."""

    def marks(self, template: str) -> Collection[str]:
        """Return the texts of the tokens that only the template may write: content that spells them is text."""


class FileTokenizer:
    """The `tokenizer.json` of a model directory, read without transformers."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as FastTokenizer

        if not path.is_file():
            raise BadRequest(f"{path} is missing: the model needs a fast tokenizer (tokenizer.json)", code="bad_model")
        self._tokenizer = FastTokenizer.from_file(str(path))
        added = self._tokenizer.get_added_tokens_decoder()
        self._hidden = {i for i, token in added.items() if token.special and token.content not in MARKS}
        self._special = {token.content for token in added.values() if token.special and len(token.content.strip()) > 1}
        self._others = {token.content for token in added.values() if _MARK.fullmatch(token.content)} - self._special
        self._ignore_splits()

    @property
    def size(self) -> int:
        """Number of ids."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    @cached_property
    def longest(self) -> int | None:
        """Maximum number of characters that one token stands for.

        None for a model that makes one token of any unknown text. A normalizer may compose up to four characters.
        """
        from tokenizers.models import BPE

        model = self._tokenizer.model
        fuses = not isinstance(model, BPE) or (model.fuse_unk and not model.byte_fallback)
        if fuses:
            return None
        longest = max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)))
        return longest if self._tokenizer.normalizer is None else 4 * longest

    def encode(self, text: str) -> list[int]:
        """Return ids without adding special tokens."""
        if len(text) > heavy.LIGHT:  # Unlike `encode`, a batch leaves Python's other threads running (measured).
            (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        else:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return text without special tokens, except the marks that structure an answer."""
        return self.decode_all([token_id for token_id in token_ids if token_id not in self._hidden])

    def decode_all(self, token_ids: Sequence[int]) -> str:
        """Return text including special tokens."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, or None if the vocabulary lacks it."""
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id

    def marks(self, template: str) -> Collection[str]:
        """Return the special tokens, and the other added tokens that structure a prompt or an answer."""
        return self._special | {mark for mark in self._others if mark in template or mark in PROMPT_MARKS}

    def _ignore_splits(self) -> None:
        """Make the tokenizer drop split strings once it has looked for marks, without any effect on other texts."""
        from tokenizers import normalizers, pre_tokenizers

        drop = pre_tokenizers.Split(SPLIT, "removed")
        normalizer, pre_tokenizer = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        # The first way keeps the text in one piece. It fails if marks are sought in normalized text, or in a vocabulary
        # that contains them as words; a split before or after the words are separated then stays.
        self._tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(SPLIT, ""), *filter(None, [normalizer])])
        if self._splits_all_marks():
            return
        self._tokenizer.normalizer = normalizer
        for order in ([pre_tokenizer, drop], [drop, pre_tokenizer]):
            self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(filter(None, order)))
            if self._splits_all_marks():
                return
        logger.warning("this model's tokenizer cannot tell special tokens from text that spells them")

    def _splits_all_marks(self) -> bool:
        for mark in self._special | (self._others & PROMPT_MARKS):
            ids = self.encode(mark[0] + SPLIT + mark[1:])
            if self.id_of(mark) in ids or SPLIT in self.decode_all(ids).replace(" ", ""):
                return False
        return True

    def with_marks(self, shown: Iterable[str], hidden_ids: Collection[int]) -> FileTokenizer:
        """Return a tokenizer whose `decode` shows these marks and hides these ids."""
        other = copy.copy(self)
        other._hidden = (self._hidden | set(hidden_ids)) - {self.id_of(mark) for mark in shown}
        return other


class TextStream:
    """Turns growing token ids into text that is safe to send: whole characters, and no part of a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = [s for s in stop if s]
        self._hold = max((len(s) - 1 for s in self._stop), default=0)
        self._ids: list[int] = []
        self._settled = 0  # Number of ids whose text in `_text` is final.
        self._text = ""
        self._sent = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """Add ids; return the text that can be sent now."""
        self._ids.extend(token_ids)
        start = max(0, self._settled - _CONTEXT_TOKENS)
        known = self._tokenizer.decode(self._ids[start : self._settled])
        grown = self._tokenizer.decode(self._ids[start:])
        if not grown.endswith("�"):
            self._text += grown[len(known) :]
            self._settled = len(self._ids)
        return self._send(len(self._text) - self._hold)

    def finish(self) -> str:
        """Return the rest of the text."""
        start = max(0, self._settled - _CONTEXT_TOKENS)
        known = self._tokenizer.decode(self._ids[start : self._settled])
        self._text += self._tokenizer.decode(self._ids[start:])[len(known) :]
        self._settled = len(self._ids)
        return self._send(len(self._text))

    @property
    def text(self) -> str:
        """All text before the first stop string."""
        return up_to_stop(self._text, self._stop)

    def _send(self, end: int) -> str:
        end = min(end, _stop_position(self._text, self._stop))
        if end <= self._sent:
            return ""
        piece = self._text[self._sent : end]
        self._sent = end
        return piece


def up_to_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    return text[: _stop_position(text, stop)]


def _stop_position(text: str, stop: Sequence[str]) -> int:
    return min((at for at in (text.find(s) for s in stop if s) if at >= 0), default=len(text))
