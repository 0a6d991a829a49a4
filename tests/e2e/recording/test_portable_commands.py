"""The commands `export` and `import`: their files, their memory, their failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.__main__ import main
from server.commands import export
from tests.support.portable import exported, imported

ROOT = Path(__file__).parents[3]
LOAD = """
import json, sys
from datasets import load_dataset
data = load_dataset(sys.argv[1], data_files=sys.argv[2], split="train", cache_dir=sys.argv[3])
turns = data.features["turns"].feature
kinds = {name: turns[name].feature.dtype for name in ("token_ids", "loss_mask", "logprobs")}
print(json.dumps({"rows": list(data), "kinds": kinds}))
"""


def test_an_interrupt_leaves_an_existing_file_unchanged(
    source: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir, _ = source
    monkeypatch.setattr(export, "CHUNK", 1)
    (tmp_path / "all.jsonl").write_text("existing content")
    part_exists = []

    def interrupt(*_: Any) -> None:
        part_exists.append(tmp_path.joinpath("all.jsonl.part").exists())
        if part_exists.count(True) == 3:  # In the middle of the export: each chunk takes several statements.
            signal.raise_signal(signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # Independent of earlier tests in this process.
    sa.event.listen(sa.Engine, "before_cursor_execute", interrupt)
    try:
        assert main(["export", str(tmp_path / "all.jsonl"), "--data-dir", str(data_dir)]) == 130
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", interrupt)
        signal.signal(signal.SIGINT, handler)
    assert part_exists[-1], "it was not writing yet"
    assert (tmp_path / "all.jsonl").read_text() == "existing content"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.jsonl", "source"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_number_of_episodes(
    source: tuple[Path, dict[str, str]], tmp_path: Path, form: str
) -> None:
    data_dir, _ = source
    (line, *_) = exported(data_dir, tmp_path / "one.jsonl", "--limit", "1")
    line["metadata"] = json.dumps({"much": "x" * 20_000})
    peaks = []
    for count in (64, 160):  # At least two full chunks each.
        with (tmp_path / "many.jsonl").open("w") as file:
            for number in range(count):
                turns = [{**turn, "id": f"{number}-{turn['index']}"} for turn in line["turns"]]
                rewards = [{**reward, "id": f"{number}-{reward['id'][-4:]}"} for reward in line["rewards"]]
                file.write(json.dumps({**line, "id": f"ep_{number:06}", "turns": turns, "rewards": rewards}) + "\n")
        target, moved = tmp_path / f"target{count}", tmp_path / f"many{count}.{form}"
        assert imported(target, tmp_path / "many.jsonl") == 0
        tracemalloc.start()
        exported(target, moved) if form == "parquet" else main(["export", str(moved), "--data-dir", str(target)])
        imported(tmp_path / f"again{count}", moved)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0], peaks


@pytest.mark.skipif(find_spec("datasets") is None, reason="datasets is not installed")
@pytest.mark.parametrize(("builder", "form"), [("json", "jsonl"), ("parquet", "parquet")])
def test_datasets_reads_numbers_as_numbers_from_both_formats(
    source: tuple[Path, dict[str, str]], tmp_path: Path, builder: str, form: str
) -> None:
    data_dir, _ = source
    expected = exported(data_dir, tmp_path / "all.jsonl")
    file = tmp_path / f"all.{form}"
    exported(data_dir, file)
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, builder, str(file), str(tmp_path / "cache")],
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    loaded_rows, expected_rows = [
        json.loads(text, parse_float=lambda x: float(f"{float(x):.14g}"))  # As its JSON reader rounds.
        for text in (loaded.stdout, json.dumps(expected))
    ]
    assert loaded_rows["rows"] == expected_rows
    kinds = loaded_rows["kinds"]
    assert kinds["token_ids"] in ("int32", "int64") and kinds["logprobs"] == "float64"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["export", "x.jsonl", "--data-dir", "nowhere"], "there is no database"),
        (["export", "x.csv", "--data-dir", "nowhere"], "choose with --format"),
        (["import", "nothing.jsonl", "--data-dir", "data"], "nothing.jsonl"),
    ],
)
def test_failures_are_reported_in_one_line(tmp_path: Path, command: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server", *command],
        cwd=tmp_path,
        text=True,
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_parquet_without_pyarrow_says_what_to_install_and_jsonl_works_without(
    source: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None; from server.__main__ import main; "
        "sys.exit(main(['export', *sys.argv[1:]]))"
    )
    for form, returned in (("parquet", 1), ("jsonl", 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"x.{form}"), "--data-dir", str(source[0])],
            cwd=ROOT,
            text=True,
            check=False,
            capture_output=True,
        )
        assert done.returncode == returned
        assert ("run.py setup" in done.stderr) == bool(returned)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "x.jsonl"]


@pytest.mark.parametrize("command", ["export", "import"])
def test_an_unknown_flag_is_an_error(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server", command, "x.jsonl", "--min-rewrd", "1"],
        cwd=ROOT,
        text=True,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 2 and "--min-rewrd" in done.stderr


def test_an_unreadable_parquet_file_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.parquet").write_text("not at all")
    assert imported(tmp_path / "target", tmp_path / "bad.parquet") == 1
    assert "not a readable Parquet file" in capsys.readouterr().err
