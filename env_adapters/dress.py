"""The forms in which models write one action: labels, tags, boxes, fences, JSON, Markdown, quotes.

Responsible for finding the text of an action and undressing it; `answer.py` decides which text counts.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from env_adapters.thoughts import ACTION_HEADING, ACTION_LABEL, DROPPED

Call = Callable[[str, dict[str, Any]], str]
"""Turns a tool's name and arguments into text, as `EnvironmentSpec.text_of` does; raises ValueError."""
TAGS = ("action", "act", "answer", "command", "tool_call")
"""Tags that models put around an action."""
LINE_CHARS = 4000
"""Longer lines are not undressed. Chosen by this project."""
JSON_CHARS = 20_000
FENCES = 20
_PAIRS = tuple(
    zip(
        ("`", "**", "__", *"\"'\u201c\u2018\u00ab\u300c"),
        ("`", "**", "__", *"\"'\u201d\u2019\u00bb\u300d"),
        strict=True,
    )
)
_END = " \t.!;,\u3002\uff01\uff1b\uff0c\u2026"
_FENCE = re.compile(r"(```|~~~)(.*?)(?:\1|\Z)", re.DOTALL)
_NEXT_LABEL = re.compile(
    rf"^(?:{re.escape(DROPPED)}$|[^\S\n]{{0,20}}[*_#>\s]{{0,4}}(?:thoughts?|observation|action|result)\b[^\n:\uff1a]{{0,12}}"
    r"(?<!input)(?<!input\*\*)[:\uff1a])",
    re.IGNORECASE | re.MULTILINE,
)
_INPUT = re.compile(r"(?:\bwith\s{1,4})?[*_]{0,3}action[ _]input[*_]{0,3}\s?[:\uff1a][*_]{0,3}", re.IGNORECASE)
_SUMMARY = re.compile(
    r"\bin summary,?\s{1,4}(?:the|my)\s{1,4}next action\b[^.\n`:]{0,60}?\bis\b:?(.+)"
    r"|\baction\b[^.\n`]{0,60}?\b(?:is|be)\b\s{0,4}:?\s{0,4}(```.*?(?:```|\Z))",
    re.IGNORECASE | re.DOTALL,
)
_LINE_LABEL = re.compile(
    r"(?:(?:(?:my|the|final|next)\s){0,3}(?:answer|command|output|response|move|step|turn|decision|choice|assistant)"
    r"(?:\s\d{1,3})?|i(?:'ll| will)(?: now)? (?:do|take|perform|execute|choose)(?: the| this)?"
    r"(?: following| next)? action)"
    r"\s?[:\uff1a]\s*",
    re.IGNORECASE,
)
_ACTION_KEYS = ("action", "next_action", "command", "act")
_NAME_KEYS = ("function_name", "tool_name", "name", "tool", "function", *_ACTION_KEYS)
_COMMENT_KEYS = ("thought", "thoughts", "thinking", "reasoning", "reason", "explanation", "plan", "confidence", "why")
_ARGUMENT_KEYS = ("arguments", "args", "parameters", "action_input", "input", "kwargs")


def marked(text: str, tags: tuple[str, ...] = TAGS) -> str | None:
    """Return the text that an answer marks as its action, or None: after the first `Action:`, in tags or in a box."""
    found: list[tuple[int, str]] = []
    for pattern in (ACTION_LABEL, ACTION_HEADING):
        if label := pattern.search(text):
            rest = text[label.end() :]
            end = _NEXT_LABEL.search(rest, 1)
            found.append((label.start(), rest[: end.start()] if end else rest))
    if tag := re.search(
        rf"<\s*({'|'.join(tags)})(?:\s[^<>\n]{{0,100}})?>(.*?)(?:<\s*/\s*\1\s*>|\Z)", text, re.S | re.I
    ):
        found.append((tag.start(), tag[2]))
    if (box := text.find(r"\boxed{")) >= 0:
        found.append((box, _braced(text, box + len(r"\boxed"))))
    if summary := _SUMMARY.search(text):
        found.append((summary.start(), summary[1] or summary[2]))
    return min(found)[1] if (found := [one for one in found if not _in_json(text, one[0])]) else None


def _in_json(text: str, at: int) -> bool:
    """Return whether a place is in a line of JSON, whose texts may quote anything."""
    return text[text.rfind("\n", 0, at) + 1 : at].lstrip().startswith(("{", '"'))


def _braced(text: str, start: int) -> str:
    """Return what is between the brace at `start` and its partner, without a `text` of LaTeX around it."""
    depth, end = 0, len(text)
    for found in re.finditer(r"[{}]", text[start:]):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            end = start + found.start()
            break
    inside = text[start + 1 : end].strip()
    wrapped = re.fullmatch(r"\\(?:text|texttt|mathrm|textbf)\{(.*)\}", inside, re.DOTALL)
    return wrapped[1] if wrapped else inside


def fences(text: str) -> list[str]:
    """Return the contents of the fences in a text, without the languages; an unclosed fence reaches to the end."""
    inside = []
    for found, _ in zip(_FENCE.finditer(text), range(FENCES), strict=False):
        language, newline, rest = found[2].partition("\n")
        is_language = newline and rest.strip() and re.fullmatch(r"\s*[\w+.-]*\s*", language)
        inside.append((rest if is_language else found[2]).strip())
    return [content for content in inside if content]


