"""Keys on the command line: created, listed and revoked; and the first admin key."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import httpx2

from tests.support.keys import client
from tests.support.live import Live, script, serving, settings_for, until

ROOT = Path(__file__).parents[3]


def command(*arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", "keys", *arguments, "--data-dir", str(data_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_keys_are_created_listed_and_revoked_by_command_while_the_server_runs(guarded: Live) -> None:
    data_dir = guarded.parts.settings.data_dir
    made = command("create", "--name", "shop", "--scope", "agent", "--scope", "learner", data_dir=data_dir)
    assert made.returncode == 0, made.stderr
    key = made.stdout.splitlines()[0]
    key_id = made.stdout.splitlines()[1].partition(":")[0]
    assert client(guarded, key).runs().data == []
    listed = command("list", data_dir=data_dir)
    assert listed.stdout.count("\n") == 1 and key_id in listed.stdout and key not in listed.stdout
    assert command("revoke", key_id, data_dir=data_dir).returncode == 0

    def refused() -> bool:
        return guarded.http.get("/v1/runs", headers={"x-api-key": key}).status_code == 401

    until(refused, "the running server still accepts the key", 120)
    assert "revoked" in command("list", data_dir=data_dir).stdout
    unknown = command("revoke", "key_none", data_dir=data_dir)
    assert unknown.returncode == 1 and "key_none" in unknown.stderr
    assert command("create", "--name", "x", "--scope", "root", data_dir=data_dir).returncode == 2
    nothing = command("create", "--name", "x", "--scope", "agent", "--max-concurrent", "0", data_dir=data_dir)
    assert nothing.returncode == 2 and "max_concurrent" in nothing.stderr


def printed_at_start(data_dir: Path, model: Path) -> list[str]:
    """Return the lines that a server with required keys prints until it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        "serve",
        "--keys",
        "required",
        "--port",
        str(port),
        "--data-dir",
        str(data_dir),
        "--model",
        str(model),
        "--engine.kind",
        "scripted",
        "--no-learner.start",
    ]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:

        def ready() -> bool:
            assert server.poll() is None
            try:
                return httpx2.get(f"{url}/readyz").status_code == 200
            except httpx2.TransportError:
                return False

        until(ready, "the server did not start", 120)
        assert httpx2.get(f"{url}/v1/keys").status_code == 401
        server.terminate()
        assert server.stdout is not None
        return server.stdout.read().splitlines()


def test_the_first_start_prints_an_admin_key_once_and_it_works(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    address, shown, *rest = printed_at_start(tmp_path / "data", model)
    key = shown.split()[-1]
    assert key.startswith("up-") and address.startswith("upturn: http://")
    assert key not in "\n".join(rest) and '"Authorization: Bearer $UPTURN_KEY"' in "\n".join(rest)
    assert "admin key" not in "\n".join(printed_at_start(tmp_path / "data", model))
    with serving(settings_for(tmp_path / "data", model=str(model), keys="required")) as live:
        admin = client(live, key)
        assert [made.scopes for made in admin.keys().data] == [["admin"]]
        admin.revoke_key(admin.keys().data[0].id)
    assert "shown only this once" in printed_at_start(tmp_path / "data", model)[1]
