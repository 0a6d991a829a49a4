"""Parses web actions: WebArena's `click [5]`, BrowserGym's `click('5')`, and either without its punctuation.

A call is parsed as Python's syntax and never executed. `env_adapters/answer.py` finds the action in an answer.
"""

from __future__ import annotations

import ast
import difflib
import re
from typing import Any

from env_adapters.answer import SAID_CHARS, SIMILAR, hint, said
from env_adapters.answer import read_action as read_answer
from env_adapters.browser.actions import KEYS, TEXT_CHARS, USAGE, Action, text_of
from env_adapters.browser.view import View

_CALLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "click": ("click", ("id",)),
    "hover": ("hover", ("id",)),
    "fill": ("type", ("id", "text")),
    "type": ("type", ("id", "text", "press_enter")),
    "select_option": ("select", ("id", "option")),
    "select": ("select", ("id", "option")),
    "press": ("press", ("id", "key")),
    "keyboard_press": ("press", ("key",)),
    "scroll": ("scroll", ("across", "direction")),
    "go_back": ("go_back", ()),
    "send_msg_to_user": ("stop", ("answer",)),
    "report_infeasible": ("stop", ("answer",)),
    "stop": ("stop", ("answer",)),
}
"""Functions of BrowserGym, and this project's kinds as functions: kind and parameters."""
_ALIASES = {
    "id": ("bid", "element_id", "element", "ref"),
    "text": ("value", "content"),
    "option": ("options", "value"),
    "key": ("key_comb", "keys"),
    "answer": ("text", "message", "reason"),
    "press_enter": ("press_enter_after", "enter"),
    "across": ("delta_x", "dx"),
    "direction": ("delta_y", "dy"),
}
_NO_EFFECT: dict[str, tuple[Any, ...]] = {"button": ("left",), "modifiers": ([], None)}
"""Parameters of BrowserGym with the only values that this project's actions have."""
_IGNORED = {"enable_autocomplete_menu"}
_OTHER_VERBS = {"tap": "click", "input": "type", "enter": "type", "write": "type", "choose": "select"} | {
    "back": "go_back",
    "goback": "go_back",
    "finish": "stop",
    "done": "stop",
}


def read_action(text: str, kinds: tuple[str, ...]) -> Action | None:
    """Return the action in a model's whole answer, or None.

    Args:
        text: the answer.
        kinds: the kinds of actions that the environment has.
    """

    def understand(part: str) -> Action | None:
        return _parse(part, kinds)

    def certain(part: str) -> Action | None:
        return _parse(part, kinds) if _is_certain(part) else None

    def call(name: str, arguments: dict[str, Any]) -> str:
        return _called(name, [], arguments, kinds) or text_of(kinds, name, arguments)

    return read_answer(text, understand, certain, call)


def suggestion(text: str, kinds: tuple[str, ...], view: View) -> str:
    """Return a hint with the form that was probably meant, or an empty text."""
    found = re.match(r"([a-z_]+)\W*(.*)", said(text)[:SAID_CHARS], re.IGNORECASE | re.DOTALL)
    if found is None:
        return ""
    verb = found[1].lower()
    verb = _OTHER_VERBS.get(verb, _CALLS[verb][0] if verb in _CALLS else verb)
    kind = next(iter(difflib.get_close_matches(verb, kinds, n=1, cutoff=SIMILAR)), None)
    if kind is None:
        return ""
    if kind == "click":
        names = {target.name.lower(): target.id for target in reversed(view.targets) if target.name}
        wanted = re.sub(r"^(?:on |the )+|(?: (?:button|link|tab|box))?\W*$", "", found[2].lower())
        if near := difflib.get_close_matches(wanted, names, n=1, cutoff=SIMILAR):
            return hint(f"click [{names[near[0]]}]")
    return hint(USAGE[kind].partition(" (")[0].partition(" or ")[0])


def _is_certain(text: str) -> bool:
    """Return whether a text can be nothing but an action, even amid prose."""
    text = text.strip()
    return (
        re.fullmatch(
            r"(?:click|hover)\s*(?:\d+|[\[(]\d+[\])].*)"
            r"|(?:type|select)\s*[\[(]\d+[\])]\s*(?:\[.*\]|[^\[#]+)|(?:type|select)\s+\d+\s+(?P<q>['\"]).*(?P=q)"
            r"|(?:press|scroll)\b.*|go_back|stop(?:\s*\[.*\]|\s+(?P<p>['\"]).*(?P=p))?|[a-z_]+\s*\(.*\)",
            text,
            re.IGNORECASE | re.DOTALL,
        )
        is not None
    )