def lines(text: str) -> list[str]:
    """Return the lines that may be an action: not empty, not the edge of a fence."""
    edge = re.compile(r"\s*(?:(?:```|~~~)[\w+.-]*|[-=]{3,})\s*")
    return [line for line in text.split("\n") if line.strip() and not edge.fullmatch(line)]


def forms(text: str, call: Call | None = None) -> Iterator[str]:
    """Yield the texts that an action's text or line may stand for, most literal first."""
    text = text.strip()
    block = text.strip("`").removeprefix("json").strip()
    if (value := as_json(block)) is not None:
        yield block
        yield from _written(value, call)
        return
    line = next(iter(lines(text)), "")
    if len(line) > LINE_CHARS:
        return
    plain = undress(line)
    if re.match(r"\s*\d", line):
        yield line.strip()  # What looks like a list's number may be a chosen number.
    yield plain
    if len(inner := line.strip(" \t`*>")) > 1 and inner[0] == inner[-1] == '"':
        yield inner  # A quoted text may be JSON.
    if len(plain) > 1 and plain[0] + plain[-1] in ("[]", "()", "{}", "<>"):
        yield undress(plain[1:-1])
    for other in (
        _LINE_LABEL.sub("", plain, count=1) if _LINE_LABEL.match(plain) else plain,
        " ".join(re.sub(r"\*+|`+", "", plain).split()),
        re.sub(r"(?<=\S)\s+(?:\([^()]*\)|#.*|//.*)$", "", plain),
        plain.strip(" \t`'\"*>.[](){}"),
    ):
        if other != plain:
            yield undress(other)


def undress(line: str) -> str:
    """Return a line without Markdown, list markers, quotes around it, and punctuation at its end."""
    text = line.strip()
    text = re.sub(r"^(?:>\s*){1,10}", "", text)
    text = re.sub(r"^#{1,6}\s+", "", text)
    text = re.sub(r"^(?:[-*+$\u2022\u2013\u2192]|[-=]>|\(?\d{1,2}[.)])\s+(?=\S)", "", text)
    while True:
        before, text = text, text.strip().rstrip(_END)
        for opening, closing in _PAIRS:
            if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)].strip()
        text = text.strip("`").removeprefix("**").removesuffix("**")
        if text == before:
            return text


def with_input(text: str, call: Call | None) -> Iterator[str]:
    """Yield what `Action: NAME` and `Action Input: ARGUMENT` stand for, if a text has both."""
    if (found := _INPUT.search(text)) is None:
        return
    name, argument = undress(text[: found.start()].strip()), text[found.end() :].strip()
    value = as_json(argument.strip("`").removeprefix("json").strip())
    if isinstance(value, dict):
        yield from _called(name, value, call)
        yield f"{name} {json.dumps(value, ensure_ascii=False)}"
    elif (argument := undress(argument.split("\n")[0])).lower() in ("", "none", "null", "n/a"):
        yield name
    else:
        yield f"{name}[{argument}]"
        yield f"{name} {argument}"


def as_json(text: str) -> Any:
    """Return a text that is one JSON object or list, also with Python's quotes; otherwise None."""
    if not text.startswith(("{", "[")) or not text.endswith(("}", "]")) or len(text) > JSON_CHARS:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text) if text.startswith("{") and len(text) <= LINE_CHARS else None
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    return value if isinstance(value, dict) else None


def objects(text: str) -> list[str]:
    """Return the JSON objects that begin a line of a text."""
    found, at, decoder = list[str](), 0, json.JSONDecoder()
    for start in re.finditer(r"^[^\S\n]*(?=\{)", text[:JSON_CHARS], re.MULTILINE):
        if start.end() < at:
            continue
        try:
            _, at = decoder.raw_decode(text, start.end())
        except (ValueError, RecursionError):
            continue
        found.append(text[start.end() : at])
        if len(found) == FENCES:
            break
    return found


def _written(value: Any, call: Call | None, depth: int = 0) -> Iterator[str]:
    """Yield what a JSON action stands for: its text, or a call of a tool."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict) or depth > 3:
        return
    fields = {str(key).strip().lower().replace(" ", "_"): part for key, part in value.items()}
    if isinstance(fields.get("tool_calls"), list):
        yield from _written(fields["tool_calls"], call, depth + 1)
    name = next((fields[key] for key in _NAME_KEYS if isinstance(fields.get(key), str)), None)
    key = next((key for key in _ARGUMENT_KEYS if key in fields), None)
    arguments = fields[key] if key else {one: fields[one] for one in fields if one not in (*_NAME_KEYS, *_COMMENT_KEYS)}
    if isinstance(arguments, str) and isinstance(parsed := as_json(arguments.strip()), dict):
        arguments = parsed
    if name is not None and isinstance(arguments, dict):
        yield from _called(name, arguments, call)
    if name is not None and key and isinstance(arguments, (str, int)):
        yield f"{name}[{arguments}]"
        yield f"{name} {arguments}"
    if name is not None and not arguments:
        yield name
    for key in ("function", *_ACTION_KEYS):
        inner = fields.get(key)
        if isinstance(inner, (dict, list)):
            yield from _written(inner, call, depth + 1)
            yield json.dumps(inner, ensure_ascii=False)
        elif isinstance(inner, (str, int, float)) and key != "function":
            yield from forms(inner if isinstance(inner, str) else json.dumps(inner), call)


def _called(name: str, arguments: dict[str, Any], call: Call | None) -> Iterator[str]:
    if call is not None:
        try:
            yield call(name, arguments)
        except ValueError:  # No such tool: the name may be the whole action.
            return
