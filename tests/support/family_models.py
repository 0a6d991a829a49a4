"""Small models of known families: a token for each byte, the family's special tokens, and a chat template in its form.

The templates are written for these tests. A family's fixed words, such as the introduction of tools, come from the
library's modules.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

THINK = ["<think>", "</think>"]
CALL = ["<tool_call>", "</tool_call>"]


@dataclass(frozen=True)
class Family:
    """The properties by which a model belongs to a family."""

    special: list[str]
    """Special tokens, which are never text."""
    marks: list[str]
    """Tokens that structure an answer's text."""
    eos: str
    template: str
    fixed: tuple[str, ...]
    """Names in the library's module of the texts W0, W1, ... in the template."""
    module: str


QWEN3 = Family(
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    [*THINK, *CALL, "<tool_response>", "</tool_response>"],
    "<|im_end|>",
    r"""
{%- set ns = namespace(query=0) -%}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor -%}
{%- macro said(role, text) %}{{ '<|im_start|>' + role + '\n' + text + '<|im_end|>\n' }}{% endmacro -%}
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- if tools -%}
  {%- set list %}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}{% endset -%}
  {{- said('system', (system + '\n\n' if system else '') + W0 + list + W1) -}}
{%- elif system -%}{{- said('system', system) -}}{%- endif -%}
{%- for m in messages -%}
  {%- if m.role == 'user' -%}{{- said('user', m.content) -}}
  {%- elif m.role == 'tool' -%}
    {{- '<|im_start|>user' if loop.previtem.role != 'tool' -}}
    {{- '\n<tool_response>\n' + m.content + '\n</tool_response>' -}}
    {{- '<|im_end|>\n' if loop.last or loop.nextitem.role != 'tool' -}}
  {%- elif m.role == 'assistant' -%}
    {{- '<|im_start|>assistant\n' -}}
    {%- if loop.index0 > ns.query and (loop.last or m.reasoning_content) -%}
      {{- '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' -}}
    {%- endif -%}
    {{- m.content -}}
    {%- for call in m.tool_calls or [] -%}
      {{- '\n' if m.content or not loop.first -}}
      {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' -}}
      {{- call.function.arguments | tojson -}}
      {{- '}\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' + ('<think>\n\n</think>\n\n' if enable_thinking is false else '') -}}
{%- endif -%}
""",
    ("_TOOLS_HEADER", "_TOOLS_FOOTER"),
    "qwen3",
)

MINIMAX = Family(
    ["]~!b[", "]~b]", "[e~["],
    [*THINK, "<minimax:tool_call>", "</minimax:tool_call>"],
    "[e~[",
    r"""
{%- set ns = namespace(query=0) -%}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor -%}
{%- macro said(role, text) %}{{ ']~b]' + role + '\n' + text + '[e~[\n' }}{% endmacro -%}
{%- set system = messages[0].content if messages[0].role == 'system' else W3 -%}
{%- set list -%}
  {%- for tool in tools or [] -%}{{- '<tool>' + tool.function | tojson + '</tool>\n' -}}{%- endfor -%}
{%- endset -%}
{{- ']~!b[' + said('system', system + (W0 + list + W1 + W2 if tools else '')) -}}
{%- for m in messages -%}
  {%- if m.role == 'user' -%}{{- said('user', m.content) -}}
  {%- elif m.role == 'tool' -%}
    {{- ']~b]tool' if loop.previtem.role != 'tool' -}}
    {{- '\n<response>' + m.content + '</response>' -}}
    {{- '[e~[\n' if loop.last or loop.nextitem.role != 'tool' -}}
  {%- elif m.role == 'assistant' -%}
    {{- ']~b]ai\n' -}}
    {%- if loop.index0 > ns.query and m.reasoning_content -%}
      {{- '<think>\n' + m.reasoning_content + '\n</think>\n\n' -}}
    {%- endif -%}
    {{- m.content -}}
    {%- if m.tool_calls -%}
      {{- '\n<minimax:tool_call>\n' -}}
      {%- for call in m.tool_calls -%}
        {{- '<invoke name="' + call.function.name + '">\n' -}}
        {%- for key, value in call.function.arguments.items() -%}
          {{- '<parameter name="' + key + '">' + (value if value is string else value | tojson) + '</parameter>\n' -}}
        {%- endfor -%}
        {{- '</invoke>\n' -}}
      {%- endfor -%}
      {{- '</minimax:tool_call>' -}}
    {%- endif -%}
    {{- '[e~[\n' -}}
  {%- endif -%}
{%- endfor -%}
{{- ']~b]ai\n<think>\n' if add_generation_prompt -}}
""",
    ("_TOOLS_HEADER", "_TOOLS_FOOTER_PREFIX", "_TOOLS_INSTRUCTIONS"),
    "minimax_m2",
)

