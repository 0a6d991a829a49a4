"""Overhead of the server over its vLLM: requests/s and latencies, through the server and directly.

    .venv/bin/python benchmarks/serving.py [--quick] [--venv-dir DIR]

The unmodified server with the vLLM that it starts (`python -m server serve`, every turn recorded and synced to SQLite
before it is answered) and, in the same rounds, an equal vLLM alone, behind a bare aiohttp proxy, and behind the LiteLLM
proxy. Answers of 64 tokens from a small model, and of one token from a tiny model, where the server itself dominates.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.support import litellm_proxy, pass_through
from benchmarks.support.load import Measured, Shape, Target, compare
from clients.demo.machine import machine
from clients.demo.server_process import ServerProcess, free_port
from server.engines.options import VllmOptions
from server.engines.vllm.command import BASE_MODEL
from server.engines.vllm.process import VllmProcess
from server.models.source import resolve_model
from tests.support.postgres import running_postgres

SMALL = "smollm2-135m-instruct"
DIRECT, OURS, BARE, PEER, PEER_LOGGING = "direct", "upturn", "pass-through", "litellm", "litellm, logging"
CONTEXT = 2048
Plan = list[tuple[Shape, int, int]]
"""(shape, rounds, requests per round)."""


def plans(quick: bool) -> dict[str, Plan]:
    """Return the measurements for each model."""
    forms = (False, True)
    if quick:
        return {"tiny": [(Shape(1, 1, False), 20, 4), (Shape(1, 16, False), 3, 320), (Shape(1, 16, True), 3, 320)]}
    return {
        "tiny": [
            *((Shape(1, 1, stream), 40, 6) for stream in forms),
            *((Shape(1, 16, stream), 5, 400) for stream in forms),
        ],
        SMALL: [
            (Shape(64, at_once, stream), rounds, requests)
            for stream in forms
            for at_once, rounds, requests in ((1, 10, 1), (8, 3, 24), (32, 3, 64))
        ],
    }


@asynccontextmanager
async def targets(model: Path, folder: Path, venv: Path | None, logging: bool) -> AsyncIterator[list[Target]]:
    """Start the server, a vLLM, and everything in front of that."""
    folder.mkdir()
    vllm = VllmProcess(VllmOptions(max_model_len=CONTEXT, port=free_port()), model, folder, _log)
    url = vllm.address.url
    async with AsyncExitStack() as closing:
        await vllm.start()
        closing.push_async_callback(vllm.stop)
        flags = ["--model", str(model), "--engine.kind", "vllm", "--engine.context-tokens", str(CONTEXT)]
        flags += ["--weights", "full", "--no-learner.start"]
        ours = closing.enter_context(ServerProcess(folder / "data", free_port(), flags, lambda *_: None))
        _, proxied = closing.enter_context(pass_through.running(url))
        found = [Target(DIRECT, url, BASE_MODEL), Target(OURS, ours.url, "policy"), Target(BARE, proxied, BASE_MODEL)]
        if venv is not None:
            _log("starting LiteLLM")
            peer = closing.enter_context(litellm_proxy.proxy(venv, url, folder / "a"))
            found.append(Target(PEER, peer, "policy", litellm_proxy.KEY))
        if venv is not None and logging:
            database = closing.enter_context(running_postgres())
            peer = closing.enter_context(litellm_proxy.proxy(venv, url, folder / "b", database.url))
            found.append(Target(PEER_LOGGING, peer, "policy", litellm_proxy.KEY))
        yield found


async def measured(plan: dict[str, Plan], venv: Path | None, logging: bool) -> list[dict[str, Any]]:
    """Return one row for each model, shape and target."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="upturn-serving-") as name:
        folder = Path(name)
        for model, shapes in plan.items():
            async with targets(_path(model, folder), folder / model, venv, logging) as found:
                for shape, rounds, requests in shapes:
                    _log(f"{model}: {shape.text}")
                    results = await compare(found, shape, rounds=rounds, requests=requests)
                    rows += [_row(model, shape, target.name, results) for target in found]
                    for row in rows[-len(found) :]:
                        _log(_line(row))
    return rows


def _path(model: str, folder: Path) -> Path:
    if model == SMALL:
        return resolve_model(model, Path("data/models").absolute())
    from tests.support.tiny_model import make_tiny_model

    return make_tiny_model(folder / "tiny-model")


def _row(model: str, shape: Shape, name: str, results: dict[str, Measured]) -> dict[str, Any]:
    return {"model": model, **asdict(shape), "target": name, **results[name].figures(results[DIRECT])}


def report(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(
        "model                  answer, requests                     target            requests/s"
        "  of direct   p50 ms   p95 ms   added p50 ms  failed"
    )
    for row in rows:
        print(_line(row))


def _line(row: dict[str, Any]) -> str:
    shape = Shape(row["tokens"], row["concurrency"], row["stream"])
    return (
        f"{row['model']:<23}{shape.text:<37}{row['target']:<18}{row['requests_per_s']:>10.2f}"
        f"{row['of_direct']:>11.3f}{row['p50_ms']:>9.1f}{row['p95_ms']:>9.1f}{row['added_p50_ms']:>15.2f}{row['failed']:>8}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model, few requests, no LiteLLM")
    parser.add_argument(
        "--venv-dir",
        type=Path,
        default=Path.home() / ".cache" / "upturn-benchmarks" / "litellm",
        help="virtual environment for LiteLLM",
    )
    arguments = parser.parse_args()
    venv = None if arguments.quick else litellm_proxy.installed(arguments.venv_dir)
    why_not = "not in --quick" if venv is None else litellm_proxy.why_no_database(venv)
    rows = asyncio.run(measured(plans(arguments.quick), venv, why_not is None))
    peer = f"LiteLLM {litellm_proxy.version(venv)}" if venv is not None else "no LiteLLM"
    print(f"{machine()}; {peer}; medians of alternating rounds")
    report(rows)
    if why_not:
        print(f"LiteLLM with database logging was not measured: {why_not}")
    print(
        json.dumps(
            {
                "machine": machine(),
                "litellm": peer,
                "litellm_logging": None if why_not else "measured",
                "litellm_logging_why_not": why_not,
                "rows": rows,
            }
        )
    )


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
