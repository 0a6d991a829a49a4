"""The one table of fields: `honored`, `neutral` (accepted, no effect) or `refused`, by dialect.

It lists the fields of OpenAI's and Anthropic's references, of vLLM's routes, and of gateways that agents use. A test
compares it with the clients' and vLLM's own types, and docs/api.md is written from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

Use = Literal["honored", "neutral", "refused"]


@dataclass(frozen=True, slots=True)
class Field:
    """What the server does with a field."""

    use: Use
    note: str = ""
    """Shown in docs/api.md; of a refused field, in the error too."""
    accepts: tuple[Any, ...] = ()
    """Values of a refused field that have no effect, beside null, false, zero and empty ones."""


Fields = Mapping[str, Field]


def _honored(*names: str, **notes: str) -> dict[str, Field]:
    return {name: Field("honored") for name in names} | {name: Field("honored", note) for name, note in notes.items()}


def _neutral(*names: str, **notes: str) -> dict[str, Field]:
    return {name: Field("neutral") for name in names} | {name: Field("neutral", note) for name, note in notes.items()}


def _refused(*names: str, accepts: tuple[Any, ...] = (), **notes: str) -> dict[str, Field]:
    notes = dict.fromkeys(names, "") | notes
    return {name: Field("refused", note, accepts) for name, note in notes.items()}


_SAMPLING = _honored(
    "temperature", "top_p", "top_k", "seed", "stop", "stop_token_ids",
    min_p="needs vLLM; untrainable",
    presence_penalty="needs vLLM; untrainable",
    frequency_penalty="needs vLLM; untrainable",
    repetition_penalty="needs vLLM; untrainable",
    logit_bias="needs vLLM; untrainable",
    min_tokens="needs vLLM; untrainable",
    bad_words="needs vLLM; untrainable",
    allowed_token_ids="needs vLLM; untrainable",
    ignore_eos="untrainable",
)  # fmt: skip
"""How tokens are drawn, in chat, responses and completions."""
_HOSTED = _neutral(
    "user", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prompt_cache_options", "moderation", "verbosity", "session_id", "litellm_metadata", "provider", "transforms",
    "models", "route", "usage", "plugins", "enable_caching", "caching", "cache", "client_metadata",
    "repetition_detection",
    reasoning="the model thinks as it was trained to",
    thinking="the model thinks as it was trained to",
    reasoning_effort="the model thinks as it was trained to",
)  # fmt: skip
"""Concern the vendor's or a gateway's service, not the answer."""
_ENGINE = {
    **_refused(
        "priority", "cache_salt", "request_id", "logits_processors", "logits_processor_pattern", "vllm_xargs",
        "extra_args", "kv_transfer_params", "ec_transfer_params", "guided_decoding_backend",
        "guided_whitespace_pattern", "structural_tag", "truncate_prompt_tokens", "truncation_side",
        "mm_processor_kwargs", "media_io_kwargs", "chat_template", "documents", "stream_interval", "output_kind",
        "data_parallel_rank", "use_beam_search", "thinking_token_budget", "logprob_token_ids",
        "routed_experts_prompt_start", "return_prompt_text", "return_token_offsets", "return_mm_kwargs", "watermarking",
        structured_outputs="use response_format",
        guided_json="use response_format",
        guided_regex="use response_format",
        guided_choice="use response_format",
        guided_grammar="use response_format",
    ),
    **_refused("include_stop_str_in_output"),
    **_refused("length_penalty", accepts=(1,)),
    **_neutral(
        "mm_payload", "spaces_between_special_tokens", skip_special_tokens="special tokens are hidden in text"
    ),
}  # fmt: skip
"""Fields of vLLM's routes that concern other requests, the engine or the machine, or change the prompt unrecorded."""

CHAT: Fields = MappingProxyType(
    {
        **_HOSTED,
        **_ENGINE,
        **_SAMPLING,
        **_honored(
            "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "logprobs",
            "top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs", "metadata",
            response_format="json_object and json_schema need vLLM",
            functions="OpenAI's older form of `tools`",
            function_call="OpenAI's older form of `tool_choice`",
            enable_thinking="the same as in chat_template_kwargs",
            continue_final_message="the answer continues the last message",
            add_generation_prompt="false needs continue_final_message",
            return_token_ids="adds prompt_token_ids, and token_ids to each choice",
            return_tokens_as_token_ids="writes tokens of logprobs as `token_id:N`",
            include_reasoning="false leaves the thoughts out",
        ),
        **_refused("add_special_tokens", "echo"),
        **_refused(
            audio="answers are text",
            prediction="",
            web_search_options="this server runs no tools itself",
            prompt_logprobs="`POST /v1/completions` with token ids has them",
            max_output_tokens="use max_completion_tokens",
            max_new_tokens="use max_completion_tokens",
            max_length="use max_completion_tokens",
            stop_sequences="use stop",
            system="send a message with the role system",
            instructions="send a message with the role system",
            input="use messages",
            prompt="use messages",
        ),
        "best_of": Field("refused", "use n", accepts=(1,)),
        **_refused(modalities="answers are text", accepts=(["text"],)),
    }
)  # fmt: skip

