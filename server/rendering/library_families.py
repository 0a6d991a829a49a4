"""Model families of the library `renderers` (Apache-2.0): prompts, continuations and calls by token ids (step 2).

A chat template does not say how a model writes its calls; for these families the library knows both. Which family fits
a model, and whether the library is right about it, is decided in `family_choice.py`. The library is imported when a
family is first tried.
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
from server.rendering.calls_in_text import calls_in
from server.rendering.content_marks import without_splits
from server.rendering.hermes import HERMES_CALLS
from server.rendering.json_text import write_json
from server.rendering.model_family import LoadedFamily, Model, ParsedAnswer, ParsedCall
from server.rendering.shapes import shapes
from server.rendering.template import unknown_options
from server.rendering.tokenizer import FileTokenizer
from server.rendering.tool_calls import CALL_OPEN, Messages, Options, Tools, normalize

logger = logging.getLogger(__name__)

_REJECTIONS = (ValueError, TypeError, KeyError, AttributeError, IndexError, AssertionError)
"""Raised by the library for messages that a family cannot express."""
_CACHED_RENDERERS = 32
"""Renderers with different options that are kept."""


@dataclass(frozen=True, slots=True)
class LibraryFamily:
    """A family of the library, with the facts needed to read its answers while they are sampled."""

    name: str
    token: str
    """A token that the family's tokenizers have, and few others."""
    call_open: str = ""
    """Mark before the calls of an answer; empty if nothing can be shown before the answer's end."""
    call_is_answer: bool = False
    """A call is the whole answer."""
    thinks: bool = True
    """Thoughts stand between `<think>` and `</think>` at the start."""
    json_calls: bool = False
    """A call is JSON in Hermes tags, so it can be forced."""

    def may_fit(self, model: Model) -> bool:
        """Whether the tokenizer has the family's token."""
        return model.tokenizer.id_of(self.token) is not None

    def load(self, model: Model) -> LoadedFamily:
        """Return the family for one model.

        Raises:
            Exception: the library's own, if the model's tokens are not the family's.
        """
        writer = LibraryWriter(self, model)
        return LoadedFamily(
            self.name,
            writer.parser,
            marks=(self.call_open,) if self.call_open else (),
            reasons=self.thinks,
            stop_ids=tuple(writer.stop_ids),
            json_calls=self.json_calls,
            writer=writer,
        )


