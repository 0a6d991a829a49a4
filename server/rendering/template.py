"""A model's chat template: whole conversations, and the exact continuation of recorded ids (step 2).

The cut between recorded ids and new ones lies right after an end-of-turn token. Tokenizers always split at this special
token, so the tokens of the new part do not depend on the text before it.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.errors import BadRequest
from server.rendering.content_marks import SplitMarks, without_splits
from server.rendering.shapes import shapes
from server.rendering.tokenizer import Tokenizer
from server.rendering.tool_calls import (
    NO_OPTIONS,
    Messages,
    Options,
    Tools,
    in_plain_messages,
    normalize,
)

_SENTINEL = "an answer that stands for the recorded one"
_RESERVED = frozenset({"messages", "tools", "add_generation_prompt"})


class ChatTemplate:
    """A Jinja chat template together with the model's tokenizer.

    Args:
        tokenizer: encodes the rendered text.
        source: the Jinja source.
        end_of_turn: token that ends an answer.
        variables: further variables of the template, such as `bos_token`.
    """

    def __init__(self, tokenizer: Tokenizer, source: str, end_of_turn: str, variables: dict[str, Any] | None = None):
        self.tokenizer = tokenizer
        self.source = source
        self.end_of_turn = end_of_turn
        self.end_ids = tokenizer.encode(end_of_turn)
        self.splits = SplitMarks(tokenizer.marks(source), tokenizer.normalize)
        """Splits the marks in content, which are text."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **more: json.dumps(value, ensure_ascii=False, **more)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now(datetime.UTC).strftime(pattern)
        self._template = environment.from_string(source)
        self._variables = variables or {}
        parsed = environment.parse(source)
        self._supports_tools = "tools" in meta.find_undeclared_variables(parsed)
        self.options = frozenset(_options(parsed) - _RESERVED - self._variables.keys() - environment.globals.keys())

    def text(self, messages: Messages, *, ask: bool, tools: Tools = (), options: Options = NO_OPTIONS) -> str:
        """Return the rendered text; `ask` appends the start of the assistant's next message.

        Marks in content are split (`content_marks.py`).

        Raises:
            BadRequest: the template rejects the messages in every shape or does not have one of the options.
        """
        if unknown := sorted(options.keys() - self.options):
            raise unknown_options(unknown, self.options)
        variables = {**self._variables, **self.splits.content(dict(options))}
        plain, tools = self.splits.content(normalize(messages)), self.splits.content(tools)
        if self._supports_tools:
            variables["tools"] = tools or None
        else:
            plain = in_plain_messages(plain, tools)
        refused: Exception | None = None
        for shape in shapes(plain):
            try:
                return self._template.render(messages=shape, add_generation_prompt=ask, **variables)
            except (TemplateError, TypeError, KeyError, ValueError) as error:
                refused = refused or error
        wrong = without_splits(str(refused))
        raise BadRequest(f"the model's chat template rejects these messages: {wrong}", param="messages") from refused

    def written_end(self) -> str | None:
        """Return the special token that the template writes after an answer; None if it writes none."""
        talk = [{"role": "user", "content": "."}, {"role": "assistant", "content": _SENTINEL}]
        try:
            rest = self.text(talk, ask=False).partition(_SENTINEL)[2].lstrip()
        except BadRequest:
            return None
        marks = sorted(self.tokenizer.marks(self.source), key=len, reverse=True)
        return next((mark for mark in marks if rest.startswith(mark)), None)

    def prompt(self, messages: Messages, tools: Tools = (), options: Options = NO_OPTIONS) -> list[int]:
        """Return the ids of a whole conversation, ready for the assistant's answer.

        Raises:
            BadRequest: the template rejects the messages or does not have one of the options.
        """
        return self.tokenizer.encode(self.text(messages, ask=True, tools=tools, options=options))

    def follow(
        self, messages: Messages, known: int, recorded: list[int], tools: Tools = (), options: Options = NO_OPTIONS
    ) -> list[int] | None:
        """Return the ids after the recorded ids of the first `known` messages; see `PromptWriter.follow`."""
        return self.continuation(messages, known, recorded[-1], tools, options)

    def continuation(
        self, messages: Messages, known: int, last_id: int, tools: Tools = (), options: Options = NO_OPTIONS
    ) -> list[int] | None:
        """Return the ids that the template writes after the first `known` messages, ready for the next answer.

        Args:
            messages: the whole conversation.
            known: number of recorded messages.
            last_id: last recorded id. An answer that was cut off gets its end of turn here, untrained.
            tools: the conversation's tools.
            options: `chat_template_kwargs`.

        Returns:
            The ids, or None if the template has no text for the new messages alone: the conversation has to fork.
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
        """Return the text after the known messages if the template renders them as a prefix of the whole."""
        before = self.text(known, ask=False, tools=tools, options=options)
        end = before.rfind(self.end_of_turn)
        if end < 0 or not whole.startswith(before):
            return None
        return whole[end + len(self.end_of_turn) :]

    def _after_sentinel(self, whole: str, new: Messages, tools: Tools, options: Options) -> str | None:
        """Return the text of the new messages if the template renders history differently from what was sampled.

        Templates of reasoning models drop the thoughts of earlier answers. The record keeps what was sampled, so the
        new messages are rendered after a stand-in answer, and the whole conversation must end with exactly that text.
        """
        stand_in = [{"role": "user", "content": "."}, {"role": "assistant", "content": _SENTINEL}, *new]
        try:
            text = self.text(stand_in, ask=True, tools=tools, options=options)
        except BadRequest:
            return None
        _, sentinel, rest = text.partition(_SENTINEL)
        _, end, rest = rest.partition(self.end_of_turn)
        return rest if sentinel and end and new and whole.endswith(rest) else None


def unknown_options(unknown: list[str], known: frozenset[str]) -> BadRequest:
    """Return the error for `chat_template_kwargs` that this model does not have."""
    has = f"it knows {', '.join(sorted(known))}" if known else "it has no options"
    return BadRequest(
        f"chat_template_kwargs: this model does not know {', '.join(unknown)[:200]}; {has}",
        param="chat_template_kwargs",
        code="unsupported_parameter",
    )


def _options(template: nodes.Template) -> set[str]:
    """Return the variables that a template reads and either never sets or sets only as a default."""
    set_here = {name.name for name in template.find_all(nodes.Name) if name.ctx == "store"}
    tested = {
        test.node.name
        for test in template.find_all(nodes.Test)
        if test.name in ("defined", "undefined") and isinstance(test.node, nodes.Name)
    }
    return meta.find_undeclared_variables(template) - (set_here - tested)


def _refuse(message: str) -> None:
    raise TemplateError(message)
