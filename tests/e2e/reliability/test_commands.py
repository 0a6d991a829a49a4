"""The command lines: their output and exit codes."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def test_migrate_creates_a_database_at_the_newest_revision(tmp_path: Path) -> None:
    for _ in range(2):
        done = run("-m", "server", "migrate", "--data-dir", str(tmp_path / "data"))
        assert done.returncode == 0 and "newest revision" in done.stdout
    newest = max(file.name[:4] for file in (ROOT / "migrations" / "versions").glob("0*.py"))
    with sqlite3.connect(tmp_path / "data" / "upturn.db") as connection:
        assert connection.execute("select version_num from alembic_version").fetchall() == [(newest,)]
    connection.close()


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("-m", "server", "serve"), "--data-dir"),
        (("-m", "learner", "run"), "--server"),
        (("-m", "clients.demo"), "--keep"),
        (("-m", "server", "keys", "create"), "--scope"),
        *(((f"benchmarks/{name}.py",), "--quick") for name in ("exactness", "learner", "plays", "recorder", "serving")),
    ],
)
def test_every_program_lists_its_options_in_its_help(command: tuple[str, ...], option: str) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout.lower() and option in done.stdout


@pytest.mark.parametrize("command", [("-m", "server"), ("-m", "server", "srve"), ("run.py",), ("run.py", "tset")])
def test_an_unknown_command_is_answered_with_the_known_ones(command: tuple[str, ...]) -> None:
    done = run(*command)
    assert done.returncode == 2
    assert "serve" in done.stdout + done.stderr


def test_a_port_in_use_is_reported_with_advice(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("-m", "server", "serve", "--data-dir", str(tmp_path), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "choose another --port" in done.stderr


def test_a_wrong_value_is_reported_with_its_flag() -> None:
    done = run("-m", "server", "serve", "--port", "many")
    assert done.returncode == 2 and "port" in done.stderr
