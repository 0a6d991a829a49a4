"""A command that cannot do its work says why in one sentence, and what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

import migrations
import run as installer
from server.__main__ import main as server
from server.commands.failures import explain
from server.store.database import Database
from tests.support.live import settings_for
from tests.support.tiny_model import make_tiny_model
from upturn.command.app import build
from upturn.command.failure import report
from upturn.command.run import run

ROOT = Path(__file__).parents[3]
SCRIPTED = ["--engine.kind=scripted", "--port=0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "base", seed=0)


def serve(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """Start a server that must fail; return the one line that it says."""
    code = server(["serve", "--port=0", *flags])
    err = capsys.readouterr().err
    assert code in (1, 2), err
    (line,) = err.splitlines()
    assert "Traceback" not in err
    return line


def without(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def damaged(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"\1\2\3")


def no_json(directory: Path) -> None:
    (directory / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        (without("config.json"), "has no config.json"),
        (without("tokenizer.json"), "has no tokenizer.json"),
        (without("model.safetensors"), "has no weights"),
        (pickled, "pickled weights only (pytorch_model.bin)"),
        (damaged, "model.safetensors"),
        (no_json, "config.json cannot be read"),
    ],
)
def test_a_model_that_is_not_whole_is_named_with_its_defect(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], defect: Callable[[Path], None], said: str
) -> None:
    shutil.copytree(model, tmp_path / "model")
    defect(tmp_path / "model")
    flags = ["--engine.kind=local", "--model", str(tmp_path / "model"), "--data-dir", str(tmp_path / "data")]
    assert said in serve(capsys, *flags)


def test_a_context_beyond_the_models_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--engine.kind=local", "--model", str(model), "--data-dir", str(tmp_path), "--engine.context-tokens=9000"]
    assert "reads at most 8192 tokens" in serve(capsys, *flags)


def test_a_data_directory_that_cannot_be_written_to_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        assert f"cannot write to the data directory {place}" in serve(capsys, *SCRIPTED, "--data-dir", str(place))
    assert server(["keys", "list", "--data-dir", str(tmp_path / "file")]) == 1
    assert "choose another with --data-dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////nowhere/x.db", "cannot be opened"),
        ("sqlite:///{path}/text", "is not a database"),
        ("postgresql://me:secret@127.0.0.1:1/x", "Connection refused"),
        ("mysql://me:secret@127.0.0.1:1/x", "is no URL of SQLite or PostgreSQL"),
        ("nonsense", "is no URL of SQLite or PostgreSQL"),
        ("sqlite:///{path}/newer.db", "which this version does not know"),
        ("sqlite:///{path}/other.db", "belongs to another program: it has the tables bill, customer"),
        ("sqlite:///file:{path}/good.db?mode=ro&uri=true", "is read-only"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, said: str
) -> None:
    (tmp_path / "text").write_text("this is no database, but long enough to look like a file with a header\n" * 9)
    for name in ("newer", "good"):
        database = Database(f"sqlite:///{tmp_path / name}.db")
        migrations.upgrade(database.writer)
        database.close()
    with sqlite3.connect(tmp_path / "newer.db") as newer:
        newer.execute("UPDATE alembic_version SET version_num = 'ffff'")
    newer.close()
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.executescript("CREATE TABLE customer (id); CREATE TABLE bill (id)")
    other.close()
    place = url.format(path=tmp_path)
    code = server(["serve", *SCRIPTED, "--data-dir", str(tmp_path / "data"), "--database-url", place])
    err = capsys.readouterr().err
    line = err.splitlines()[-1]
    assert code == 1 and said in line and "secret" not in err and "Traceback" not in err
    with sqlite3.connect(tmp_path / "other.db") as other:
        assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (2,)
    other.close()


def test_a_database_that_is_locked_full_or_damaged_gets_its_own_advice(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    for reason, advice in (
        ("database is locked", "locked by another program: end that"),
        ("database or disk is full", "free space"),
        ("disk I/O error", "free space"),
        ("database disk image is malformed", "restore a backup"),
    ):
        for error in (sqlite3.OperationalError(reason), sa.exc.OperationalError("SELECT 1", {}, Exception(reason))):
            said = explain(error, settings)
            assert said is not None and advice in said and "start it" not in said and "SELECT" not in said
    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT):
        said = explain(OSError(number, os.strerror(number), "/some/file"), settings)
        assert said is not None and said.startswith(f"/some/file: {os.strerror(number)}: ")


@pytest.mark.parametrize("command", ["export", "backup"])
def test_no_command_reads_a_database_of_a_newer_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'upturn.db'}")
    migrations.upgrade(database.writer)
    with database.writer.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'ffff'"))
    database.close()
    assert server([command, str(tmp_path / "made.jsonl"), "--data-dir", str(tmp_path)]) == 1
    assert "run the version that made it, or a newer one" in capsys.readouterr().err
    assert not (tmp_path / "made.jsonl").exists()


def test_a_backup_onto_a_full_disk_names_that_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    assert server(["migrate", "--data-dir", str(tmp_path)]) == 0
    monkeypatch.setattr("server.commands.backup.copy_sqlite", full)
    assert server(["backup", str(tmp_path / "made"), "--data-dir", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the disk of {tmp_path / 'made'} is full: free space" in line
    assert not list(tmp_path.glob("made*"))


def test_a_checkout_that_cannot_be_written_to_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(installer, "Lock", refuse)
    with pytest.raises(SystemExit, match=f"cannot write to {ROOT} .Read-only file system.: make it writable"):
        installer.main(["serve"])


def test_what_is_no_backup_is_named_with_what_to_name_instead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in (("nothing", None), ("text", "{"), ("list", "[]")):
        if content is not None:
            (tmp_path / name).mkdir()
            (tmp_path / name / "backup.json").write_text(content)
        assert server(["restore", str(tmp_path / name), "--data-dir", str(tmp_path / "data")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{name} is no finished backup (" in line and "`upturn backup`" in line and "Errno" not in line


def test_an_address_that_cannot_be_had_names_the_flag_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*SCRIPTED, "--data-dir", str(tmp_path)]
    assert serve(capsys, *flags, "--host", "192.0.2.1").endswith("choose another --host")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert serve(capsys, *flags, f"--port={taken.getsockname()[1]}").endswith("choose another --port")


def test_a_model_that_is_a_path_is_not_looked_for_on_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--engine.kind=local", "--data-dir", str(tmp_path), "--model", str(tmp_path / "nothing")]
    said = serve(capsys, *flags)
    assert f"the directory {tmp_path / 'nothing'} does not exist" in said and "hf download" not in said


def test_settings_that_cannot_be_read_name_their_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"\n')
    assert "latin.toml: not a text in UTF-8" in serve(capsys, "--config", str(tmp_path / "latin.toml"))
    assert f"{tmp_path}: not a file" in serve(capsys, "--config", str(tmp_path))
    assert "data_dir: the name of the directory is empty" in serve(capsys, "--data-dir", "")
    monkeypatch.setenv("UPTURN_SCHEDULE", "{")
    assert "UPTURN_SCHEDULE: not JSON" in serve(capsys)


@pytest.mark.parametrize("program", ["server", "learner", "env_adapters", "clients.demo"])
def test_a_python_without_the_packages_names_the_one_that_has_them(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", program, "--help"], cwd=ROOT, text=True, check=False, capture_output=True
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith(f"python -m {program}: ") and "`python3 run.py setup`" in line


def test_a_missing_package_names_the_projects_way_to_install_it(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    for module in ("torch", "psycopg", "vllm", "minigrid", "pydantic_settings", "jinja2"):
        said = explain(ModuleNotFoundError(f"No module named {module!r}", name=module), settings)
        assert said is not None and "python3 run.py setup" in said
    own = explain(ModuleNotFoundError("No module named 'my_game'", name="my_game"), settings)
    assert own == "No module named 'my_game'"
    code = "import sys; sys.modules['torch'] = None; from learner.__main__ import main; sys.exit(main(sys.argv[1:]))"
    for arguments, status in ((["--help"], 0), (["run", "--help"], 0), (["--version"], 0)):
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=False, capture_output=True)
        assert done.returncode == status and b"Traceback" not in done.stderr


def test_an_unexpected_error_is_one_line_and_its_traceback_is_in_a_file_without_what_it_quotes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UPTURN_LOG_LEVEL", raising=False)
    try:
        raise KeyError("a private text")
    except KeyError as error:
        assert report(error, "serve", logs=tmp_path / "logs") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("serve: unexpected KeyError") and str(tmp_path / "logs" / "errors.log") in line
    kept = (tmp_path / "logs" / "errors.log").read_text()
    assert "test_startup_errors.py" in kept and "KeyError" in kept and "'a private text'" not in kept.splitlines()[-2]


@pytest.mark.parametrize(
    ("server_address", "code", "said"),
    [("http://127.0.0.1:9", 1, "run.py serve"), ("nowhere", 2, "is not an address")],
)
def test_the_client_says_when_no_server_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server_address: str, code: int, said: str
) -> None:
    monkeypatch.setattr("upturn.command.connection.RETRY_S", 0.0)
    assert run(build(), ["status", "--server", server_address], "upturn") == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_ready_message_is_a_request_that_can_be_copied(tmp_path: Path) -> None:
    from server.commands.ready import greeting

    said = greeting(settings_for(tmp_path, model="m"), "http://127.0.0.1:8000", "vllm", "bfloat16", 2048, "no GPU")
    body = said.partition("-d '")[2].partition("'")[0]
    assert json.loads(body)["model"] == "policy" and json.loads(body)["max_tokens"]
    assert "m as `policy`, engine vllm (bfloat16), context 2048 tokens" in said
    assert "http://127.0.0.1:8000/docs" in said and "upturn status" in said
