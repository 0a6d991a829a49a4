"""A model family's answer form takes one file and one line, as CONTRIBUTING.md promises."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FORM = '''
"""Calls in the form `[CALL]name {"argument": "value"}[/CALL]`."""

import json

from server.rendering.model_family import ParsedCall, TaggedFamily


def parse_call(text: str) -> ParsedCall:
    """Parse the text between the marks; an error shows the call as text."""
    name, _, arguments = text.strip().partition(" ")
    if not name or not isinstance(json.loads(arguments), dict):
        raise ValueError("not a call")
    return ParsedCall(name, arguments)


FAMILIES = (TaggedFamily("brackets", "[CALL]", "[/CALL]", parse_call),)
'''
REGISTRY_LINE = '    "server.rendering.brackets",\n'
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[CALL]{{ c.function.name }} {{ c.function.arguments | tojson }}[/CALL]"
    "{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{{ tools and '' }}"
)
PROGRAM = """
import json, sys
from pathlib import Path
import server
from server.rendering.answers import AnswerFormat, AnswerReader
from server.rendering.load import load_renderer

folder = Path(sys.argv[1])
assert Path(server.__file__).parent == folder / "server"
results = {}
for setting in ("auto", "brackets", "template"):
    renderer = load_renderer(folder / "model", setting)
    prompt = renderer.prompt([{"role": "user", "content": "Hi"}])
    read = []
    for text in json.loads(sys.argv[2]):
        for size in (1, 3, 1000):
            reader = AnswerReader(renderer.tokenizer, AnswerFormat(tools=True, parser=renderer.parser(prompt)))
            ids = renderer.tokenizer.encode(text)
            pieces = [reader.push(ids[at : at + size]) for at in range(0, len(ids), size)]
            early = sum(delta.call is not None for piece in pieces for delta in piece)
            deltas = [delta for piece in pieces for delta in piece] + reader.finish()
            content = "".join(delta.content for delta in deltas)
            assert content == (reader.message["content"] or ""), "the streamed text is the message"
            read.append([content, [[call.name, json.loads(call.arguments)] for call in reader.calls], early])
    results[setting] = [renderer.family.name, read]
print(json.dumps(results))
"""


def write_model(directory: Path) -> None:
    """Write a tokenizer with the marks as special tokens, and a chat template in the new form."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    directory.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "[CALL]", "[/CALL]"]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}), encoding="utf-8"
    )


def test_an_answer_form_is_one_file_and_one_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "server", tmp_path / "server", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "server/rendering/brackets.py").write_text(FORM)
    registry = tmp_path / "server/rendering/families.py"
    text = registry.read_text()
    assert text.count("MODULES = (\n") == 1
    registry.write_text(text.replace("MODULES = (\n", f"MODULES = (\n{REGISTRY_LINE}"))
    write_model(tmp_path / "model")

    call = '[CALL]look {"at": "sky"}[/CALL]'
    malformed = ["[CALL]look {at: sky}[/CALL]", "[CALL]look[/CALL]", '[CALL]look {"at": ']
    answers = ["1 [CAL 2", f"I look.\n{call}", f"{call}\n{call}<|im_end|>", *malformed]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(answers)],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT / 'clients' / 'python'}", "PATH": "/usr/bin:/bin"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)

    look = ["look", {"at": "sky"}]
    expected = [
        ("1 [CAL 2", [], 0),
        ("I look.", [look], 1),
        ("", [look, look], 2),
        *((answer, [], 0) for answer in malformed),
    ]
    for setting in ("auto", "brackets"):
        family, read = results[setting]
        assert family == "brackets"
        for number, (content, calls, early) in enumerate(expected):
            for whole_or_streamed in read[3 * number : 3 * number + 3]:
                assert whole_or_streamed == [content, calls, early]
    family, read = results["template"]
    assert family == "template" and not any(calls for _, calls, _ in read)
