"""A model family's own grammar: prompts, continuations and answers by the library `renderers` (Apache-2.0; step 2).

`render.py` knows any chat template but not how a model writes its calls. For the families below the library knows both,
by token ids. Which family a model belongs to, and whether the library is right about it, is `family_choice.py`'s. The
library is imported when a family is first tried.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from server.errors import BadRequest
from server.rendering.answers import Called, Reading
from server.rendering.render import FileTokenizer, unknown_options
from server.rendering.tool_calls import CALL_OPEN, Messages, Options, Tools

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Form:
    """How a family writes an answer, as far as reading it while it is sampled needs it."""

    token: str
    """A token that its tokenizers have, and few others."""
    call_open: str = ""
    """What begins the calls in an answer; empty where the grammar is another, and nothing is shown before the end."""
    alone: bool = False
    """A call is the whole answer."""
    thinks: bool = True
    """Thoughts stand between `<think>` and `</think>` at the beginning."""
    hermes: bool = False
    """A call is JSON in Hermes tags, so it can be forced."""


_HERMES = Form(CALL_OPEN, CALL_OPEN, hermes=True)
_TAGGED = Form(CALL_OPEN, CALL_OPEN)
_GLM = Form("[gMASK]", CALL_OPEN)
_LAGUNA = Form("<assistant>", CALL_OPEN)
_DEEPSEEK = Form("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁begin｜>")
_KIMI = Form("<|tool_calls_section_begin|>", "<|tool_calls_section_begin|>")
FAMILIES: dict[str, Form] = {
    "qwen3": _HERMES,
    "qwen3-vl": _HERMES,
    "qwen3.5": _TAGGED,
    "qwen3.6": _TAGGED,
    "qwen3.8": _TAGGED,
    "prime-qwen3": _TAGGED,
    "nemotron-3": _TAGGED,
    "nemotron-3-ultra": _TAGGED,
    "nemotron-3.5": _TAGGED,
    "glm-4.5": _GLM,
    "glm-5": _GLM,
    "glm-5.1": _GLM,
    "glm-5.3": _GLM,
    "minimax-m2": Form("<minimax:tool_call>", "<minimax:tool_call>"),
    "deepseek-v3": _DEEPSEEK,
    "deepseek-r1": _DEEPSEEK,
    "kimi-k2": _KIMI,
    "kimi-k2.5": _KIMI,
    "laguna-xs.2": _LAGUNA,
    "laguna-m.1": _LAGUNA,
    "laguna-xs-2.1": _LAGUNA,
    "laguna-s-2.1": _LAGUNA,
    "llama-3": Form("<|eom_id|>", "{", alone=True, thinks=False),
    "hy3": Form("<think:opensource>"),
    "gemma4": Form("<|turn>"),
    "gpt-oss": Form("<|constrain|>"),
    "inkling": Form("<|content_invoke_tool_json|>"),
}
"""The library's families that have a chat template to be compared with."""
_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, IndexError, AssertionError)
"""What the library raises about messages that a family cannot say."""
_KEPT = 32  # Renderers with different options that are kept.


class Family:
    """One family's grammar for one model's tokenizer."""

    def __init__(self, name: str, tokenizer: FileTokenizer, *, model: str, end_of_turn: str, template: str) -> None:
        """Load the library's renderer.

        Args:
            name: the family.
            tokenizer: the model's.
            model: the model's name on the hub, as far as it is known: some families differ by size.
            end_of_turn: the token that ends an answer.
            template: the model's chat template, by which the library tells some revisions apart.

        Raises:
            Exception: the library's own, where the model's tokens are not the family's.
        """
        self.name = name
        self.form = FAMILIES[name]
        self._tokenizer = _LibraryTokenizer(tokenizer, model, end_of_turn, template)
        self._config: Any = import_module("renderers.configs").config_from_name(name)
        self.options: frozenset[str] = self._config.template_field_names()
        """What `chat_template_kwargs` may set."""
        self._made: dict[str, _Made] = {"{}": self._make({})}
        self.stop_ids: list[int] = self._made["{}"].renderer.get_stop_token_ids()

    def default(self, option: str) -> Any:
        """Return the value of an option that no request sets."""
        return getattr(self._config, option)

    def prompt(self, messages: Messages, tools: Tools, options: Options) -> list[int]:
        """Return the ids of a whole conversation, ready for the assistant's answer.

        Raises:
            BadRequest: the family cannot say these messages, or knows no such option.
        """
        renderer = self._with(options).renderer
        try:
            ids: list[int] = renderer.render_ids(list(messages), tools=list(tools) or None, add_generation_prompt=True)
        except _REFUSALS as error:
            raise BadRequest(
                f"the model's form of a conversation refuses these messages: {error}", param="messages"
            ) from error
        return ids

    def follow(self, recorded: list[int], new: Messages, tools: Tools, options: Options) -> list[int] | None:
        """Return the ids that follow the recorded ones, ready for the next answer; None where they cannot.

        Thoughts stay as they were sampled, also where the template would drop them.
        """
        made = self._with(options)
        begin = made.last_answer(recorded)
        if begin is None or not new:
            return None
        try:
            found = made.renderer.bridge_to_next_turn(
                recorded[:begin], recorded[begin:], list(new), tools=list(tools) or None
            )
        except _REFUSALS:  # Rendering the whole conversation then says what is wrong with it.
            return None
        if found is None or found.token_ids[: len(recorded)] != recorded:
            return None
        ids: list[int] = found.token_ids[len(recorded) :]
        return ids

    def grammar(self, prompt_ids: list[int], tools: Tools, options: Options) -> FamilyGrammar:
        """Return how an answer to this prompt is to be read."""
        return FamilyGrammar(self._with(options).renderer, self._tokenizer, self.form, prompt_ids, list(tools) or None)

    def _with(self, options: Options) -> _Made:
        """Return the library's renderer with options."""
        key = json.dumps(dict(options), sort_keys=True)
        if key not in self._made:
            if len(self._made) >= _KEPT:
                self._made = {"{}": self._made["{}"]}
            self._made[key] = self._make(options)
        return self._made[key]

    def _make(self, options: Options) -> _Made:
        if unknown := sorted(options.keys() - self.options):
            raise unknown_options(unknown, self.options)
        config = type(self._config)
        try:
            try:  # The record holds thoughts as they were sampled: a continuation keeps them.
                made = config(thinking_retention="all", **options)
            except ValidationError:  # The caller asks for them to be dropped.
                made = config(**options)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise BadRequest(f"chat_template_kwargs: {wrong}", param="chat_template_kwargs") from error
        renderer = import_module("renderers.base").create_renderer(self._tokenizer, made)
        asked = [{"role": "user", "content": "."}]
        before, whole = renderer.render_ids(asked), renderer.render_ids(asked, add_generation_prompt=True)
        return _Made(renderer, whole[len(before) :] if whole[: len(before)] == before else [])


