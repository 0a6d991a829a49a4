"""Messages to token ids, and the form in which a model answers (step 2 of the straight line).

The record is token ids; text is never re-tokenized. A conversation continues as its recorded ids plus the tokens of the
new messages only. A model family that writes prompts does both (`library_families.py`); for any other model its own
chat template does (`template.py`). `load.py` makes the renderer of a model directory.
"""

from __future__ import annotations

from server.errors import BadRequest
from server.rendering.hermes import HERMES
from server.rendering.model_family import AnswerParser, LoadedFamily
from server.rendering.template import ChatTemplate
from server.rendering.tokenizer import Tokenizer
from server.rendering.tool_calls import CALL_OPEN, NO_OPTIONS, THINK_CLOSE, Messages, Options, Tools


class Renderer:
    """One model's prompts, and the form of its answers.

    Args:
        template: the model's chat template.
        family: how the model writes answers; None means Hermes calls.
        tokenizer: decodes answers; None means the template's tokenizer.
        ends_answers: the template, or the family, ends an answer with a token.
        eos_id: id of the model's `eos_token`; None means the template's end of turn.
    """

    def __init__(
        self,
        template: ChatTemplate,
        family: LoadedFamily | None = None,
        tokenizer: Tokenizer | None = None,
        *,
        ends_answers: bool = True,
        eos_id: int | None = None,
    ):
        self.template = template
        self.family = family or HERMES.for_template(template)
        self.tokenizer = tokenizer or template.tokenizer
        self.end_ids = template.end_ids
        """Ids of the template's end of turn."""
        self.reasons = self.family.reasons
        """The model may think, between tags, before it answers."""
        self.stop_ids = self.family.stop_ids
        """Tokens that end an answer in addition to the engine's own."""
        self.eos_id = template.end_ids[-1] if eos_id is None else eos_id
        self.ends_answers = ends_answers
        """Otherwise answers end only at the engine's own tokens, and most conversations fork after each turn."""
        self._writer = self.family.writer or template
        self.options = self._writer.options
        """Names of the options that the model has."""

    def prompt(self, messages: Messages, tools: Tools = (), options: Options = NO_OPTIONS) -> list[int]:
        """Return the ids of a whole conversation, ready for the assistant's answer.

        Raises:
            BadRequest: the model cannot express these messages or does not have one of the options.
        """
        return self._writer.prompt(messages, tools, options)

    def text(self, text: str) -> list[int]:
        """Return the ids of a text in which marks are text, such as an answer that nobody sampled."""
        return self.tokenizer.encode(self.template.splits.text(text))

    def follow(
        self, messages: Messages, known: int, recorded: list[int], tools: Tools = (), options: Options = NO_OPTIONS
    ) -> list[int] | None:
        """Return the ids after the recorded ids of the first `known` messages, ready for the next answer.

        None if the recorded ids cannot be continued: the conversation has to fork.
        """
        return self._writer.follow(messages, known, recorded, tools, options)

    def parser(self, prompt_ids: list[int], tools: Tools = (), options: Options = NO_OPTIONS) -> AnswerParser:
        """Return the parser of the answer to a prompt."""
        return self.family.parser(prompt_ids, tools, options)

    def end_of_thoughts(self) -> list[int]:
        """Return the ids that end thoughts which the prompt has opened."""
        return self.tokenizer.encode(f"{THINK_CLOSE}\n\n")

    def forced_call(self, *, after_reasoning: bool) -> list[int]:
        """Return the ids that begin an answer which must be a tool call.

        Raises:
            BadRequest: the model's family does not write its calls as JSON between tags.
        """
        if not self.family.json_calls:
            raise BadRequest(
                f"the model family {self.family.name} does not support a forced tool call: it does not write calls as "
                "JSON",
                param="tool_choice",
                code="unsupported_parameter",
            )
        return self.tokenizer.encode(f"{THINK_CLOSE}\n\n{CALL_OPEN}\n" if after_reasoning else f"{CALL_OPEN}\n")