COMPLETIONS: Fields = MappingProxyType(
    {
        **_HOSTED,
        **_ENGINE,
        **_SAMPLING,
        **_honored(
            "model", "prompt", "max_tokens", "n", "logprobs", "echo", "stream", "stream_options", "metadata",
            best_of="at most `n`",
            response_format="json_object and json_schema need vLLM",
            prompt_logprobs="logprobs of the prompt's tokens",
            return_token_ids="adds prompt_token_ids and token_ids to each choice",
            return_tokens_as_token_ids="writes tokens of logprobs as `token_id:N`",
        ),
        **_neutral(
            add_special_tokens="a beginning-of-text token is a part of the prompt, or is absent",
        ),
        **_refused(
            "suffix", "prompt_embeds",
            messages="use prompt",
            max_completion_tokens="use max_tokens",
            max_output_tokens="use max_tokens",
            max_new_tokens="use max_tokens",
            stop_sequences="use stop",
            tools="`POST /v1/chat/completions` has tools",
            chat_template_kwargs="a completion has no chat template",
        ),
    }
)  # fmt: skip

RESPONSES: Fields = MappingProxyType(
    {
        **_HOSTED,
        **_ENGINE,
        **_SAMPLING,
        **_honored(
            "model", "input", "previous_response_id", "tools", "tool_choice", "parallel_tool_calls",
            "max_output_tokens", "stream", "metadata", "chat_template_kwargs",
            instructions="not carried over by previous_response_id",
            text="a JSON schema needs vLLM",
            include="`message.output_text.logprobs` shows the logprobs of all tokens of the answer in its first text",
            top_logprobs="needs that `include`",
            enable_thinking="the same as in chat_template_kwargs",
            include_reasoning="false leaves the thoughts out",
        ),
        **_neutral(
            "stream_options", "context_management", "max_tool_calls", "access_programs",
            "background_options", "image", "enable_response_messages",
            truncation="a conversation that does not fit is refused",
        ),
        **_refused(
            "background", "conversation", "prompt", "previous_input_messages",
            messages="use input",
            max_tokens="use max_output_tokens",
            max_completion_tokens="use max_output_tokens",
            response_format="use text.format",
        ),
        "n": Field("refused", "a response is one answer", accepts=(1,)),
    }
)  # fmt: skip

MESSAGES: Fields = MappingProxyType(
    {
        **_honored(
            "model", "messages", "system", "max_tokens", "stop_sequences", "stream", "temperature", "top_p", "top_k",
            "tools", "tool_choice", "metadata", "chat_template_kwargs",
            thinking="whether thoughts are shown; not how much the model thinks",
            output_config="`format` needs vLLM; `effort` has no effect",
            output_format="the older form of output_config.format; needs vLLM",
        ),
        **_neutral(
            "service_tier", "cache_control", "inference_geo", "speed", "betas", "anthropic_version", "anthropic_beta",
            "billing_policy", "fallback_credit_token", "fallbacks", "diagnostics", "user_profile_id", "workspace_id",
            "context_management", "litellm_metadata", "mm_payload",
        ),
        **_refused(
            "mcp_servers", "container", "compaction", "thread", "watermarking", "cache_salt", "return_mm_kwargs",
            "vllm_xargs", "kv_transfer_params", "ec_transfer_params",
            max_completion_tokens="use max_tokens",
            max_output_tokens="use max_tokens",
            max_tokens_to_sample="use max_tokens",
            stop="use stop_sequences",
            prompt="use messages",
            response_format="use output_config.format",
        ),
    }
)  # fmt: skip

FIELDS: Mapping[str, Fields] = MappingProxyType(
    {"chat": CHAT, "responses": RESPONSES, "messages": MESSAGES, "completions": COMPLETIONS}
)
"""The table, by dialect."""