def _parse(text: str, kinds: tuple[str, ...]) -> Action | None:
    """Return the action that a text is; case, and missing or extra brackets and quotes, do not matter."""
    if (written := _call_in(text, kinds)) is not None:
        text = written
    found = re.match(r"([a-z_]+)\s*(.*)$", text, re.IGNORECASE)
    if found is None or (kind := found[1].lower()) not in kinds:
        return None
    return _READERS[kind](kind, found[2].strip())


def _call_in(text: str, kinds: tuple[str, ...]) -> str | None:
    """Return a call such as `fill('5', 'a')` in WebArena's syntax, or None if it is no such call."""
    if len(text) > 2 * TEXT_CHARS or not re.fullmatch(r"[a-z_]+\s*\(.*\)", text, re.IGNORECASE | re.DOTALL):
        return None
    literal = re.sub(r"\\(?![\\'\"nrt])", r"\\\\", text)  # Any other backslash is itself.
    try:
        call = ast.parse(literal, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            return None
        positional = [ast.literal_eval(argument) for argument in call.args]
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        return _called(call.func.id.lower(), positional, named, kinds)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _called(name: str, positional: list[Any], named: dict[str, Any], kinds: tuple[str, ...]) -> str | None:
    """Return a call in WebArena's syntax, or None if the function or an argument does not fit."""
    if name not in _CALLS or _CALLS[name][0] not in kinds:
        return None
    kind, parameters = _CALLS[name]
    if name in ("press", "scroll") and len(positional) == 1 and not named:
        parameters = parameters[1:]
    if len(positional) > len(parameters):
        return None
    arguments: dict[str, Any] = dict(zip(parameters, positional, strict=False))
    for key, value in named.items():
        if (key in _NO_EFFECT and value in _NO_EFFECT[key]) or key in _IGNORED:
            continue
        own = next((one for one in parameters if key == one or key in _ALIASES.get(one, ())), None)
        if own is None or own in arguments:
            return None
        arguments[own] = value
    if "id" in arguments:
        arguments["id"] = str(arguments["id"]).strip("[]")
    if kind == "scroll":
        arguments = {"direction": _direction(arguments.get("direction"))}
    if isinstance(option := arguments.get("option"), list):
        if len(option) != 1:
            return None
        arguments["option"] = option[0]
    if kind == "press" and "id" in arguments and "key" in arguments:
        return str(Action("press", int(arguments["id"]), str(arguments["key"])))
    return text_of(kinds, kind, arguments)


def _direction(value: Any) -> Any:
    """Return BrowserGym's number of pixels, positive downward, as a direction."""
    return ("down" if value > 0 else "up") if isinstance(value, (int, float)) and value else value


def _bare(text: str) -> str:
    """Return a text without surrounding brackets or quotes."""
    for opening, closing in ("()", "[]", '""', "''"):
        if len(text) > 1 and text[0] == opening and text[-1] == closing:
            return text[1:-1].strip()
    return text


def _with_id(kind: str, rest: str) -> Action | None:
    found = re.match(r"[\[(]?(\d{1,6})[\])]?(?!\w)", rest)
    return Action(kind, int(found[1])) if found and int(found[1]) else None


def _with_text(kind: str, rest: str) -> Action | None:
    found = re.match(r"[\[(]?(\d{1,6})[\])]?(?!\w)[\s,]*", rest)
    if found is None or int(found[1]) == 0:
        return None
    text, enter = rest[found.end() :], False
    if not text:
        return None
    if kind == "type" and (inside := re.fullmatch(r"\[(.*?)\](?:\s*\[(?:press_enter_after\s*=\s*)?([01])\])?", text)):
        text, enter = inside[1], inside[2] == "1"
    else:
        text = _bare(text)
    if kind == "select" and not text:
        return None
    return Action(kind, int(found[1]), text[:TEXT_CHARS], enter)


def _with_key(kind: str, rest: str) -> Action | None:
    found = re.fullmatch(r"\[(\d{1,6})\]\s*(\[.*\])", rest)
    number, rest = (int(found[1]), found[2]) if found else (0, rest)
    key = KEYS.get(_bare(rest).lower().replace(" ", "").replace("_", ""))
    return Action(kind, number, key) if key else None


def _with_direction(kind: str, rest: str) -> Action | None:
    word = _bare(rest).lower()
    word = _bare(re.sub(r"^direction\s*=\s*", "", word))
    return Action(kind, text=word) if word in ("down", "up") else None


def _with_answer(kind: str, rest: str) -> Action | None:
    return Action(kind, text=_bare(rest)[:TEXT_CHARS])


def _alone(kind: str, rest: str) -> Action | None:
    return Action(kind)


_READERS = {
    "click": _with_id,
    "hover": _with_id,
    "type": _with_text,
    "select": _with_text,
    "press": _with_key,
    "scroll": _with_direction,
    "go_back": _alone,
    "stop": _with_answer,
}
