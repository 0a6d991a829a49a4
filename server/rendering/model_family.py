"""How a model family writes its answers: the contract between the families, the answer reader and the renderer.

A `ModelFamily` is registered in `families.py` and chosen for a model by `family_choice.py`. Loaded for that model, it
makes a parser for the answer to each prompt. Most families put each call between two marks (`TaggedCalls`; a
`TaggedFamily` needs nothing else). Others need the whole answer (`WholeAnswerParser`). A family may also write prompts
(`PromptWriter`); otherwise the model's chat template does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from server.rendering.template import ChatTemplate
from server.rendering.tokenizer import FileTokenizer
from server.rendering.tool_calls import THINK_OPEN, Messages, Options, Tools

_TAIL_TOKENS = 8
"""Last tokens of a prompt in which an opened `<think>` is searched."""


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A tool call, or a failed attempt at one."""

    name: str | None
    """None if the attempt is not a valid call."""
    arguments: str = "{}"
    """JSON."""
    id: str | None = None
    """Set if the family writes ids of its own."""
    text: str = ""
    """The call as the model wrote it. A whole-answer parser sets it: an invalid call is shown as this text."""


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """The parts of a whole answer."""

    content: str
    reasoning: str
    calls: list[ParsedCall]


@dataclass(frozen=True, slots=True)
class TaggedCalls:
    """Calls between two marks. Each is parsed and sent as soon as its closing mark arrives."""

    call_open: str
    call_close: str
    parse_call: Callable[[str], ParsedCall]
    """Parses the text between the marks; raises ValueError, TypeError, KeyError or AttributeError on an invalid call,
    which is then shown as text."""
    in_thoughts: bool = False
    """The prompt ends inside the answer's thoughts."""


class WholeAnswerParser(Protocol):
    """Parses the answer to one prompt at its end. Text streams until `call_open` appears."""

    @property
    def call_open(self) -> str:
        """Mark before the calls; nothing after it is shown before the end. Empty: nothing is shown before the end."""

    @property
    def call_is_answer(self) -> bool:
        """Whether a call is the whole answer, so `call_open` counts only at the answer's start."""

    @property
    def in_thoughts(self) -> bool:
        """Whether the prompt ends inside the answer's thoughts."""

    def parse(self, token_ids: list[int]) -> ParsedAnswer:
        """Return the parts of a whole answer."""


AnswerParser = TaggedCalls | WholeAnswerParser


class PromptWriter(Protocol):
    """Writes prompts in place of the chat template. The two are compared before the family is used."""

    options: frozenset[str]
    """Names of the options that it has."""

    @property
    def template_options(self) -> Options:
        """Options with which the chat template must write the same ids as this writer does by default."""

    def prompt(self, messages: Messages, tools: Tools, options: Options) -> list[int]:
        """Return the ids of a whole conversation, ready for the assistant's answer.

        Raises:
            BadRequest: the family cannot express these messages or lacks one of the options.
        """

    def follow(
        self, messages: Messages, known: int, recorded: list[int], tools: Tools, options: Options
    ) -> list[int] | None:
        """Return the ids after the recorded ids of the first `known` messages, ready for the next answer.

        None if the recorded ids cannot be continued: the conversation has to fork.
        """


@dataclass(frozen=True, slots=True)
class LoadedFamily:
    """A family for one model: how this model writes its answers, and perhaps its prompts."""

    name: str
    parser: Callable[[list[int], Tools, Options], AnswerParser]
    """Makes the parser of the answer to a prompt, from the prompt's ids, the tools and the options."""
    marks: tuple[str, ...] = ()
    """Tokens that structure an answer, so its decoded text must contain them even if they are special tokens."""
    reasons: bool = False
    """An answer may begin with thoughts between `<think>` and `</think>`."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end an answer in addition to the engine's own."""
    json_calls: bool = False
    """A call is JSON between `<tool_call>` tags, so constrained decoding can force one."""
    writer: PromptWriter | None = None
    """Writes prompts; None leaves it to the chat template."""


@dataclass(frozen=True, slots=True)
class Model:
    """The parts of a model that a family is recognized by and loaded with."""

    tokenizer: FileTokenizer
    template: ChatTemplate
    names: tuple[str, ...] = ()
    """Names from its source, its directory and its configuration files."""


class ModelFamily(Protocol):
    """A registered family: recognizes its models and is loaded for one of them."""

    @property
    def name(self) -> str:
        """Name in the setting `renderer`."""

    def may_fit(self, model: Model) -> bool:
        """Whether the family may fit this model: a cheap check before `load`."""

    def load(self, model: Model) -> LoadedFamily:
        """Return the family for one model; raises any exception if the model does not fit."""


@dataclass(frozen=True, slots=True)
class TaggedFamily:
    """A family whose calls stand between two marks. The model's chat template writes its prompts."""

    name: str
    call_open: str
    call_close: str
    parse_call: Callable[[str], ParsedCall]
    """See `TaggedCalls`."""
    json_calls: bool = False
    """See `LoadedFamily`."""

    def may_fit(self, model: Model) -> bool:
        """Whether the chat template writes such calls."""
        return self.call_open in model.template.source

    def load(self, model: Model) -> LoadedFamily:
        """Return the family for one model."""
        return self.for_template(model.template)

    def for_template(self, template: ChatTemplate) -> LoadedFamily:
        """Return the family for a chat template; the model may think if the template mentions `<think>`."""
        calls = TaggedCalls(self.call_open, self.call_close, self.parse_call)
        reasons = THINK_OPEN in template.source

        def parser(prompt_ids: list[int], tools: Tools, options: Options) -> TaggedCalls:
            tail = template.tokenizer.decode(prompt_ids[-_TAIL_TOKENS:])
            return replace(calls, in_thoughts=reasons and tail.rstrip().endswith(THINK_OPEN))

        return LoadedFamily(
            self.name, parser, (self.call_open, self.call_close), reasons=reasons, json_calls=self.json_calls
        )
