"""Strict chat templates: no conversation that an agent can reach is refused, and recorded ids continue exactly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from server.rendering.bytes_tokenizer import CHAT_TEMPLATE, IM_END, BytesTokenizer
from server.rendering.load import load_renderer
from server.rendering.render import Renderer
from server.rendering.template import ChatTemplate
from tests.support.family_models import FAMILIES, make_family_model

BYTES = BytesTokenizer()
_TURN = "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
_ALTERNATES = """
{%- for m in talk %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor -%}
"""
ALTERNATING = (
    "{% set first = messages[0].role == 'system' %}{% set talk = messages[1:] if first else messages %}"
    f"{_ALTERNATES}{{% for m in messages %}}{_TURN}{{% endfor %}}{_ASK}"
)
"""Of Llama 2's kind."""
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    f"{{% set talk = messages %}}{_ALTERNATES}{{% for m in messages %}}{_TURN}{{% endfor %}}{_ASK}"
)
"""Of Gemma's kind."""
MISTRAL = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% set ns = namespace(index=0) %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}"
    "{% if (m.role == 'user') != (ns.index % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set ns.index = ns.index + 1 %}"
    "{% elif m.role == 'system' and not loop.first %}{{ raise_exception('system must be first') }}{% endif %}"
    "{% if m.role == 'tool' %}"
    "{% if m.tool_call_id | default('') | length != 9 %}{{ raise_exception('ids of length 9') }}{% endif %}"
    "{{ '<|im_start|>tool\\n' + m.tool_call_id + ' ' + m.content + '<|im_end|>\\n' }}"
    "{% elif m.tool_calls %}{{ '<|im_start|>assistant\\n' }}"
    "{% for call in m.tool_calls %}"
    "{% if call.id | default('') | length != 9 %}{{ raise_exception('ids of length 9') }}{% endif %}"
    "{% for key, value in call.function.arguments.items() %}{{ call.id + ' ' + key }}{% endfor %}"
    "{% endfor %}{{ '<|im_end|>\\n' }}"
    f"{{% else %}}{_TURN}{{% endif %}}{{% endfor %}}{_ASK}"
)
ONE_CALL = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{% if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('single tool-calls') }}{% endif %}"
    "{% if m.tool_calls %}{{ '<|im_start|>assistant\\n' + m.tool_calls[0].function.name + '<|im_end|>\\n' }}"
    f"{{% else %}}{_TURN}{{% endif %}}{{% endfor %}}{_ASK}"
)
"""Of Llama 3's kind."""
STRICT = {"alternating": ALTERNATING, "no system": NO_SYSTEM, "mistral": MISTRAL, "one call": ONE_CALL}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
SYSTEM, ASK = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is there?"}
NOTE, ANSWER = {"role": "user", "content": "A note."}, {"role": "assistant", "content": "A key."}


