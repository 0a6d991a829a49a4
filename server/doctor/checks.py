"""Checks a model's files, chat template and tokenizer before anyone serves or trains it.

Each check tries out an assumption of one step of the straight line, with the project's own code. `engine_checks.py`
continues with a started engine, and `server/commands/doctor.py` prints the results.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.models.ends import configured_ends
from server.models.weights import read_entries
from server.rendering.hermes import HERMES
from server.rendering.load import load_renderer
from server.rendering.render import Renderer
from server.rendering.tool_calls import Messages, Tools

PROBE_TEXT = (
    "The night train to the coast leaves at 22:40 from platform 3. Two carriages have beds; the others have seats, a "
    "small kitchen and room for bicycles. Tickets bought before noon cost 19 euros, later ones 27. "
)
TRAINABLE_DTYPES = {"F32", "BF16", "F16"}
CONVERSATION = (
    {"role": "user", "content": "What is in the box?"},
    {"role": "assistant", "content": "A key and two coins."},
    {"role": "user", "content": "Open the door, please."},
    {"role": "assistant", "content": "It is open now."},
    {"role": "user", "content": "Thank you."},
)
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look at a thing.",
            "parameters": {"type": "object", "properties": {"thing": {"type": "string"}}, "required": ["thing"]},
        },
    },
)
CONVERSATION_WITH_TOOLS = (
    {"role": "user", "content": "What is in the box?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": '{"thing": "box"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call00001", "content": "a key, two coins"},
    {"role": "assistant", "content": "A key and two coins."},
    {"role": "user", "content": "Thank you."},
)


@dataclass(frozen=True, slots=True)
class Check:
    """A line of the doctor's report."""

    name: str
    result: Literal["pass", "fail", "skip"]
    figure: str
    """The finding, in numbers."""
    advice: str = ""
    """What to do; set only if the check did not pass."""


def judge(name: str, passed: bool, figure: str, advice: str) -> Check:
    """Return a check that passed or failed."""
    return Check(name, "pass", figure) if passed else Check(name, "fail", figure, advice)


# ------------------------------------------------------------------------------------------------- files and text


def model_checks(base: Path, renderer: str = "auto", name: str = "") -> Iterator[Check]:
    """Check a model directory without an engine.

    Args:
        base: the directory.
        renderer: the setting `renderer`.
        name: the setting `model`.
    """
    yield _guarded("model files", lambda: _files(base))
    yield _guarded("weights", lambda: _weights(base))
    try:
        made = load_renderer(base, renderer, name)
    except Exception as error:  # Any defect of the files is a finding.
        yield Check("chat template", "fail", reason_of(error), "serving needs a chat template and a tokenizer")
        return
    yield Check("renderer", "pass", _renderer_figure(made))
    yield _guarded("chat template", lambda: _template("chat template", made, CONVERSATION))
    yield _guarded("tool template", lambda: _template("tool template", made, CONVERSATION_WITH_TOOLS, TOOLS))
    yield _guarded("end of turn", lambda: _end_of_turn(base, made))
    yield _guarded("special tokens", lambda: _special_tokens(base))
    yield _guarded("token ids", lambda: _round_trip(base))


def _renderer_figure(renderer: Renderer) -> str:
    family = renderer.family
    if family.writer is not None:
        return f"the family {family.name}, which writes the same ids as the chat template"
    if family.name == HERMES.name:
        return "the chat template; calls are JSON in <tool_call> tags"
    return f"the chat template; calls are in the form of the family {family.name}"


def _files(base: Path) -> Check:
    needed = ("config.json", "tokenizer.json", "tokenizer_config.json")
    missing = [name for name in needed if not (base / name).is_file()]
    if not any(base.glob("*.safetensors")):
        missing.append("*.safetensors")
    return judge(
        "model files",
        not missing,
        f"{', '.join(missing)} missing" if missing else str(base),
        "get the complete model in Hugging Face's layout, with a fast tokenizer and safetensors",
    )


def _weights(base: Path) -> Check:
    entries = read_entries(base)
    size = sum(entry.end - entry.begin for entry in entries.values())
    dtypes = {entry.dtype for entry in entries.values()}
    config = json.loads((base / "config.json").read_text())
    layers = set(config.get("layer_types") or config.get("text_config", {}).get("layer_types") or [])
    wrong = [
        f"quantized ({config['quantization_config'].get('quant_method')})" if config.get("quantization_config") else "",
        f"dtype {sorted(dtypes - TRAINABLE_DTYPES)}" if dtypes - TRAINABLE_DTYPES else "",
        f"layers of {sorted(layers - {'full_attention'})}" if layers - {"full_attention"} else "",
    ]
    figure = f"{len(entries)} tensors, {size / 2**30:.2f} GiB, {'/'.join(sorted(dtypes))}"
    problems = "; ".join(filter(None, wrong))
    return judge(
        "weights",
        not problems,
        f"{figure}; {problems}" if problems else figure,
        "the learner needs plain float32, bfloat16 or float16 weights and full attention in every layer",
    )


