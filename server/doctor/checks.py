"""Whether a model will do, said before anyone trains it: its files, its chat template, its tokenizer, the engine.

Stands beside the straight line: each check tries out what one of its steps relies on, with the project's own code. The
learner's side of the comparison is transformers in float32 in this process, as the learner computes. Weights that are
made to be swapped in go to a folder that the caller deletes. `server/commands/doctor.py` prints what comes out.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.models.weights import read_entries
from server.rendering.render import Renderer
from server.rendering.tool_calls import Messages, Tools

PROBE_TEXT = (
    "The night train to the coast leaves at 22:40 from platform 3. Two carriages have beds; the others have seats, a "
    "small kitchen and room for bicycles. Tickets bought before noon cost 19 euros, later ones 27. "
)
TRAINABLE_DTYPES = {"F32", "BF16", "F16"}
TALK = (
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
TALK_WITH_TOOLS = (
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
    """One line of the doctor's report."""

    name: str
    result: Literal["pass", "fail", "skip"]
    figure: str
    """What was found."""
    advice: str = ""
    """What to do; only where it did not pass."""


def judge(name: str, good: bool, figure: str, advice: str) -> Check:
    """Return a check that passed or failed."""
    return Check(name, "pass", figure) if good else Check(name, "fail", figure, advice)


# ------------------------------------------------------------------------------------------------- files and text


def model_checks(base: Path, renderer: str = "auto", name: str = "") -> Iterator[Check]:
    """Check a model directory without an engine; `renderer` and `name` are the settings `renderer` and `model`."""
    yield _guarded("model files", lambda: _files(base))
    yield _guarded("weights", lambda: _weights(base))
    try:
        made = Renderer.from_directory(base, renderer, name)
    except Exception as error:  # Whatever is wrong with the files: it is what the reader wants to know.
        yield Check("chat template", "fail", reason_of(error), "without template and tokenizer nothing can be served")
        return
    yield Check(
        "renderer",
        "pass",
        "the chat template; calls are JSON in <tool_call> tags"
        if made.family is None
        else f"the family {made.family.name}, which writes what the chat template writes",
    )
    yield _guarded("chat template", lambda: _template("chat template", made, TALK))
    yield _guarded("tool template", lambda: _template("tool template", made, TALK_WITH_TOOLS, TOOLS))
    yield _guarded("end of turn", lambda: _end_of_turn(base, made))
    yield _guarded("special tokens", lambda: _special_tokens(base))
    yield _guarded("token ids", lambda: _round_trip(base))


def _files(base: Path) -> Check:
    needed = ("config.json", "tokenizer.json", "tokenizer_config.json")
    missing = [name for name in needed if not (base / name).is_file()]
    if not any(base.glob("*.safetensors")):
        missing.append("*.safetensors")
    return judge(
        "model files",
        not missing,
        f"{', '.join(missing)} missing" if missing else str(base),
        "get the whole model in Hugging Face's layout, with a fast tokenizer and safetensors",
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
    found = "; ".join(filter(None, wrong))
    return judge(
        "weights",
        not found,
        f"{figure}; {found}" if found else figure,
        "the learner needs plain float32, bfloat16 or float16 weights and full attention in every layer",
    )


def _template(name: str, renderer: Renderer, talk: Messages, tools: Tools = ()) -> Check:
    """Play a conversation request by request: what is recorded so far has to be the beginning of the next prompt."""
    asked = [at for at, message in enumerate(talk) if message["role"] == "assistant"]
    kept = exact = behind = 0
    for at, upto in itertools.pairwise([*asked, len(talk)]):
        before = renderer.text(talk[:at], ask=True, tools=tools)
        answered = renderer.text(talk[: at + 1], ask=False, tools=tools)
        prompt = renderer.text(talk[:upto], ask=True, tools=tools)
        said = answered.removeprefix(before).partition(renderer.end_of_turn)[0]
        recorded = before + said + renderer.end_of_turn
        is_kept = answered.startswith(before) and prompt.startswith(recorded)
        new_ids = renderer.continuation(talk[:upto], at + 1, renderer.end_ids[-1], tools)
        kept += is_kept
        if new_ids is not None:
            whole = [*renderer.tokenizer.encode(recorded), *new_ids]
            exact += is_kept and whole == renderer.tokenizer.encode(prompt)
            behind += not is_kept
    of = len(asked)
    figure = f"keeps history as a prefix in {kept} of {of} turns; {exact} go on with exactly the template's own ids"
    if kept < of:
        figure += f", {behind} behind history as it was sampled, {of - kept - behind} would fork"
    return judge(
        name,
        exact + behind == of,
        figure,
        "each fork becomes a sample of its own: use a template that renders history as it was sent",
    )


def _end_of_turn(base: Path, renderer: Renderer) -> Check:
    stops: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (base / name).is_file():
            found = json.loads((base / name).read_text()).get("eos_token_id")
            stops.update(found if isinstance(found, list) else [] if found is None else [found])
    written = renderer.end_of_turn in renderer.text(TALK[:2], ask=False).partition(TALK[1]["content"])[2]
    ids = renderer.end_ids
    wrong = [
        "" if len(ids) == 1 else f"it is {len(ids)} ids",
        "" if stops.issuperset(ids) else f"the engine stops at {sorted(stops)}",
        "" if written else "the template does not write it after an answer",
    ]
    found_wrong = "; ".join(filter(None, wrong))
    return judge(
        "end of turn",
        not found_wrong,
        f"{renderer.end_of_turn} = {ids}"
        + (f"; {found_wrong}" if found_wrong else ", one id, stops the engine, ends the template's answers"),
        "make eos_token (tokenizer_config.json) and eos_token_id (generation_config.json) the template's end of turn",
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
        "prompts would hold the token's letters instead: mend the added tokens in tokenizer.json",
    )


def _round_trip(base: Path) -> Check:
    """Random ids, as a model may sample them at temperature 1, seldom survive a way through text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    special, chosen = tokenizer.get_added_tokens_decoder(), random.Random(0)
    plain = [i for i in range(tokenizer.get_vocab_size()) if i not in special]
    sampled = [chosen.choices(plain, k=32) for _ in range(300)]
    changed = sum(tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False).ids != ids for ids in sampled)
    text = f"{PROBE_TEXT}Größe, 東京, naïve: 3 × 4 = 12\n\tfin."
    whole = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text
    return judge(
        "token ids",
        whole,
        f"{changed / len(sampled):.0%} of random sequences of 32 change on the way through text (which is why "
        f"ids are recorded and never made from text again); text comes back {'whole' if whole else 'changed'}",
        "answers will not read as they were sampled: look at the decoder in tokenizer.json",
    )


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """Turn a check that cannot be made into one that failed, with the reason."""
    try:
        return check()
    except Exception as error:  # Whatever it is, it is the finding.
        return Check(name, "fail", reason_of(error))


def reason_of(error: Exception) -> str:
    """Return the error in one line: vLLM's name their cause at the end."""
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text if len(text) <= 1000 else f'{text[:300]} ... {text[-700:]}'}"
