"""OpenAI's chat request, and its translation into a `TurnRequest`. Other dialects are translated into it."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.engines.protocol import SamplingParams
from server.errors import BadRequest
from server.recording.turn_request import TurnRequest
from upturn.wire import check_metadata

NOT_SAMPLING = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "verbosity",
        "modalities",
        "reasoning_effort",
        "prompt_cache_retention",
    }
)
UNSUPPORTED = ("functions", "function_call", "audio", "prediction", "web_search_options")
OF_THE_ENGINE = (
    "priority",
    "cache_salt",
    "request_id",
    "logits_processors",
    "logits_processor_pattern",
    "vllm_xargs",
    "extra_args",
    "kv_transfer_params",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "guided_decoding_backend",
    "guided_whitespace_pattern",
    "structural_tag",
    "truncate_prompt_tokens",
    "mm_processor_kwargs",
    "media_io_kwargs",
    "chat_template",
    "documents",
    "stream_interval",
    "output_kind",
    "data_parallel_rank",
)
"""Fields of vLLM's routes that concern other requests, the engine, or the machine, or change the prompt unrecorded."""
NEUTRAL: dict[str, Any] = {
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "min_p": 0,
    "min_tokens": 0,
    "logit_bias": {},
    "best_of": 1,
}
"""Values with which a sampling field has no effect: SDKs send them, and the turn stays trainable."""
MOST_MESSAGES = 10_000
MOST_STOPS = 64
"""Maximum number of stop strings; each is searched for after every token."""
LARGEST_OPTIONS = 4096
"""Maximum characters of JSON in `chat_template_kwargs`."""


class Options(BaseModel):
    """A part of the request whose unknown fields are ignored."""

    model_config = ConfigDict(extra="allow", strict=True)


class StreamOptions(Options):
    """Options of a stream."""

    include_usage: bool = False


class Function(Options):
    """A tool's signature."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments."""


class Tool(Options):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(Options):
    """The function of a forced tool choice."""

    name: str


class NamedTool(Options):
    """A forced tool choice."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Options):
    """A named JSON schema for the answer."""

    name: str
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(Options):
    """Format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_of_answer(self) -> dict[str, Any] | None:
        """Return the schema that constrains the answer: None for text, an empty schema for any JSON object."""
        if self.type == "json_schema" and self.json_schema is None:
            raise BadRequest("response_format of type json_schema requires json_schema", param="response_format")
        if self.type == "text":
            return None
        return self.json_schema.schema_ if self.json_schema is not None else {}