def _calls(*ids: str | None, arguments: str = '{"at": "box"}') -> dict[str, Any]:
    calls = [
        {"type": "function", "function": {"name": "look", "arguments": arguments}, **({"id": i} if i else {})}
        for i in ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _result(call_id: str | None, content: str = "a key") -> dict[str, Any]:
    return {"role": "tool", "content": content, **({"tool_call_id": call_id} if call_id else {})}


TALKS: dict[str, list[dict[str, Any]]] = {
    "plain": [SYSTEM, ASK, ANSWER, NOTE],
    "two results": [ASK, _calls("call_1", "call_2"), _result("call_1", "r1"), _result("call_2", "r2")],
    "results in another order": [ASK, _calls("call_1", "call_2"), _result("call_2", "r2"), _result("call_1", "r1")],
    "no ids": [ASK, _calls(None, None), _result(None, "r1"), _result(None, "r2"), ANSWER, NOTE],
    "text after a result": [SYSTEM, ASK, _calls("call_1"), _result("call_1"), NOTE],
    "two users": [ASK, NOTE, ANSWER, NOTE, NOTE],
    "two answers": [ASK, ANSWER, ANSWER, NOTE],
    "a later system message": [SYSTEM, ASK, ANSWER, {"role": "system", "content": "Be kind."}, NOTE],
    "only a system message": [SYSTEM],
    "arguments that are no object": [ASK, _calls("call_1", arguments=""), _result("call_1"), NOTE],
    "nothing but calls": [ASK, _calls("call_1", "call_2"), NOTE],
}


def renderer_of(source: str) -> Renderer:
    return Renderer(ChatTemplate(BYTES, source, "<|im_end|>"))


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("strict", STRICT)
def test_a_strict_template_accepts_what_agents_send(strict: str, talk: str, tools: list[Any]) -> None:
    text = BYTES.decode(renderer_of(STRICT[strict]).prompt(TALKS[talk], tools))
    for message in TALKS[talk]:
        assert (message["content"] or "") in text, "nothing that was said is lost"


@pytest.mark.parametrize("strict", STRICT)
def test_an_episode_with_parallel_results_continues_its_recorded_ids(strict: str) -> None:
    renderer = renderer_of(STRICT[strict])
    talk: list[dict[str, Any]] = [SYSTEM, ASK]
    recorded = renderer.prompt(talk, TOOLS)
    for answer, said in (
        (ANSWER, [NOTE, NOTE]),
        (_calls("call_1"), [_result("call_1")]),
        (_calls("call_2", "call_3"), [_result("call_2", "r2"), _result("call_3", "r3")]),
        (ANSWER, [NOTE]),
    ):
        recorded = [*recorded, *BYTES.encode("sampled"), IM_END]
        talk += [answer, *said]
        rest = renderer.follow(talk, len(talk) - len(said), recorded, TOOLS)
        if rest is None:  # This template writes a pair for each call, which the sampled answer is not.
            assert strict == "one call" and len(said) > 1
            rest, recorded = renderer.prompt(talk, TOOLS), []
        assert all(message["content"] in BYTES.decode(rest) for message in said)
        recorded = [*recorded, *rest]


def test_a_conversation_that_the_template_accepts_is_never_reshaped() -> None:
    shown = "{% for m in messages %}{{ m | tojson }}{% endfor %}"
    talk = [SYSTEM, ASK, NOTE, _calls("call_1", "call_2"), _result("call_2"), _result(None), NOTE, SYSTEM]
    text = BYTES.decode(renderer_of(shown + "{{ tools }}").prompt(talk, TOOLS))
    assert '"call_1"' in text and text.count('"role": "user"') == 3 and text.count('"role": "system"') == 2


def test_calls_and_results_keep_belonging_together() -> None:
    text = BYTES.decode(renderer_of(MISTRAL).prompt(TALKS["results in another order"], TOOLS))
    first, second = re.findall(r"(\w{9}) at", text)
    assert re.findall(r"(\w{9}) (r\d)", text) == [(second, "r2"), (first, "r1")] and first != second
    kept = [ASK, _calls("abcDEF123"), _result("abcDEF123")]
    assert "abcDEF123 a key" in BYTES.decode(renderer_of(MISTRAL).prompt(kept, TOOLS))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_accepts_what_agents_send(tmp_path: Path, name: str) -> None:
    directory = make_family_model(tmp_path, FAMILIES[name])
    for renderer in (load_renderer(directory), load_renderer(directory, "template")):
        for tools in ([], TOOLS):
            for talk in TALKS.values():
                renderer.prompt(talk, tools)


def test_a_lenient_template_has_the_ids_of_before() -> None:
    assert renderer_of(CHAT_TEMPLATE).prompt([ASK, NOTE]) == BYTES.encode(
        "<|im_start|>user\nWhat is there?<|im_end|>\n<|im_start|>user\nA note.<|im_end|>\n<|im_start|>assistant\n"
    )
