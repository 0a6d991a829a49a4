"""Which family's grammar a model gets, and whether that is right: it is compared with the model's own chat template.

A wrong match would be worse than none, so the name of a model only says what to try first. A family is taken where it
writes the same ids as the template for every conversation below, and goes on from recorded ids with the same ones.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

from server.errors import BadRequest
from server.rendering.families import FAMILIES, Family
from server.rendering.render import FileTokenizer, Renderer, normal
from server.rendering.tool_calls import THINK_CLOSE, Messages, Tools

logger = logging.getLogger(__name__)


def _call(number: int, **arguments: Any) -> dict[str, Any]:
    return {
        "id": f"functions.look:{number}",
        "type": "function",
        "function": {"name": "look", "arguments": json.dumps(arguments)},
    }


_SYSTEM = {"role": "system", "content": "Be brief."}
_ASK = {"role": "user", "content": "What is in the box?"}
_SAY = {"role": "assistant", "content": "A key and two coins."}
_ON = {"role": "user", "content": "Open the door, please."}
_LOOK = {"role": "assistant", "content": "", "tool_calls": [_call(0, thing="box", times=2, near=True, at=["a", "b"])]}
_THINK = {**_LOOK, "content": "I look.", "reasoning_content": "It is closed."}
_TWICE = {"role": "assistant", "content": "", "tool_calls": [_call(0, thing="box"), _call(1, thing="bag")]}
_SEEN, _MORE = (
    {"role": "tool", "tool_call_id": f"functions.look:{number}", "content": seen}
    for number, seen in enumerate(("a key, two coins", '{"coins": 3}'))
)
_TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": 'Look at a thing, a "place" or <both>.',
            "parameters": {"type": "object", "properties": {"thing": {"type": "string"}}, "required": ["thing"]},
        },
    },
)
_TALKS: tuple[tuple[Messages, Tools], ...] = (
    ([_ASK], ()),
    ([_SYSTEM, _ASK, _SAY, _ON], ()),
    ([_ASK], _TOOLS),
    ([_SYSTEM, _ASK, _LOOK, _SEEN, _SAY, _ON], _TOOLS),
    ([_SYSTEM, _ASK, _THINK, _SEEN], _TOOLS),
    ([_ASK, _THINK, _SEEN, _SAY, _ON, _LOOK, _SEEN], _TOOLS),
    ([_ASK, _TWICE, _SEEN, _MORE], _TOOLS),
)
_DATE = "date_string"
"""An option whose default is today in a template and a constant in the library."""


def choose_family(
    wanted: str, renderer: Renderer, tokenizer: FileTokenizer, directory: Path, name: str
) -> Family | None:
    """Return the family whose grammar a model gets; None is its own template.

    Args:
        wanted: `auto`, `template`, or a family's name.
        renderer: the model's template.
        tokenizer: the model's.
        directory: the model's.
        name: what the model is called where it comes from.

    Raises:
        BadRequest: there is no such family, or the model is not of the one that was asked for.
    """
    if wanted == "template":
        return None
    if wanted not in ("auto", *FAMILIES):
        raise BadRequest(
            f"renderer {wanted!r} is none of auto, template, {', '.join(FAMILIES)}",
            param="renderer",
            code="unknown_renderer",
        )
    names = _names(directory, name)
    if wanted != "auto":
        family, wrong = _tried(wanted, renderer, tokenizer, names)
        if family is None:
            raise BadRequest(
                f"renderer {wanted!r} is not right for this model: {wrong}", param="renderer", code="wrong_renderer"
            )
        return family
    likely = [family for family in FAMILIES if _plain(family) in _plain(" ".join(names))]
    likely.sort(key=len, reverse=True)
    reasons = []
    for candidate in [*likely, *(family for family in FAMILIES if family not in likely)]:
        if tokenizer.id_of(FAMILIES[candidate].token) is None:
            continue
        family, wrong = _tried(candidate, renderer, tokenizer, names)
        if family is not None:
            logger.info("messages are rendered, and answers read, as the family %s does it", candidate)
            return family
        reasons += [f"{candidate}: {wrong}"] if candidate in likely else []
    if reasons:
        logger.warning(
            "messages are rendered with the model's own chat template, since it differs from its family's form (%s)",
            reasons[0],
        )
    return None


def _tried(
    family_name: str, renderer: Renderer, tokenizer: FileTokenizer, names: list[str]
) -> tuple[Family | None, str]:
    """Return the family, or None and what is wrong with it."""
    known = import_module("renderers.base").MODEL_RENDERER_MAP
    model = next((name for name in names if known.get(name) == family_name), names[0])
    try:
        family = Family(family_name, tokenizer, model=model, end_of_turn=renderer.end_of_turn, template=renderer.source)
        wrong = _difference(family, renderer, tokenizer)
    except Exception as error:  # Whatever the library says about this tokenizer: it is what the reader wants to know.
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return (None, wrong) if wrong else (family, "")


def _difference(family: Family, renderer: Renderer, tokenizer: FileTokenizer) -> str:
    """Return where the family and the template part; empty where they do not."""
    fixed = {_DATE: family.default(_DATE)} if _DATE in family.options else {}
    for number, (talk, tools) in enumerate(_TALKS):
        theirs = ours = None
        with suppress(BadRequest):
            theirs = tokenizer.encode(renderer.text(talk, ask=True, tools=tools, options=fixed))
        with suppress(BadRequest):
            ours = family.prompt(normal(talk), tools, {})
        if theirs != ours or (ours is None and number == 0):
            return f"in conversation {number} {_parting(tokenizer, theirs, ours)}"
    asked = family.prompt([_ASK], (), {})
    thought = THINK_CLOSE if family.grammar(asked, (), {}).in_thoughts else ""
    recorded = [*asked, *tokenizer.encode(f"{thought}{_SAY['content']}"), *family.stop_ids[:1]]
    rest = family.follow(recorded, [_ON], (), {})
    if not rest or family.prompt([_ASK, _SAY, _ON], (), {})[-len(rest) :] != rest:
        return "it does not go on from recorded ids as it writes a whole conversation"
    return ""


def _parting(tokenizer: FileTokenizer, theirs: list[int] | None, ours: list[int] | None) -> str:
    """Return in words what two renderings of a conversation differ in."""
    if theirs is None or ours is None:
        return f"{'the template' if theirs is None else 'the family'} refuses what the other writes"
    pairs = zip_longest(theirs, ours)
    at = next(position for position, (one, other) in enumerate(pairs) if one != other)
    one, other = (tokenizer.decode_all(ids[max(0, at - 4) : at + 12]) for ids in (theirs, ours))
    return f"the template writes {one!r} where the family writes {other!r}"


def _names(directory: Path, name: str) -> list[str]:
    """Return what a model is called: by its source, by its files, by its kind."""
    found = [name, directory.name]
    if hub := re.search(r"models--([^/]+)--([^/]+)", str(directory)):  # A model hub's cache.
        found.append(f"{hub[1]}/{hub[2]}")
    for file, keys in (
        ("config.json", ("_name_or_path", "model_type", "architectures")),
        ("tokenizer_config.json", ("name_or_path",)),
    ):
        if (directory / file).is_file():
            config = json.loads((directory / file).read_text())
            found += [str(config[key]) for key in keys if config.get(key)]
    return list(filter(None, found))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", name.lower())
