"""The LiteLLM proxy, for comparison, in a virtual environment: its pins conflict with this project's.

Used by `serving.py`. Its database logging needs PostgreSQL and a Prisma binary that is downloaded on first use;
`why_no_database` says which of them is unavailable.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clients.demo.server_process import free_port

CONFIG = """
model_list:
  - model_name: policy
    litellm_params: {{model: hosted_vllm/base, api_base: {url}/v1, api_key: none}}
litellm_settings: {{telemetry: false}}
general_settings: {{store_prompts_in_spend_logs: true}}
"""
KEY = f"sk-{secrets.token_hex(16)}"
"""The proxy refuses to start without a key."""
START_S = 180.0


def installed(venv: Path) -> Path:
    """Return the virtual environment, creating it on first use."""
    if not (venv / "bin" / "litellm").is_file():
        print(f"installing LiteLLM into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "--quiet", "litellm[proxy]", "prisma"], check=True)
    return venv


def version(venv: Path) -> str:
    """Return the installed version."""
    code = "from importlib.metadata import version; print(version('litellm'))"
    return subprocess.check_output([str(venv / "bin" / "python"), "-c", code], text=True).strip()


def why_no_database(venv: Path) -> str | None:
    """Prepare the proxy's database logging; return the reason if that is impossible, otherwise None."""
    if shutil.which("initdb") is None and not any(Path("/usr/lib/postgresql").glob("*/bin")):
        return "PostgreSQL is not installed"
    schema = next(venv.glob("lib/python*/site-packages/litellm/proxy/schema.prisma"))
    done = subprocess.run(
        [venv / "bin" / "prisma", "generate", "--schema", schema],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(venv),
        timeout=300,
    )
    return None if done.returncode == 0 else f"prisma generate: {(done.stderr or done.stdout).strip().splitlines()[-1]}"


@contextmanager
def proxy(venv: Path, vllm_url: str, folder: Path, database_url: str | None = None) -> Iterator[str]:
    """Run the proxy in front of a vLLM, logging requests to a database if one is given; yield its URL."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(url=vllm_url))
    port = free_port()
    environment = _environment(venv) | ({"DATABASE_URL": database_url} if database_url else {})
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(
            [venv / "bin" / "litellm", "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health/liveliness", folder / "litellm.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(venv: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": KEY,
    }


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < START_S:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError("LiteLLM did not start:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-10:]))