class ChatRequest(BaseModel):
    """OpenAI's request. Unknown fields make its turn untrainable; an engine uses those that it knows."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63 - 128)
    n: int | None = Field(default=None, ge=1, le=128)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[Tool] | None = Field(default=None, max_length=256)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, max_length=32)
    """Extra variables for the model's chat template, such as `{"enable_thinking": false}`."""

    def turn_request(
        self, context_tokens: int, *, owner: str, digest: str, idempotency_key: str | None = None, weight: int = 0
    ) -> TurnRequest:
        """Return the equivalent `TurnRequest`.

        Raises:
            BadRequest: the request uses an unsupported feature, or its fields contradict each other.
        """
        self._check_numbers()
        call: str | None = None
        if self.tool_choice == "required":
            call = ""
        elif isinstance(self.tool_choice, NamedTool):
            call = self.tool_choice.function.name
        if call is not None and not self.tools:
            raise BadRequest("tool_choice needs tools", param="tool_choice")
        names = {tool.function.name for tool in self.tools or []}
        if call and call not in names:
            raise BadRequest(f"tool_choice names {call!r}, which is not one of the tools", param="tool_choice")
        if len(names) != len(self.tools or []):
            raise BadRequest("two tools have the same name", param="tools")
        return TurnRequest(
            messages=self._checked_messages(),
            sampling=self._sampling(context_tokens),
            tools=[tool.model_dump(mode="json", exclude_none=True) for tool in self.tools or []],
            call=call,
            template_options=self._template_options(),
            reads_calls=self.tool_choice != "none",
            parallel_calls=self.parallel_tool_calls is not False,
            count=self.n or 1,
            digest=digest,
            owner=owner,
            idempotency_key=idempotency_key,
            logprobs=bool(self.logprobs),
            whole=not self.stream,
            weight=weight,
        )

    @property
    def choice(self) -> Literal["auto", "required", "named"]:
        """Whether the answer must call a tool, or one particular tool."""
        if isinstance(self.tool_choice, NamedTool):
            return "named"
        return "required" if self.tool_choice == "required" else "auto"

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, of which each ends the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def _check_numbers(self) -> None:
        """Refuse NaN and numbers beyond a float's range, which the record could not hold: Python parses both."""
        for name, value in self.model_dump().items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError as error:
                raise BadRequest(f"{name} contains a number that is not finite", param=name) from error

    def _template_options(self) -> dict[str, Any]:
        options = self.chat_template_kwargs or {}
        if len(json.dumps(options)) > LARGEST_OPTIONS:
            raise BadRequest(
                f"chat_template_kwargs is longer than {LARGEST_OPTIONS} characters", param="chat_template_kwargs"
            )
        return options

    def _checked_messages(self) -> list[dict[str, Any]]:
        """Return the messages, checked for what chat templates rely on; the role developer becomes system."""
        for position, message in enumerate(self.messages):
            where = f"messages[{position}]"
            if not isinstance(message.get("role"), str):
                raise BadRequest(f"{where} has no role", param=where)
            content = message.get("content")
            if isinstance(content, list):
                _check_parts(f"{where}.content", content)
            if not isinstance(content, str | list | None):
                raise BadRequest(f"{where}: content must be a string or a list of text parts", param=where)
            if not _are_calls(message.get("tool_calls")):
                raise BadRequest(f"{where}: tool_calls must be a list of function calls", param=where)
        return [
            {**message, "role": "system"} if message["role"] == "developer" else message for message in self.messages
        ]

    def _sampling(self, context_tokens: int) -> SamplingParams:
        fields = self.model_extra or {}
        if isinstance(metadata := fields.get("metadata"), dict):
            try:
                check_metadata(metadata)
            except ValueError as error:
                raise BadRequest(str(error), param="metadata") from error
        extra = {
            name: value
            for name, value in fields.items()
            if value is not None and name not in NOT_SAMPLING and not (name in NEUTRAL and value == NEUTRAL[name])
        }
        for name in (*UNSUPPORTED, *OF_THE_ENGINE):
            if extra.pop(name, None):
                raise BadRequest(f"this server does not support {name!r}", param=name, code="unsupported_parameter")
        if self.top_logprobs and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        stop = self.stop_strings
        if len(stop) > MOST_STOPS:
            raise BadRequest(f"stop has {len(stop)} strings; at most {MOST_STOPS} are supported", param="stop")
        return SamplingParams(
            max_tokens=self.max_completion_tokens or self.max_tokens or context_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            stop=stop,
            seed=self.seed,
            top_logprobs=self.top_logprobs or 0,
            json_schema=self.response_format.schema_of_answer() if self.response_format else None,
            extra=extra,
        )


def _check_parts(where: str, parts: list[Any]) -> None:
    """Refuse content that is not text, such as an image, and name the part."""
    for position, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            continue
        wrong = (
            f"not a part of type {str(kind)[:100]!r}" if kind not in (None, "text") else "as {type: text, text: ...}"
        )
        place = f"{where}[{position}]"
        raise BadRequest(f"{place}: this model accepts text only, {wrong}", param=place)


def _are_calls(calls: Any) -> bool:
    if calls is None:
        return True
    return isinstance(calls, list) and all(
        isinstance(call, dict)
        and isinstance(call.get("function"), dict)
        and isinstance(call["function"].get("name"), str)
        and isinstance(call["function"].get("arguments"), str | None)
        for call in calls
    )
