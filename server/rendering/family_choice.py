"""Chooses the model family for a model, and checks the choice against the model's own chat template.

A wrong match would be worse than no match, so a model's name only decides which family is tried first. A family that
writes prompts is chosen only if it writes the same ids as the template for every conversation below, and continues
recorded ids with the same ones.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from itertools import zip_longest
from typing import Any

from server.errors import BadRequest
from server.rendering.families import model_families
from server.rendering.hermes import HERMES
from server.rendering.model_family import LoadedFamily, Model, ModelFamily, PromptWriter
from server.rendering.tokenizer import FileTokenizer
from server.rendering.tool_calls import NO_OPTIONS, THINK_CLOSE, Messages, Tools

logger = logging.getLogger(__name__)


def _call(number: int, **arguments: Any) -> dict[str, Any]:
    return {
        "id": f"functions.look:{number}",
        "type": "function",
        "function": {"name": "look", "arguments": json.dumps(arguments)},
    }


_SYSTEM = {"role": "system", "content": "Be brief."}
_QUESTION = {"role": "user", "content": "What is in the box?"}
_ANSWER = {"role": "assistant", "content": "A key and two coins."}
_FOLLOW_UP = {"role": "user", "content": "Open the door, please."}
_CALL = {"role": "assistant", "content": "", "tool_calls": [_call(0, thing="box", times=2, near=True, at=["a", "b"])]}
_THOUGHT_CALL = {**_CALL, "content": "I look.", "reasoning_content": "It is closed."}
_TWO_CALLS = {"role": "assistant", "content": "", "tool_calls": [_call(0, thing="box"), _call(1, thing="bag")]}
_RESULT, _OTHER_RESULT = (
    {"role": "tool", "tool_call_id": f"functions.look:{number}", "content": result}
    for number, result in enumerate(("a key, two coins", '{"coins": 3}'))
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
_CONVERSATIONS: tuple[tuple[Messages, Tools], ...] = (
    ([_QUESTION], ()),
    ([_SYSTEM, _QUESTION, _ANSWER, _FOLLOW_UP], ()),
    ([_QUESTION], _TOOLS),
    ([_SYSTEM, _QUESTION, _CALL, _RESULT, _ANSWER, _FOLLOW_UP], _TOOLS),
    ([_SYSTEM, _QUESTION, _THOUGHT_CALL, _RESULT], _TOOLS),
    ([_QUESTION, _THOUGHT_CALL, _RESULT, _ANSWER, _FOLLOW_UP, _CALL, _RESULT], _TOOLS),
    ([_QUESTION, _TWO_CALLS, _RESULT, _OTHER_RESULT], _TOOLS),
)


def choose_family(wanted: str, model: Model) -> LoadedFamily:
    """Return the family of a model, loaded for it.

    Args:
        wanted: the setting `renderer`: `auto`, `template`, or a family's name.
        model: the model.

    Raises:
        BadRequest: `unknown_renderer`, or `wrong_renderer` if the model is not of the requested family.
    """
    families = model_families()
    if wanted not in ("auto", *families):
        raise BadRequest(
            f"renderer {wanted!r} is not one of auto, {', '.join(families)}", param="renderer", code="unknown_renderer"
        )
    if wanted != "auto":
        loaded, wrong = _try(families[wanted], model)
        if loaded is None:
            raise BadRequest(
                f"renderer {wanted!r} does not fit this model: {wrong}", param="renderer", code="wrong_renderer"
            )
        return loaded
    candidates = [family for family in families.values() if family is not HERMES]
    names = _letters(" ".join(model.names))
    likely = sorted((f for f in candidates if _letters(f.name) in names), key=lambda f: len(f.name), reverse=True)
    reasons = []
    for family in [*likely, *(family for family in candidates if family not in likely)]:
        if not family.may_fit(model):
            continue
        loaded, wrong = _try(family, model)
        if loaded is not None:
            logger.info("model family %s renders messages and reads answers", family.name)
            return loaded
        reasons += [f"{family.name}: {wrong}"] if family in likely else []
    if reasons:
        logger.warning(
            "the model's own chat template renders messages, because it differs from its model family (%s)", reasons[0]
        )
    return HERMES.load(model)


def _try(family: ModelFamily, model: Model) -> tuple[LoadedFamily | None, str]:
    """Return the loaded family, or None and the reason why it does not fit."""
    try:
        loaded = family.load(model)
        wrong = _difference(loaded, loaded.writer, model) if loaded.writer is not None else ""
    except Exception as error:  # Any error of the library means that the family does not fit.
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return (None, wrong) if wrong else (loaded, "")


def _difference(family: LoadedFamily, writer: PromptWriter, model: Model) -> str:
    """Return where the family's prompts and the template's differ; empty if they agree."""
    tokenizer = model.tokenizer
    for number, (conversation, tools) in enumerate(_CONVERSATIONS):
        template_ids = family_ids = None
        with suppress(BadRequest):
            template_ids = model.template.prompt(conversation, tools, writer.template_options)
        with suppress(BadRequest):
            family_ids = writer.prompt(conversation, tools, NO_OPTIONS)
        if template_ids != family_ids or (family_ids is None and number == 0):
            return f"in conversation {number} {_first_difference(tokenizer, template_ids, family_ids)}"
    prompt = writer.prompt([_QUESTION], (), NO_OPTIONS)
    close = THINK_CLOSE if family.parser(prompt, (), NO_OPTIONS).in_thoughts else ""
    recorded = [*prompt, *tokenizer.encode(f"{close}{_ANSWER['content']}"), *family.stop_ids[:1]]
    conversation = [_QUESTION, _ANSWER, _FOLLOW_UP]
    rest = writer.follow(conversation, 2, recorded, (), NO_OPTIONS)
    if not rest or writer.prompt(conversation, (), NO_OPTIONS)[-len(rest) :] != rest:
        return "it does not continue recorded ids the way it writes a whole conversation"
    return ""


def _first_difference(tokenizer: FileTokenizer, template_ids: list[int] | None, family_ids: list[int] | None) -> str:
    """Return the first difference between two renderings of a conversation, in words."""
    if template_ids is None or family_ids is None:
        return f"{'the template' if template_ids is None else 'the family'} rejects what the other writes"
    pairs = zip_longest(template_ids, family_ids)
    at = next(position for position, (one, other) in enumerate(pairs) if one != other)
    one, other = (tokenizer.decode_all(ids[max(0, at - 4) : at + 12]) for ids in (template_ids, family_ids))
    return f"the template writes {one!r} where the family writes {other!r}"


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", name.lower())