GLM = Family(
    ["[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>"],
    [*THINK, *CALL, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
    "<|endoftext|>",
    r"""
{%- set ns = namespace(query=0) -%}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor -%}
{{- '[gMASK]<sop>' -}}
{%- if tools -%}
  {{- '<|system|>' + W0 -}}{%- for tool in tools -%}{{- tool | tojson + '\n' -}}{%- endfor -%}{{- W1 -}}
{%- endif -%}
{%- for m in messages -%}
  {%- if m.role == 'system' -%}{{- '<|system|>\n' + m.content -}}
  {%- elif m.role == 'user' -%}{{- '<|user|>\n' + m.content + ('/nothink' if enable_thinking is false else '') -}}
  {%- elif m.role == 'tool' -%}
    {{- '<|observation|>' if loop.previtem.role != 'tool' -}}
    {{- '\n<tool_response>\n' + m.content + '\n</tool_response>' -}}
  {%- elif m.role == 'assistant' -%}
    {{- '<|assistant|>\n<think>' -}}
    {{- m.reasoning_content if loop.index0 > ns.query and m.reasoning_content -}}
    {{- '</think>' + ('\n' + m.content if m.content else '') -}}
    {{- '\n' if m.content and m.tool_calls -}}
    {%- for call in m.tool_calls or [] -%}
      {{- ('' if m.content else '\n') + '<tool_call>' + call.function.name + '\n' -}}
      {%- for key, value in call.function.arguments.items() -%}
        {{- '<arg_key>' + key + '</arg_key>\n<arg_value>' -}}
        {{- (value if value is string else value | tojson) + '</arg_value>\n' -}}
      {%- endfor -%}
      {{- '</tool_call>' -}}
    {%- endfor -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant|>' + ('\n<think></think>' if enable_thinking is false else '') -}}
{%- endif -%}
""",
    ("_TOOLS_HEADER", "_TOOLS_FOOTER"),
    "glm45",
)

LLAMA = Family(
    ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"],
    [],
    "<|eot_id|>",
    r"""
{%- macro said(role, text) -%}
  {{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + text + '<|eot_id|>' -}}
{%- endmacro -%}
{%- set today = date_string if date_string is defined else strftime_now('%d %b %Y') -%}
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{{- '<|begin_of_text|>' -}}
{{- said('system', ('Environment: ipython\n' if tools else '') + 'Cutting Knowledge Date: ' + W1 + '\nToday Date: '
         + today + '\n\n' + system) -}}
{%- set ns = namespace(first=true) -%}
{%- for m in messages -%}
  {%- if m.role == 'user' -%}
    {%- set list %}{% for tool in tools or [] %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}{% endset -%}
    {{- said('user', (W0 + list if tools and ns.first else '') + m.content) -}}
    {%- set ns.first = false -%}
  {%- elif m.role == 'tool' -%}{{- said('ipython', m.content | tojson) -}}
  {%- elif m.role == 'assistant' and m.tool_calls -%}
    {%- if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif -%}
    {%- set call = m.tool_calls[0].function -%}
    {{- said('assistant', '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}') -}}
  {%- elif m.role == 'assistant' -%}{{- said('assistant', m.content) -}}
  {%- endif -%}
{%- endfor -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' if add_generation_prompt -}}
""",
    ("_TOOLS_IN_USER_INTRO", "_CUTTING_KNOWLEDGE_DATE"),
    "llama_3",
)

FAMILIES = {"qwen3": QWEN3, "minimax-m2": MINIMAX, "glm-4.5": GLM, "llama-3": LLAMA}


def make_family_model(directory: Path, family: Family, change: tuple[str, str] = ("", "")) -> Path:
    """Write tokenizer and chat template of a family into `directory`, and return it.

    `change` replaces a part of the template, so that it no longer matches the family.
    """
    directory.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in family.special])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.marks])
    tokenizer.save(str(directory / "tokenizer.json"))
    words = {
        f"W{number}": getattr(import_module(f"renderers.{family.module}"), name)
        for number, name in enumerate(family.fixed)
    }
    if family is MINIMAX:
        words["W3"] = import_module("renderers.configs").MiniMaxM2RendererConfig().model_identity
    set_words = "".join(f"{{%- set {name} = {json.dumps(text)} -%}}" for name, text in words.items())
    assert change[0] in family.template
    (directory / "chat_template.jinja").write_text(set_words + family.template.strip().replace(*change))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": family.eos})
    )
    return directory
