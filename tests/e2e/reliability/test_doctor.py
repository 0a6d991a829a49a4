"""The doctor passes a good model and finds each kind of defect."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from safetensors.torch import load_file, save_file

import migrations
from server.__main__ import main
from server.assembly import Built
from server.commands import doctor
from server.doctor.checks import Check, model_checks
from server.doctor.engine_checks import engine_checks
from server.engines.local import LocalEngine
from server.engines.options import LocalOptions
from server.engines.protocol import Weights
from server.models.weights import validate_full
from server.rendering.load import load_renderer
from server.store.database import Database
from tests.support.family_models import FAMILIES, make_family_model
from tests.support.tiny_model import CHATML, make_tiny_model

ROOT = Path(__file__).parents[3]
NAMES = [
    "database schema",
    "model files",
    "weights",
    "renderer",
    "chat template",
    "tool template",
    "end of turn",
    "special tokens",
    "token ids",
    "engine",
    "logprobs",
    "adapter",
    "full weights",
]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "tiny")


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_good_model_passes_every_check_in_text_and_json(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = tmp_path / "data"
    code = main(
        ["doctor", str(tiny), "--json", "--engine.kind", "local", "--weights", "full", "--data-dir", str(data_dir)]
    )
    report = json.loads(capsys.readouterr().out)
    assert (code, report["passed"]) == (0, True)
    assert [check["name"] for check in report["checks"]] == NAMES
    assert {check["result"] for check in report["checks"][1:]} == {"pass"}
    assert report["checks"][0]["result"] == "skip" and not (data_dir / "upturn.db").exists()
    assert list(data_dir.iterdir()) == [], "the changed weights were not deleted"


def test_quick_prints_a_line_for_each_check_without_torch(tiny: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from server.__main__ import main; code = main(['doctor', *sys.argv[1:]]); "
        "sys.exit(3 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny), "--quick", "--data-dir", str(tmp_path)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[6:21].strip() for line in lines[:-1]] == [*NAMES[:9], "engine"]
    assert lines[-2].startswith("skip  engine") and lines[-1].endswith("no check failed")


def test_a_missing_model_fails_with_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["doctor", str(tmp_path / "empty"), "--quick", "--data-dir", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "fail  model files      config.json" in output and "Hugging Face's layout" in output


def rewrites(user: str = "message['content']", assistant: str = "message['content']") -> Callable[[Path], None]:
    def change(model: Path) -> None:
        choice = f"({user} if message['role'] == 'user' else {assistant})"
        (model / "chat_template.jinja").write_text(CHATML.replace("message['content']", choice))

    return change


def quantized(model: Path) -> None:
    edit(model / "config.json", quantization_config={"quant_method": "awq"})


def sliding(model: Path) -> None:
    edit(model / "config.json", layer_types=["full_attention", "sliding_attention"])


def of_integers(model: Path) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"].char()}, file)


def ends_in_words(model: Path) -> None:
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>", " Over."))


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (rewrites(user="message['content'] ~ ' (' ~ messages|length ~ ')'"), "chat template", "1 would fork"),
        (quantized, "weights", "quantized (awq)"),
        (sliding, "weights", "layers of ['sliding_attention']"),
        (of_integers, "weights", "dtype ['I8']"),
        (ends_in_words, "end of turn", "the template writes no special token after an answer"),
        (
            lambda model: edit(model / "tokenizer.json", decoder={"type": "Fuse"}),
            "token ids",
            "text comes back changed",
        ),
        (lambda model: (model / "chat_template.jinja").unlink(), "chat template", "no chat template"),
        (lambda model: (model / "tokenizer.json").write_text("{"), "chat template", "EOF"),
    ],
)
def test_each_defect_of_a_model_is_found_with_a_figure_and_advice(
    tiny: Path, damage: Callable[[Path], Any], name: str, message: str
) -> None:
    before = by_name(list(model_checks(tiny)))
    assert {check.result for check in before.values()} == {"pass"}
    damage(tiny)
    check = by_name(list(model_checks(tiny)))[name]
    assert (check.result, message in check.figure) == ("fail", True), check
    assert check.advice


def test_a_template_that_shows_only_the_last_thoughts_passes(
    tiny: Path,
) -> None:
    rewrites(assistant="('<think></think>' if loop.last else '') ~ message['content']")(tiny)
    check = by_name(list(model_checks(tiny)))["chat template"]
    assert check.result == "pass"
    assert "prefix in 0 of 2 turns" in check.figure and "2 continue after history as it was sampled" in check.figure


class DeafEngine(LocalEngine):
    """Reports that it has loaded weights, but keeps the old ones."""

    async def load(self, weights: Weights) -> None:
        self.versions |= {weights.version}

    async def score(self, version: int, token_ids: list[int]) -> list[float]:
        return await super().score(0, token_ids)


class OtherEngine(LocalEngine):
    """Serves a different model."""

    async def start(self, base: Weights, current: Weights) -> None:
        other = Weights(0, "base", make_tiny_model(base.path.parent / "other", seed=1))
        await super().start(other, other)


@pytest.mark.parametrize(
    ("kind", "failed"),
    [
        (LocalEngine, []),
        (DeafEngine, ["adapter", "full weights"]),
        (OtherEngine, ["logprobs", "adapter", "full weights"]),
    ],
)
async def test_an_engine_that_does_not_serve_the_loaded_weights_fails(
    tiny: Path, tmp_path: Path, kind: type[LocalEngine], failed: list[str]
) -> None:
    def build() -> Built:
        return Built(
            kind(LocalOptions(context_tokens=512)),
            load_renderer(tiny),
            tiny,
            "full",
            lambda path, _: validate_full(path, tiny),
        )

    checks = [check async for check in engine_checks(build, tmp_path, 8)]
    assert [check.name for check in checks] == ["engine", "logprobs", "adapter", "full weights"]
    assert [check.name for check in checks if check.result == "fail"] == failed, checks


async def test_an_engine_that_does_not_start_is_a_single_failed_check(tiny: Path, tmp_path: Path) -> None:
    (tiny / "model.safetensors").write_bytes(b"\0" * 100)
    checks = [
        check
        async for check in engine_checks(
            lambda: Built(LocalEngine(LocalOptions()), load_renderer(tiny), tiny, "full", lambda *_: None),
            tmp_path,
            8,
        )
    ]
    assert [(check.name, check.result) for check in checks] == [("engine", "fail")]
    assert checks[0].advice


def test_the_schema_is_compared_and_never_changed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'upturn.db'}"
    assert doctor.schema_check(url).result == "skip"
    database = Database(url)
    with database.writer.begin() as connection:
        command.upgrade(migrations.config(connection), "0001")
    for _ in range(2):
        old = doctor.schema_check(url)
        assert (old.result, old.advice) == ("fail", "python -m server migrate") and "revision 0001" in old.figure
    migrations.upgrade(database.writer)
    assert doctor.schema_check(url).result == "pass"
    with database.writer.begin() as connection:
        connection.execute(sa.text("update alembic_version set version_num = '9999'"))
    assert doctor.schema_check(url).result == "fail"
    database.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quick", "--no-such-flag"], "--no-such-flag"),
        (["--quick", "model"], "model"),
        (["model", "--engine.kind", "scripted"], "scripted engine has no model"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_a_good_model_passes_on_vllm(tiny: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "server",
            "doctor",
            str(tiny),
            "--json",
            "--engine.kind",
            "vllm",
            "--weights",
            "full",
            "--data-dir",
            str(tmp_path / "data"),
        ],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    report = json.loads(done.stdout)
    assert done.returncode == 0, report
    results = {check["name"]: check["result"] for check in report["checks"]}
    assert {name for name, result in results.items() if result != "pass"} == {"database schema", "adapter"}


@pytest.mark.parametrize(("name", "message"), [("qwen3", "the family qwen3"), ("llama-3", "the family llama-3")])
def test_the_report_names_the_renderer_of_the_prompts(tmp_path: Path, name: str, message: str) -> None:
    directory = make_family_model(tmp_path, FAMILIES[name])
    assert message in by_name(list(model_checks(directory)))["renderer"].figure
    assert "the chat template" in by_name(list(model_checks(directory, "template")))["renderer"].figure
