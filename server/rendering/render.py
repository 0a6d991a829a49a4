"""Messages to token ids, and sampled ids back to text (step 2 of the straight line).

The record is token ids; text is never re-tokenised. A conversation that goes on is rendered as the recorded ids plus
the tokens of the new messages only. Where the model is of a family that `families.py` knows, both come from there. For
any other, from the model's own chat template: the cut lies right after an end-of-turn token, a special token at which a
tokenizer always splits, so the new part's tokens do not depend on what stands before it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jinja2 import TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.errors import BadRequest
from server.rendering.tool_calls import (
    CALL_OPEN,
    MARKS,
    NO_OPTIONS,
    THINK_CLOSE,
    THINK_OPEN,
    Messages,
    Options,
    Tools,
    in_plain_messages,
    with_parsed_arguments,
)

if TYPE_CHECKING:  # It imports this module.
    from server.rendering.families import Family, FamilyGrammar

_SENTINEL = "an answer that stands for the recorded one"
_GIVEN = frozenset({"messages", "tools", "add_generation_prompt"})


class Tokenizer(Protocol):
    """What rendering needs of a tokenizer; special tokens in the text become their ids."""

    @property
    def size(self) -> int:
        """Number of ids, which begin at 0."""

    def encode(self, text: str) -> list[int]:
        """Return ids, adding no special tokens."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return text without special tokens."""


class FileTokenizer:
    """A model directory's `tokenizer.json`, without importing transformers."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as FastTokenizer

        if not path.is_file():
            raise BadRequest(f"{path} is missing: the model needs a fast tokenizer (tokenizer.json)", code="bad_model")
        self._tokenizer = FastTokenizer.from_file(str(path))
        added = self._tokenizer.get_added_tokens_decoder()
        self._hidden = {i for i, token in added.items() if token.special and token.content not in MARKS}

    @property
    def size(self) -> int:
        """Number of ids."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    def encode(self, text: str) -> list[int]:
        """Return ids, adding no special tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return text without special tokens, save those that structure an answer."""
        return self.decode_all([token_id for token_id in token_ids if token_id not in self._hidden])

    def decode_all(self, token_ids: Sequence[int]) -> str:
        """Return text, special tokens included."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def id_of(self, token: str) -> int | None:
        """Return the id of one token, None where it is none."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def structure(self, mark: str, ends: Collection[int]) -> None:
        """Show a mark of the model's family in answers, and hide what ends them."""
        self._hidden = (self._hidden | set(ends)) - {self.id_of(mark)}


