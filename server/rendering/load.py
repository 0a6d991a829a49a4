"""Makes the renderer of a model directory: reads its template and tokenizer and chooses its family."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.errors import BadRequest
from server.models.ends import configured_ends
from server.rendering.family_choice import choose_family
from server.rendering.model_family import Model
from server.rendering.render import Renderer
from server.rendering.template import ChatTemplate
from server.rendering.tokenizer import FileTokenizer

NO_END = (
    "the chat template ends answers with no special token, so each turn of a conversation forks: "
    "use the chat template of an instruct model"
)

logger = logging.getLogger(__name__)


def load_renderer(directory: Path, renderer: str = "auto", name: str = "") -> Renderer:
    """Return the renderer of a model directory.

    Args:
        directory: holds `tokenizer.json`, `tokenizer_config.json` and the chat template.
        renderer: the setting `renderer`: `auto`, `template`, or a family's name.
        name: the model's name at its source, such as a model hub.

    Raises:
        BadRequest: `bad_model` if a file or the chat template is missing; see also `choose_family`.
    """
    config = _read_json(directory / "tokenizer_config.json")
    source = _template_source(directory, config)
    specials = {name: _token_text(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    tokenizer = FileTokenizer(directory / "tokenizer.json")
    variables = {name: text for name, text in specials.items() if text}
    engine_ends = configured_ends(directory)
    texts, marks = [tokenizer.decode_all([end]) for end in sorted(engine_ends)], tokenizer.marks(source)
    eos = specials["eos_token"] or next((text for text in texts if text in marks), "")
    template = ChatTemplate(tokenizer, source, eos, variables)
    end = template.written_end()
    if not (eos or end):
        raise BadRequest(f"{directory / 'tokenizer_config.json'} has no eos_token", code="bad_model")
    if end not in (None, template.end_of_turn):
        logger.info("the chat template ends answers with %s, not with the model's eos_token", end)
        template = ChatTemplate(tokenizer, source, end, variables)
    family = choose_family(renderer, Model(tokenizer, template, _names(directory, name)))
    if not (ends_answers := end is not None or bool(family.stop_ids)):
        logger.warning("%s", NO_END)
    known = {token_id for text in (end, eos) if text and (token_id := tokenizer.id_of(text)) is not None}
    stop_ids = (*family.stop_ids, *sorted(known - engine_ends.union(family.stop_ids)))
    return Renderer(
        template,
        replace(family, stop_ids=stop_ids),
        tokenizer.with_marks(family.marks, engine_ends.union(stop_ids)),
        ends_answers=ends_answers,
        eos_id=tokenizer.id_of(eos),
    )


def _template_source(directory: Path, config: dict[str, Any]) -> str:
    separate = directory / "chat_template.jinja"
    source = separate.read_text() if separate.is_file() else config.get("chat_template")
    if not isinstance(source, str):
        raise BadRequest(f"{directory} has no chat template: use an instruct model", code="bad_model")
    return source


def _names(directory: Path, name: str) -> tuple[str, ...]:
    """Return the model's names from its source, its directory, a model hub's cache, and its configuration."""
    names = [name, directory.name]
    if hub := re.search(r"models--([^/]+)--([^/]+)", str(directory)):
        names.append(f"{hub[1]}/{hub[2]}")
    for file, keys in (
        ("config.json", ("_name_or_path", "model_type", "architectures")),
        ("tokenizer_config.json", ("name_or_path",)),
    ):
        config = _read_json(directory / file)
        names += [str(config[key]) for key in keys if config.get(key)]
    return tuple(filter(None, names))


def _read_json(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return config


def _token_text(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else token or ""