@dataclass(frozen=True, slots=True)
class _Made:
    """The library's renderer with some options."""

    renderer: Any
    head: list[int]
    """What prompts end with: the head of the assistant's message."""

    def last_answer(self, recorded: list[int]) -> int | None:
        """Return where the last answer begins: behind the last head. None where that is not to be seen."""
        size = len(self.head)
        for at in range(len(recorded) - size, -1, -1) if size else ():
            if recorded[at] == self.head[0] and recorded[at : at + size] == self.head:
                return at + size
        return None


class FamilyGrammar:
    """Reads the answer to one prompt; see `answers.Grammar`."""

    def __init__(
        self, renderer: Any, tokenizer: _LibraryTokenizer, form: Form, prompt_ids: list[int], tools: list[Any] | None
    ) -> None:
        self._renderer, self._tokenizer, self._prompt_ids, self._tools = renderer, tokenizer, prompt_ids, tools
        self.call_open, self.alone = form.call_open, form.alone

    @property
    def in_thoughts(self) -> bool:
        """Whether the answer begins within its thoughts."""
        return self._parse([]).reasoning_complete is False

    def read(self, token_ids: list[int]) -> Reading:
        """Return what a whole answer says."""
        try:
            parsed = self._parse(token_ids)
        except Exception:  # A parser that stumbles must not lose an answer: it is shown as it was written.
            logger.exception("an answer of %d tokens cannot be parsed", len(token_ids))
            return Reading(self._tokenizer.decode(token_ids), "", [])
        return Reading(
            parsed.content or "",
            parsed.reasoning_content or "",
            [self._called(call, token_ids) for call in parsed.tool_calls],
        )

    def _parse(self, token_ids: list[int]) -> Any:
        return self._renderer.parse_response(token_ids, tools=self._tools, prompt_ids=self._prompt_ids)

    def _called(self, call: Any, token_ids: list[int]) -> Called:
        """Return one attempt at a call; without a name where it is none."""
        begin, end = call.token_span or (0, 0)
        text = self._tokenizer.decode(token_ids[begin:end]) or call.raw
        sound = call.status in ("ok", "unknown_tool") or (
            call.status == "invalid_json" and isinstance(call.arguments, dict)
        )
        if not sound or not isinstance(call.name, str) or not call.name:
            return Called(text)
        written = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments, ensure_ascii=False)
        return Called(text, call.name, written, call.id)


class _LibraryTokenizer:
    """A tokenizer as the library wants it."""

    unk_token_id = None

    def __init__(self, tokenizer: FileTokenizer, name_or_path: str, end_of_turn: str, chat_template: str) -> None:
        self._tokenizer = tokenizer
        self.name_or_path, self.chat_template = name_or_path, chat_template
        self.eos_token_id = tokenizer.id_of(end_of_turn)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return ids; special tokens are never added."""
        return self._tokenizer.encode(text)

    def decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False, **_: Any) -> str:
        """Return text, special tokens included."""
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        return self._tokenizer.decode(ids) if skip_special_tokens else self._tokenizer.decode_all(ids)

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> Any:
        """Return the id of each token, None for what is none."""
        return self._tokenizer.id_of(tokens) if isinstance(tokens, str) else [self._tokenizer.id_of(t) for t in tokens]