class Renderer:
    """One model's chat template and tokenizer."""

    def __init__(self, tokenizer: Tokenizer, template: str, end_of_turn: str, variables: dict[str, Any] | None = None):
        self.tokenizer = tokenizer
        self.end_of_turn = end_of_turn
        self.end_ids = tokenizer.encode(end_of_turn)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **more: json.dumps(value, ensure_ascii=False, **more)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now(datetime.UTC).strftime(form)
        self._template = environment.from_string(template)
        self._variables = variables or {}
        parsed = environment.parse(template)
        self._knows_tools = "tools" in meta.find_undeclared_variables(parsed)
        self._options = frozenset(_options(parsed) - _GIVEN - self._variables.keys() - environment.globals.keys())
        self.source = template
        """The chat template."""
        self.reasons = THINK_OPEN in template
        """The model may think aloud, between tags, before it answers."""
        self.family: Family | None = None
        """What renders and reads instead of the template."""
        self.stop_ids: tuple[int, ...] = ()
        """Tokens that end an answer beside the engine's own."""

    @classmethod
    def from_directory(cls, directory: Path, renderer: str = "auto", name: str = "") -> Renderer:
        """Read the chat template and tokenizer of a model directory.

        Args:
            directory: the model's.
            renderer: `auto`, `template`, or a family's name; see `family_choice.py`.
            name: what the model is called where it comes from.

        Raises:
            BadRequest: a file is missing, the model has no chat template, or is not of the family that was asked for.
        """
        from server.rendering.family_choice import choose_family

        config_path = directory / "tokenizer_config.json"
        config = json.loads(config_path.read_text()) if config_path.is_file() else {}
        separate = directory / "chat_template.jinja"
        template = separate.read_text() if separate.is_file() else config.get("chat_template")
        if not isinstance(template, str):
            raise BadRequest(f"{directory} has no chat template: use an instruct model", code="bad_model")
        specials = {name: _text_of(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        if not specials["eos_token"]:
            raise BadRequest(f"{config_path} names no eos_token", code="bad_model")
        tokenizer = FileTokenizer(directory / "tokenizer.json")
        made = cls(tokenizer, template, specials["eos_token"], {name: text for name, text in specials.items() if text})
        if family := choose_family(renderer, made, tokenizer, directory, name):
            made.family, made.reasons, made.stop_ids = family, family.form.thinks, tuple(family.stop_ids)
            tokenizer.structure(family.form.call_open, family.stop_ids)
        return made

    def text(self, messages: Messages, *, ask: bool, tools: Tools = (), options: Options = NO_OPTIONS) -> str:
        """Return the template's text; `ask` adds the head of the assistant's next message.

        Raises:
            BadRequest: the template refuses these messages, or knows no such option.
        """
        if unknown := sorted(options.keys() - self._options):
            raise unknown_options(unknown, self._options)
        given = {**self._variables, **options}
        if self._knows_tools:
            plain = normal(messages)
            given["tools"] = list(tools) or None
        else:
            plain = in_plain_messages([_with_text(message) for message in messages], tools)
        try:
            return self._template.render(messages=plain, add_generation_prompt=ask, **given)
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise BadRequest(f"the model's chat template refuses these messages: {error}", param="messages") from error

    def prompt(self, messages: Messages, tools: Tools = (), options: Options = NO_OPTIONS) -> list[int]:
        """Return the ids of a whole conversation, ready for the assistant's answer."""
        if self.family is not None:
            return self.family.prompt(normal(messages), tools, options)
        return self.tokenizer.encode(self.text(messages, ask=True, tools=tools, options=options))

    def follow(
        self, messages: Messages, known: int, recorded: list[int], tools: Tools = (), options: Options = NO_OPTIONS
    ) -> list[int] | None:
        """Return the ids that follow the recorded ones of the first `known` messages, ready for the next answer.

        None where they cannot simply go on: the conversation has to fork.
        """
        if self.family is not None:
            return self.family.follow(recorded, normal(messages[known:]), tools, options)
        return self.continuation(messages, known, recorded[-1], tools, options)

    def grammar(self, prompt_ids: list[int], tools: Tools = (), options: Options = NO_OPTIONS) -> FamilyGrammar | None:
        """Return how the family reads the answer to a prompt; None is Hermes, JSON between tags."""
        return None if self.family is None else self.family.grammar(prompt_ids, tools, options)

    def opens_reasoning(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt ends inside the thoughts of the answer to come."""
        return self.reasons and self.tokenizer.decode(prompt_ids[-8:]).rstrip().endswith(THINK_OPEN)

    def forced_call(self, *, after_reasoning: bool) -> list[int]:
        """Return the ids that begin an answer which has to be a tool call.

        Raises:
            BadRequest: the model's family does not write its calls as JSON between tags.
        """
        if self.family is not None and not self.family.form.hermes:
            raise BadRequest(
                f"a model of the family {self.family.name} cannot be held to a tool call: it does not "
                "write calls as JSON",
                param="tool_choice",
                code="unsupported_parameter",
            )
        return self.tokenizer.encode(f"{THINK_CLOSE}\n\n{CALL_OPEN}\n" if after_reasoning else f"{CALL_OPEN}\n")

    def continuation(
        self, messages: Messages, known: int, last_id: int, tools: Tools = (), options: Options = NO_OPTIONS
    ) -> list[int] | None:
        """Return what the template writes after the first `known` messages, ready for the next answer.

        `last_id` is the last recorded id: an answer that was cut by its length gets its end-of-turn here, untrained.
        None where the template gives no text for the new messages alone: the conversation has to fork.
        """
        whole = self.text(messages, ask=True, tools=tools, options=options)
        rest = self._after_prefix(whole, messages[:known], tools, options)
        if rest is None:
            rest = self._after_sentinel(whole, messages[known:], tools, options)
        if rest is None:
            return None
        ids = self.tokenizer.encode(rest)
        return ids if last_id in self.end_ids else [*self.end_ids, *ids]

    def _after_prefix(self, whole: str, known: Messages, tools: Tools, options: Options) -> str | None:
        """Return what follows the known messages, where the template renders them as a beginning of the whole."""
        before = self.text(known, ask=False, tools=tools, options=options)
        end = before.rfind(self.end_of_turn)
        if end < 0 or not whole.startswith(before):
            return None
        return whole[end + len(self.end_of_turn) :]

    def _after_sentinel(self, whole: str, new: Messages, tools: Tools, options: Options) -> str | None:
        """Return the new messages' own text, where the template renders history in another way than it was sampled.

        Templates of reasoning models drop the thoughts of earlier answers. The record keeps what was sampled, and the
        new messages are rendered behind another answer; the whole must end with exactly that text.
        """
        behind = [{"role": "user", "content": "."}, {"role": "assistant", "content": _SENTINEL}, *new]
        try:
            text = self.text(behind, ask=True, tools=tools, options=options)
        except BadRequest:
            return None
        _, found, rest = text.partition(_SENTINEL)
        _, ended, rest = rest.partition(self.end_of_turn)
        return rest if found and ended and new and whole.endswith(rest) else None


class TextStream:
    """Turns growing token ids into text that can be sent: whole characters only, and nothing of a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = [s for s in stop if s]
        self._hold = max((len(s) - 1 for s in self._stop), default=0)
        self._ids: list[int] = []
        self._settled = 0  # Ids whose text is in `_text` for good.
        self._text = ""
        self._sent = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """Add ids; return the text that may be sent now."""
        self._ids.extend(token_ids)
        start = max(0, self._settled - 6)  # Some context: a token's text may depend on its neighbours.
        known = self._tokenizer.decode(self._ids[start : self._settled])
        grown = self._tokenizer.decode(self._ids[start:])
        if not grown.endswith("�"):
            self._text += grown[len(known) :]
            self._settled = len(self._ids)
        return self._send(len(self._text) - self._hold)

    def finish(self) -> str:
        """Return what is left to send."""
        start = max(0, self._settled - 6)
        known = self._tokenizer.decode(self._ids[start : self._settled])
        self._text += self._tokenizer.decode(self._ids[start:])[len(known) :]
        self._settled = len(self._ids)
        return self._send(len(self._text))

    @property
    def text(self) -> str:
        """All text up to the first stop string."""
        return up_to_stop(self._text, self._stop)

    def _send(self, upto: int) -> str:
        upto = min(upto, _cut(self._text, self._stop))
        if upto <= self._sent:
            return ""
        piece = self._text[self._sent : upto]
        self._sent = upto
        return piece


def _options(template: nodes.Template) -> set[str]:
    """Return the names that a template does not set itself, or only where they are not given."""
    set_here = {name.name for name in template.find_all(nodes.Name) if name.ctx == "store"}
    asked_for = {
        test.node.name
        for test in template.find_all(nodes.Test)
        if test.name in ("defined", "undefined") and isinstance(test.node, nodes.Name)
    }
    return meta.find_undeclared_variables(template) - (set_here - asked_for)


def normal(messages: Messages) -> list[dict[str, Any]]:
    """Return the messages as templates expect them: content is text, arguments of calls are objects."""
    return [with_parsed_arguments(_with_text(message)) for message in messages]


def unknown_options(unknown: list[str], known: frozenset[str]) -> BadRequest:
    """Return the refusal of `chat_template_kwargs` that this model does not know."""
    has = f"it knows {', '.join(sorted(known))}" if known else "it knows none"
    return BadRequest(
        f"chat_template_kwargs: this model does not know {', '.join(unknown)[:200]}; {has}",
        param="chat_template_kwargs",
        code="unsupported_parameter",
    )


def up_to_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text up to the first stop string."""
    return text[: _cut(text, stop)]


def _cut(text: str, stop: Sequence[str]) -> int:
    return min((at for at in (text.find(s) for s in stop if s) if at >= 0), default=len(text))


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _text_of(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else token or ""


def _with_text(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message with list content joined: text models' templates know strings only."""
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": "".join(part.get("text", "") for part in content)}
    return {**message, "content": content if content is not None else ""}
