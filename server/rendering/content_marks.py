"""Marks in content are text: a web page that spells `<|im_end|>` cannot end a turn (step 2).

Only the template's own marks are control tokens. Before rendering, `SplitMarks` puts a split string into every mark
that messages, tools or options spell, so the tokenizer does not recognize it; the tokenizer drops the split string once
it has looked for marks. Content without marks is untouched, and so are its ids.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection
from typing import Any

from server.errors import BadRequest

SPLIT = "".join(secrets.choice("0123456789") for _ in range(40))
"""Stands inside a mark that is text. Nobody can guess it, and templates, JSON and normalizers leave digits alone."""
_DATA = frozenset({"arguments", "parameters"})
"""Fields whose keys the caller chooses."""
_STRUCTURE = re.compile(r"\w*")


class SplitMarks:
    """Splits the marks that content spells.

    Args:
        marks: texts of the tokens that only the template may write.
        normalize: what the tokenizer makes of a text before it looks for marks, if it changes any: a mark in wide
            letters or capitals then is one.
    """

    def __init__(self, marks: Collection[str], normalize: Callable[[str], str] | None = None) -> None:
        self._normalize = normalize
        self._lengths: dict[str, set[int]] = {}
        for mark in marks:
            self._lengths.setdefault(mark[0], set()).add(len(mark))
        self._marks = frozenset(marks)
        self._first = re.compile(f"[{re.escape(''.join(self._lengths))}]") if marks else None
        self._insides = {mark[1:-1] for mark in marks} - {""}
        beginnings = ((mark[:cut], mark[cut:]) for mark in marks for cut in range(1, len(mark)))
        self._open_ends = {
            begin for begin, rest in beginnings if any(mark.startswith(rest) or rest.startswith(mark) for mark in marks)
        }
        """Beginnings of marks that a mark of the template would complete, such as `]~!b` before `[e~[`."""
        self._longest_end = max(map(len, self._open_ends), default=0)

    def text(self, text: str) -> str:
        """Return a text with every mark in it split, including marks that overlap each other or what follows."""
        if self._first is None:
            return text
        split = self._first.sub(lambda at: at[0] + SPLIT if self._begins(text, at.start()) else at[0], text)
        if self._normalize is None or not self._is_marked(self._normalize(split)):
            return split
        split = "".join(f"{char}{SPLIT}" if self._first.search(self._normalize(char)) else char for char in text)
        return f"{SPLIT}".join(text) if self._is_marked(self._normalize(split)) else split

    def content(self, value: Any) -> Any:
        """Return a JSON value with the marks in all its texts and keys split.

        Some templates write a key between angle brackets, so the inside of a mark is split as well where it can only be
        content: in the arguments and parameters of tools, or if it is not a plain word.

        Raises:
            BadRequest: the value is nested too deeply.
        """
        try:
            return self._content(value, data=False)
        except RecursionError as error:
            raise BadRequest("messages and tools are nested too deeply", param="messages") from error

    def _content(self, value: Any, *, data: bool) -> Any:
        if isinstance(value, str):
            if value in self._insides and (data or not _STRUCTURE.fullmatch(value)):
                return value[:-1] + SPLIT + value[-1]
            return self.text(value)
        if isinstance(value, dict):
            return {
                self._content(key, data=data): self._content(item, data=data or key in _DATA)
                for key, item in value.items()
            }
        return [self._content(item, data=data) for item in value] if isinstance(value, list | tuple) else value

    def _is_marked(self, text: str) -> bool:
        return any(mark in text for mark in self._marks)

    def _begins(self, text: str, at: int) -> bool:
        """Whether a mark begins here, or one that the template's next mark would complete."""
        if len(text) - at <= self._longest_end and text[at:] in self._open_ends:
            return True
        return any(text[at : at + length] in self._marks for length in self._lengths[text[at]])


def without_splits(text: str) -> str:
    """Return a rendered text, or an error that quotes it, as its reader should see it."""
    return text.replace(SPLIT, "")
