"""Drops the thoughts of a model's answer: what is in `<think>` tags, and what follows `Thought:`.

Nothing in a thought is ever an action, so a thought is dropped before `answer.py` looks for one.
"""

from __future__ import annotations

import re

DROPPED = "\N{HORIZONTAL ELLIPSIS}"
"""Stands for a dropped `Thought:`; it is no action anywhere."""
_NAMES = "think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis|plan"
_OPEN = rf"<\s*(?:{_NAMES})\b[^<>\n]{{0,100}}>|\[think\]|<\|begin_of_thought\|>"
_CLOSE = rf"<\s*/\s*(?:{_NAMES})\s*>|\[/think\]|<\|end_of_thought\|>"
_TAG = re.compile(rf"(?P<open>{_OPEN})|(?P<close>{_CLOSE})", re.IGNORECASE)
_BEFORE = r"[^\S\n]{0,20}(?:[>#*_`-]{1,6}[^\S\n]{0,4}|\d{1,2}[.)][^\S\n]{1,4})?[*_`]{0,3}[\[(]?"
"""What Markdown puts before a label."""
_LABELS = r"(?:thoughts?|think|thinking|reasoning|reflection|analysis|rationale|plan|observation)"
_LABEL = re.compile(rf"{_BEFORE}{_LABELS}(?:[^\S\n]+\d{{1,3}})?[*_`]{{0,3}}\s?[:\uff1a][*_`]{{0,3}}(.*)", re.IGNORECASE)
_HEADING = re.compile(rf"[^\S\n]{{0,20}}(?:#{{1,6}}[^\S\n]*|\*\*|__)[*_]{{0,3}}{_LABELS}[*_\s:\uff1a]*", re.IGNORECASE)
ACTION_LABEL = re.compile(
    rf"^{_BEFORE}(?:(?:my|the|your|next|final|chosen|selected|best|current|proposed|step)[^\S\n]+){{0,3}}"
    r"act(?:ion)?(?:[^\S\n]+(?:is|\d{1,3}|to[^\S\n]+(?:take|perform|execute|do)))?[*_`]{0,3}[^\S\n]?"
    r"(?:\]?[:\uff1a=]+|\]|[-\u2013\u2192]>?(?=\s))[*_]{0,3}",
    re.IGNORECASE | re.MULTILINE,
)
"""The start of a line that says `Action:`, in bold, as a heading, or with `the next` or a number."""
ACTION_HEADING = re.compile(
    r"^[^\S\n]{0,20}(?:(?:#{1,6}[^\S\n]*|\*\*|__)[*_]{0,3})?(?:(?:my|the|next|final|chosen)[^\S\n]+){0,3}"
    r"action(?:[^\S\n]+\d{1,3})?[*_]{0,3}[^\S\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
"""A line that says `Action` and nothing else, such as a heading."""
_ACTION_TAG = re.compile(r"\s*<\s*(?:action|act|answer|command|search|tool_call)\b|\s*\\boxed\{", re.IGNORECASE)
_INLINE = re.compile(r"(?<=[.!?;:)\u3002])[^\S\n]+(?=\**Action\**\s?[:\uff1a])")
"""Before an `Action:` that follows a sentence on the same line."""
_IN_THOUGHT = re.compile(r"(?<=\S)[^\S\n]+(?=\**Action\**\s?[:\uff1a])")
_INVISIBLE = str.maketrans("", "", "\ufeff\u200b\u200c\u200d\u2060")
_TURN_MARK = r"(?:<\|[\w ]{1,40}\|>|</?s>|<(?:eos|bos|end_of_turn)>)"
_TURN_BEGINS = re.compile(rf"\s*(?:{_TURN_MARK}\s*(?:assistant\n)?)+")
_TURN_ENDS = re.compile(rf"{_TURN_MARK}\Z")
_LONGEST_MARK = 44
"""Characters of the longest mark of a turn."""


def without_thoughts(text: str) -> str:
    """Return an answer without its thoughts, with plain line ends; `DROPPED` marks a dropped `Thought:`."""
    visible = without_tagged(text)
    lines = visible.split("\n")
    return _without_labelled(
        lines if ACTION_LABEL.search(visible) else [part for line in lines for part in _split(line)]
    )


def without_tagged(text: str) -> str:
    """Return an answer without the thoughts in tags, with plain line ends.

    A thought that is never closed reaches to the end of the answer, one that is never opened to its beginning.
    """
    text = "\n".join(text.translate(_INVISIBLE).splitlines())
    kept: list[str] = []
    at, thinking = 0, False
    closed = max((found.end() for found in re.finditer(_CLOSE, text, re.IGNORECASE)), default=0)
    for tag in _TAG.finditer(text):
        if tag["close"] is not None:
            if not thinking:
                kept.clear()
            thinking, at = False, tag.end()
        elif not thinking:
            is_quoted = tag.start() > 0 and text[tag.start() - 1] in "[('\"`"
            if tag.end() <= closed or not is_quoted:
                kept.append(text[at : tag.start()])
                thinking = True
    if not thinking:
        kept.append(text[at:])
    return _without_marks("\n".join(kept))


def _without_marks(text: str) -> str:
    """Return an answer without the marks of a turn's beginning and end. White space is passed once only."""
    begins = _TURN_BEGINS.match(text)
    start = begins.end() if begins else 0
    shown = end = len(text)
    while True:
        while end > start and text[end - 1].isspace():
            end -= 1
        mark = _TURN_ENDS.search(text, max(end - _LONGEST_MARK, start), end)
        if mark is None:
            return text[start:shown]
        shown = end = mark.start()
        while shown > start and text[shown - 1].isspace():
            shown -= 1


def _split(line: str) -> list[str]:
    """Split a line before an `Action:` that follows a sentence or `Thought:`, unless it may be in an action's text."""
    found = (_IN_THOUGHT if _LABEL.match(line) else _INLINE).search(line)
    if found is None or re.search(r"[\[<{\"]", line[: found.start()]):
        return [line]
    return [line[: found.start()], line[found.end() :]]


def _without_labelled(lines: list[str]) -> str:
    """Drop what `Thought:` labels.

    After text on its own line, that line is the thought, and fences up to the next empty line; otherwise the thought
    is the next paragraph. Below a heading it reaches to the next heading. An action's label or tag ends every thought.
    """
    kept: list[str] = []
    kind, begun, fenced = "", False, False
    for line in lines:
        is_fence = line.lstrip().startswith(("```", "~~~"))
        if fenced:
            fenced = not line.rstrip().endswith(("```", "~~~"))
            continue
        if ACTION_LABEL.match(line) or ACTION_HEADING.match(line):
            kind = ""
        elif _HEADING.fullmatch(line):
            kind = "section"
            kept.append(DROPPED)
            continue
        elif label := _LABEL.match(line):
            kind, begun = ("line" if label[1].strip() else "paragraph"), False
            kept.append(DROPPED)
            continue
        elif _ACTION_TAG.match(line) or (kind == "section" and line.startswith("#")):
            kind = ""
        elif kind != "section" and not line.strip():
            kind = kind if kind == "paragraph" and not begun else ""
        begun = begun or bool(line.strip())
        if kind and is_fence:
            fenced = not (len(line.strip()) > 3 and line.rstrip().endswith(("```", "~~~")))
        elif kind in ("", "line"):
            kept.append(line)
    return "\n".join(kept)
