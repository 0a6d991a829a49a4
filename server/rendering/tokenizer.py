"""Token ids to text and back: a model's `tokenizer.json`, and text that streams cleanly while ids are sampled.

Used by both directions of rendering: `template.py` encodes prompts, `answers.py` decodes answers.
"""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from server import heavy
from server.errors import BadRequest
from server.rendering.content_marks import SPLIT
from server.rendering.json_text import escaped
from server.rendering.tool_calls import MARKS, PROMPT_MARKS

_CONTEXT_TOKENS = 6
"""Settled tokens decoded again in front of new ones: a token's text may depend on its neighbors."""
_LONGEST_CHARACTER = 4
"""Most ids in which one character is spelled: its bytes in UTF-8."""
_MOST_PENDING = 64
"""Ids that may end inside a character, beyond which all but the last few are settled."""
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

    def shown(self, token_ids: Sequence[int]) -> list[int]:
        """Return the ids that `decode` shows."""

    def decode_all(self, token_ids: Sequence[int]) -> str:
        """Return text including special tokens."""

    def text_of(self, token_id: int) -> str:
        """Return the text of one token, special or not, with leading spaces that `decode` drops."""

    @property
    def parts(self) -> Collection[int]:
        """Ids whose text depends on the ids after them: single bytes that are decoded together."""

    def marks(self, template: str) -> Collection[str]:
        """Return the texts of the tokens that only the template may write: content that spells them is text."""

    @property
    def normalize(self) -> Callable[[str], str] | None:
        """What is done to a text before marks are sought in it; None if nothing."""


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
        seeks_in_normalized = any(t.normalized for t in added.values() if t.content in self._special | self._others)
        self._normalizer = self._tokenizer.normalizer if seeks_in_normalized else None
        self._space = _space_of(self._tokenizer.pre_tokenizer)
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
        text = escaped(text)
        if len(text) > heavy.LIGHT:  # Unlike `encode`, a batch leaves Python's other threads running (measured).
            (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        else:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return text without special tokens, except the marks that structure an answer."""
        return self.decode_all(self.shown(token_ids))

    def shown(self, token_ids: Sequence[int]) -> list[int]:
        """Return the ids that `decode` shows."""
        return [token_id for token_id in token_ids if token_id not in self._hidden]

    @cached_property
    def parts(self) -> Collection[int]:
        """The tokens `<0x00>` to `<0xFF>` of a byte-fallback tokenizer.

        Its decoder joins consecutive ones, and shows replacement characters for all of them if they are not UTF-8.
        """
        ids = [self.id_of(f"<0x{byte:02X}>") for byte in range(256)]
        letter = ids[ord("A")]
        falls_back = letter is not None and self.decode_all([letter]) == "A"
        return frozenset(token_id for token_id in ids if token_id is not None) if falls_back else frozenset()

    def decode_all(self, token_ids: Sequence[int]) -> str:
        """Return text including special tokens."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def text_of(self, token_id: int) -> str:
        """Return the text of one token, special or not, with leading spaces that `decode` drops."""
        text = self.decode_all([token_id])
        if self._space is None:
            return text
        written = self._tokenizer.id_to_token(token_id) or ""
        missing = len(written) - len(written.lstrip(self._space)) - (len(text) - len(text.lstrip(" ")))
        return " " * missing + text

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, or None if the vocabulary lacks it."""
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id

    def marks(self, template: str) -> Collection[str]:
        """Return the special tokens, and the other added tokens that structure a prompt or an answer."""
        return self._special | {mark for mark in self._others if mark in template or mark in PROMPT_MARKS}

    @property
    def normalize(self) -> Callable[[str], str] | None:
        """The normalizer, if the tokenizer seeks marks in normalized text."""
        if self._normalizer is None:
            return None
        normalize: Callable[[str], str] = self._normalizer.normalize_str
        return normalize

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
        """Ids that have text."""
        self._settled = 0  # Number of ids whose text in `_text` is final.
        self._text = ""
        self._sent = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """Add ids; return the text that can be sent now."""
        self._ids += self._tokenizer.shown(token_ids)
        if self._ids and self._ids[-1] not in self._tokenizer.parts:
            self._settle(last=False)
        return self._send(len(self._text) - self._hold)

    def finish(self) -> str:
        """Return the rest of the text. All pieces together are the text of all ids."""
        self._settle(last=True)
        return self._send(len(self._text))

    def _settle(self, *, last: bool) -> None:
        """Decode the new ids behind a few settled ones, unless they end inside a character."""
        start = max(0, self._settled - _CONTEXT_TOKENS)
        while start < self._settled and self._ids[start] in self._tokenizer.parts:
            start += 1
        known = self._tokenizer.decode(self._ids[start : self._settled])
        grown = self._tokenizer.decode(self._ids[start:])
        if last or not grown.endswith("\ufffd"):
            self._text += grown[len(known) :]
            self._settled = len(self._ids)
        elif len(self._ids) - self._settled > _MOST_PENDING:
            self._settle_before_end(start, known, grown)

    def _settle_before_end(self, start: int, known: str, grown: str) -> None:
        """Settle all but the last few ids: only those can be the beginning of a character, the others spell U+FFFD."""
        for end in range(len(self._ids) - _LONGEST_CHARACTER, self._settled, -1):
            if self._ids[end - 1] not in self._tokenizer.parts:
                before = self._tokenizer.decode(self._ids[start:end])
                if grown.startswith(before):
                    self._text += before[len(known) :]
                    self._settled = end
                    return

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


def first_stop(text: str, stop: Sequence[str]) -> str | None:
    """Return the stop string that ends first in a text, as vLLM picks it; None if there is none."""
    ends = {s: at + len(s) for s in stop if s and (at := text.find(s)) >= 0}
    return min(ends, key=ends.__getitem__, default=None)


def _stop_position(text: str, stop: Sequence[str]) -> int:
    first = first_stop(text, stop)
    return len(text) if first is None else text.index(first)


def _space_of(pre_tokenizer: Any) -> str | None:
    """Return the character that stands for a space in the tokens of a Metaspace tokenizer; None for any other."""
    state = json.loads(pre_tokenizer.__getstate__()) if pre_tokenizer is not None else {}
    parts = state.get("pretokenizers") or [state]
    return next((part.get("replacement") for part in parts if part.get("type") == "Metaspace"), None)