def _template(name: str, renderer: Renderer, conversation: Messages, tools: Tools = ()) -> Check:
    """Replay a conversation request by request: the recorded part must be a prefix of the next prompt."""
    template = renderer.template
    answers = [at for at, message in enumerate(conversation) if message["role"] == "assistant"]
    kept = exact = rewritten = 0
    for at, end in itertools.pairwise([*answers, len(conversation)]):
        before = template.text(conversation[:at], ask=True, tools=tools)
        answered = template.text(conversation[: at + 1], ask=False, tools=tools)
        prompt = template.text(conversation[:end], ask=True, tools=tools)
        answer = answered.removeprefix(before).partition(template.end_of_turn)[0]
        recorded = before + answer + template.end_of_turn
        is_kept = answered.startswith(before) and prompt.startswith(recorded)
        new_ids = template.continuation(conversation[:end], at + 1, template.end_ids[-1], tools)
        kept += is_kept
        if new_ids is not None:
            whole = [*template.tokenizer.encode(recorded), *new_ids]
            exact += is_kept and whole == template.tokenizer.encode(prompt)
            rewritten += not is_kept
    turns = len(answers)
    figure = f"keeps history as a prefix in {kept} of {turns} turns; {exact} continue with exactly the template's ids"
    if kept < turns:
        figure += f", {rewritten} continue after history as it was sampled, {turns - kept - rewritten} would fork"
    return judge(
        name,
        exact + rewritten == turns,
        figure,
        "each fork becomes a sample of its own: use a template that renders history as it was sent",
    )


def _end_of_turn(base: Path, renderer: Renderer) -> Check:
    template = renderer.template
    end_ids = template.end_ids
    stops = configured_ends(base).union(renderer.stop_ids)
    wrong = [
        "" if len(end_ids) == 1 else f"it is {len(end_ids)} ids",
        "" if stops.issuperset(end_ids) else f"the engine stops at {sorted(stops)}",
        "" if renderer.ends_answers else "the template writes no special token after an answer",
    ]
    problems = "; ".join(filter(None, wrong))
    return judge(
        "end of turn",
        not problems,
        f"{template.end_of_turn} = {end_ids}"
        + (f"; {problems}" if problems else ", one id, stops the engine, ends the template's answers"),
        "use a chat template that ends every answer with a special token of the model",
    )


def _special_tokens(base: Path) -> Check:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    special = {i: token.content for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    split = [text for i, text in special.items() if tokenizer.encode(text, add_special_tokens=False).ids != [i]]
    return judge(
        "special tokens",
        not split,
        f"{len(special) - len(split)} of {len(special)} are one id each"
        + (f", not {', '.join(split[:3])}" if split else ""),
        "prompts would contain the token's letters instead: fix the added tokens in tokenizer.json",
    )


def _round_trip(base: Path) -> Check:
    """Check ids against text; random ids, as sampled at temperature 1, rarely survive the round trip."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    special, generator = tokenizer.get_added_tokens_decoder(), random.Random(0)
    plain = [i for i in range(tokenizer.get_vocab_size()) if i not in special]
    sampled = [generator.choices(plain, k=32) for _ in range(300)]
    changed = sum(tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False).ids != ids for ids in sampled)
    text = f"{PROBE_TEXT}Größe, 東京, naïve: 3 × 4 = 12\n\tfin."
    whole = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
    return judge(
        "token ids",
        whole,
        f"{changed / len(sampled):.0%} of random sequences of 32 ids change on a round trip through text (which is why "
        f"ids are recorded and never derived from text); text comes back {'unchanged' if whole else 'changed'}",
        "answers will differ from what was sampled: check the decoder in tokenizer.json",
    )


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """Run a check; a check that cannot be made fails with the reason."""
    try:
        return check()
    except Exception as error:  # Any error is a finding.
        return Check(name, "fail", reason_of(error))


def reason_of(error: Exception) -> str:
    """Return the error in one line, with its beginning and its end: vLLM's errors name their cause at the end."""
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text if len(text) <= 1000 else f'{text[:300]} ... {text[-700:]}'}"
