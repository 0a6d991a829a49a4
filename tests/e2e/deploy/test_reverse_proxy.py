"""Through nginx with the project's configuration, agents stream over TLS as if there were no proxy."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import websockets.sync.client as websockets

from tests.support.live import Live, read_metrics, until

CONF = Path(__file__).parents[3] / "deploy" / "proxy" / "nginx.conf"
NAME = "agents.example.com"


@pytest.fixture(params=["as configured", "with nginx's own buffering"])
def port(slow: Live, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of nginx in front of a server that answers word by word."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if nginx is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    key, certificate = tmp_path / "privkey.pem", tmp_path / "fullchain.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={NAME}"),
            *("-addext", f"subjectAltName=DNS:{NAME},DNS:localhost", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    site = CONF.read_text().replace("http://127.0.0.1:8000", slow.url).replace(f"/etc/ssl/{NAME}", str(tmp_path))
    site = re.sub(r"\n *listen \[::\].*", "", site).replace("listen 443 ssl", f"listen 127.0.0.1:{free} ssl")
    site = site.replace("$host;", "localhost;")  # The server under test has no other name.
    if request.param != "as configured":
        site = site.replace("proxy_buffering off;", "proxy_buffering on;")
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; {places(tmp_path)}\n{site} }}"
    )
    subprocess.run([nginx, "-t", "-q", "-c", tmp_path / "nginx.conf"], check=True)
    with subprocess.Popen([nginx, "-c", tmp_path / "nginx.conf"]) as proxy:
        try:
            until(lambda: proxy.poll() is not None or listens(free), "nginx does not listen")
            yield free
        finally:
            proxy.terminate()


def places(folder: Path) -> str:
    """Return the settings of nginx's own temporary folders."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def agent(port: int, tmp_path: Path) -> Iterator[httpx2.Client]:
    """An agent that trusts the proxy's certificate."""
    trusted = ssl.create_default_context(cafile=str(tmp_path / "fullchain.pem"))
    with httpx2.Client(base_url=f"https://localhost:{port}", verify=trusted, timeout=60, trust_env=False) as client:
        yield client


def test_a_stream_asks_proxies_not_to_hold_it_back(live: Live) -> None:
    ask = {"model": "policy", "messages": [{"role": "user", "content": "Hi"}]}
    streamed, whole = (live.http.post("/v1/chat/completions", json={**ask, "stream": how}) for how in (True, False))
    assert (streamed.headers["x-accel-buffering"], streamed.headers["cache-control"]) == ("no", "no-cache")
    assert "x-accel-buffering" not in whole.headers


def test_the_first_token_arrives_while_the_answer_is_still_sampled(slow: Live, agent: httpx2.Client) -> None:
    ask = {"model": "policy", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    with agent.stream("POST", "/v1/chat/completions", json=ask) as answer:
        assert answer.status_code == 200
        lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line)
        while not json.loads(next(lines))["choices"][0]["delta"].get("content"):
            pass
        assert read_metrics(slow)["upturn_turns_in_progress"] == 1
        assert list(lines)[-1] == "[DONE]"


def test_a_body_up_to_the_servers_limit_passes_and_larger_ones_are_refused(agent: httpx2.Client) -> None:
    for size, status in ((2 * 2**20, 200), (17 * 2**20, 413)):
        body = {
            "model": "policy",
            "max_tokens": 1,
            "messages": [{"role": "user", "content": "Hi"}],
            "unknown": "x" * size,
        }
        assert agent.post("/v1/chat/completions", json=body).status_code == status


def test_websockets_pass(port: int, tmp_path: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(tmp_path / "fullchain.pem"))
    with websockets.connect(
        f"wss://localhost:{port}/openenv/textcraft/ws", ssl=trusted, proxy=None, open_timeout=60
    ) as socket_:
        socket_.send('{"type": "state"}')
        assert json.loads(socket_.recv(timeout=60))["type"] == "state"


def test_metrics_are_not_for_the_outside(agent: httpx2.Client) -> None:
    assert agent.get("/metrics").status_code == 404
    assert agent.get("/healthz").status_code == 200