FAMILIES = (
    *(LibraryFamily(name, CALL_OPEN, CALL_OPEN, json_calls=True) for name in ("qwen3", "qwen3-vl")),
    *(LibraryFamily(name, CALL_OPEN, CALL_OPEN) for name in ("qwen3.5", "qwen3.6", "qwen3.8", "prime-qwen3")),
    *(LibraryFamily(name, CALL_OPEN, CALL_OPEN) for name in ("nemotron-3", "nemotron-3-ultra", "nemotron-3.5")),
    *(LibraryFamily(name, "[gMASK]", CALL_OPEN) for name in ("glm-4.5", "glm-5", "glm-5.1", "glm-5.3")),
    LibraryFamily("minimax-m2", "<minimax:tool_call>", "<minimax:tool_call>"),
    *(
        LibraryFamily(name, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁begin｜>")
        for name in ("deepseek-v3", "deepseek-r1")
    ),
    *(
        LibraryFamily(name, "<|tool_calls_section_begin|>", "<|tool_calls_section_begin|>")
        for name in ("kimi-k2", "kimi-k2.5")
    ),
    *(
        LibraryFamily(name, "<assistant>", CALL_OPEN)
        for name in ("laguna-xs.2", "laguna-m.1", "laguna-xs-2.1", "laguna-s-2.1")
    ),
    LibraryFamily("llama-3", "<|eom_id|>", "{", call_is_answer=True, thinks=False),
    LibraryFamily("hy3", "<think:opensource>"),
    LibraryFamily("gemma4", "<|turn>"),
    LibraryFamily("gpt-oss", "<|constrain|>"),
    LibraryFamily("inkling", "<|content_invoke_tool_json|>"),
)
"""The library's families that have a chat template to compare with."""


class LibraryWriter:
    """The library's renderer of one family for one model's tokenizer."""

    def __init__(self, family: LibraryFamily, model: Model) -> None:
        self._family = family
        # The library distinguishes some sizes by the name on the model hub, and some revisions by the chat template.
        hub_names = import_module("renderers.base").MODEL_RENDERER_MAP
        name = next((name for name in model.names if hub_names.get(name) == family.name), model.names[0])
        self._splits = model.template.splits
        self._tokenizer = _LibraryTokenizer(model.tokenizer, name, model.template.end_of_turn, model.template.source)
        self._config: Any = import_module("renderers.configs").config_from_name(family.name)
        self.options: frozenset[str] = self._config.template_field_names()
        self._cached: dict[str, _Renderer] = {"{}": self._make({})}
        self.stop_ids: list[int] = self._cached["{}"].library.get_stop_token_ids()

    @property
    def template_options(self) -> Options:
        """The library's constant date; the chat template itself would use today's date."""
        return {"date_string": self._config.date_string} if "date_string" in self.options else {}

    def prompt(self, messages: Messages, tools: Tools, options: Options) -> list[int]:
        """Return the ids of a whole conversation; see `PromptWriter`."""
        library = self._renderer(options).library
        described = self._splits.content(tools) or None
        refused: Exception | None = None
        for shape in shapes(self._splits.content(normalize(messages))):
            try:
                ids: list[int] = library.render_ids(shape, tools=described, add_generation_prompt=True)
                return ids
            except _REJECTIONS as error:
                refused = refused or error
        wrong = without_splits(str(refused))
        raise BadRequest(
            f"the model family {self._family.name} rejects these messages: {wrong}", param="messages"
        ) from refused

    def follow(
        self, messages: Messages, known: int, recorded: list[int], tools: Tools, options: Options
    ) -> list[int] | None:
        """Return the ids after the recorded ids; see `PromptWriter`.

        Sampled thoughts stay unchanged, even if the template would drop them.
        """
        renderer = self._renderer(options)
        answer_start = renderer.last_answer(recorded)
        new = self._splits.content(normalize(messages[known:]))
        if answer_start is None or not new:
            return None
        try:
            bridged = renderer.library.bridge_to_next_turn(
                recorded[:answer_start], recorded[answer_start:], new, tools=self._splits.content(tools) or None
            )
        except _REJECTIONS:  # Rendering the whole conversation then reports the error.
            return None
        if bridged is None or bridged.token_ids[: len(recorded)] != recorded:
            return None
        ids: list[int] = bridged.token_ids[len(recorded) :]
        return ids

    def parser(self, prompt_ids: list[int], tools: Tools, options: Options) -> LibraryParser:
        """Return the parser of the answer to a prompt."""
        library = self._renderer(options).library
        return LibraryParser(library, self._tokenizer, self._family, prompt_ids, list(tools) or None)

    def _renderer(self, options: Options) -> _Renderer:
        """Return the library's renderer with these options."""
        key = json.dumps(dict(options), sort_keys=True)
        if key not in self._cached:
            if len(self._cached) >= _CACHED_RENDERERS:
                self._cached = {"{}": self._cached["{}"]}
            self._cached[key] = self._make(options)
        return self._cached[key]

    def _make(self, options: Options) -> _Renderer:
        if unknown := sorted(options.keys() - self.options):
            raise unknown_options(unknown, self.options)
        config_class = type(self._config)
        try:
            options = self._splits.content(dict(options))
            try:  # The record holds the sampled thoughts, so a continuation keeps them.
                config = config_class(thinking_retention="all", **options)
            except ValidationError:  # The options ask for thoughts to be dropped.
                config = config_class(**options)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise BadRequest(f"chat_template_kwargs: {wrong}", param="chat_template_kwargs") from error
        library = import_module("renderers.base").create_renderer(self._tokenizer, config)
        ask = [{"role": "user", "content": "."}]
        before, whole = library.render_ids(ask), library.render_ids(ask, add_generation_prompt=True)
        return _Renderer(library, whole[len(before) :] if whole[: len(before)] == before else [])


@dataclass(frozen=True, slots=True)
class _Renderer:
    """The library's renderer with one set of options."""

    library: Any
    generation_prompt: list[int]
    """Ids at the end of each prompt: the start of the assistant's message."""

    def last_answer(self, recorded: list[int]) -> int | None:
        """Return the position after the last generation prompt, where the last answer begins; None if not found."""
        size = len(self.generation_prompt)
        for at in range(len(recorded) - size, -1, -1) if size else ():
            if recorded[at] == self.generation_prompt[0] and recorded[at : at + size] == self.generation_prompt:
                return at + size
        return None


class LibraryParser:
    """The library's parser of the answer to one prompt; see `WholeAnswerParser`."""

    def __init__(
        self,
        library: Any,
        tokenizer: _LibraryTokenizer,
        family: LibraryFamily,
        prompt_ids: list[int],
        tools: list[Any] | None,
    ) -> None:
        self._library, self._tokenizer, self._prompt_ids, self._tools = library, tokenizer, prompt_ids, tools
        self.call_open, self.call_is_answer = family.call_open, family.call_is_answer
        self._json_calls = family.json_calls

    @property
    def in_thoughts(self) -> bool:
        """Whether the prompt ends inside the answer's thoughts."""
        return self._parse([]).reasoning_complete is False

    def parse(self, token_ids: list[int]) -> ParsedAnswer:
        """Return the parts of a whole answer."""
        try:
            parsed = self._parse(token_ids)
            calls, around = self._calls(parsed, self._until_stop(token_ids))
            content = "\n".join(filter(None, [parsed.content, around]))
        except Exception:  # A parser that fails must not lose an answer: it is shown as it was written.
            logger.exception("cannot parse an answer of %d tokens", len(token_ids))
            return ParsedAnswer(self._tokenizer.decode(token_ids), "", [])
        return ParsedAnswer(content, parsed.reasoning_content or "", calls)

    def _parse(self, token_ids: list[int]) -> Any:
        return self._library.parse_response(token_ids, tools=self._tools, prompt_ids=self._prompt_ids)

    def _until_stop(self, token_ids: list[int]) -> list[int]:
        """Return the ids before the first one that ends an answer, as the library reads them."""
        stops = set(self._library.get_stop_token_ids())
        return token_ids[: next((at for at, token_id in enumerate(token_ids) if token_id in stops), None)]

    def _calls(self, parsed: Any, token_ids: list[int]) -> tuple[list[ParsedCall], str]:
        """Return the calls, and the text between and after them if the library dropped it."""
        spans = sorted({call.token_span for call in parsed.tool_calls if call.token_span})
        if spans and self._json_calls:  # The library ends a call at a mark inside a JSON string.
            return calls_in(HERMES_CALLS, self._tokenizer.decode(token_ids[spans[0][0] :]))
        gaps = zip([end for _, end in spans], [*(begin for begin, _ in spans[1:]), len(token_ids)], strict=True)
        texts = [self._tokenizer.text(token_ids[begin:end]).strip() for begin, end in gaps]
        around = "\n".join(filter(None, texts))
        kept = _letters(parsed.content or "").endswith(_letters(around))
        return [self._call(call, token_ids) for call in parsed.tool_calls], "" if kept else around

    def _call(self, call: Any, token_ids: list[int]) -> ParsedCall:
        """Return one attempt at a call; without a name if it is invalid."""
        begin, end = call.token_span or (0, 0)
        text = self._tokenizer.decode(token_ids[begin:end]) or call.raw
        valid = call.status in ("ok", "unknown_tool") or (
            call.status == "invalid_json" and isinstance(call.arguments, dict)
        )
        if not valid or not isinstance(call.name, str) or not call.name:
            return ParsedCall(None, text=text)
        try:
            written = call.arguments if isinstance(call.arguments, str) else write_json(call.arguments)
        except ValueError:
            return ParsedCall(None, text=text)
        return ParsedCall(call.name, written, call.id, text)


def _letters(text: str) -> str:
    return "".join(text.split())


class _LibraryTokenizer:
    """A tokenizer with the interface that the library expects."""

    unk_token_id = None

    def __init__(self, tokenizer: FileTokenizer, name_or_path: str, end_of_turn: str, chat_template: str) -> None:
        self._tokenizer = tokenizer
        self._marks = {tokenizer.id_of(mark) for mark in tokenizer.marks(chat_template)}
        self.name_or_path, self.chat_template = name_or_path, chat_template
        self.eos_token_id = tokenizer.id_of(end_of_turn)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return ids; special tokens are never added."""
        return self._tokenizer.encode(text)

    def decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False, **_: Any) -> str:
        """Return text, including special tokens unless they are skipped."""
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        return self._tokenizer.decode(ids) if skip_special_tokens else self._tokenizer.decode_all(ids)

    def text(self, token_ids: Sequence[int]) -> str:
        """Return text without any mark."""
        return self._tokenizer.decode_all([token_id for token_id in token_ids if token_id not in self._marks])

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> Any:
        """Return the id of each token, or None for text that is not a token."""
        return self._tokenizer.id_of(tokens) if isinstance(tokens, str) else [self._tokenizer.id_of(t) for t in tokens]
