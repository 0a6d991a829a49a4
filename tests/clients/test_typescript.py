"""The TypeScript client: its committed files are what its generators write, and it does what it promises."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import upturn
from server.engines.settings import EngineSettings
from tests.support.live import Live, script, serving, settings_for
from tests.support.programs import typescript

HERE = Path(__file__).parent / "typescript"
PRINTED = "http://127.0.0.1:8000"
BLOCKS = re.findall(r"```js\n(.*?)```", (typescript.CLIENT / "README.md").read_text(), flags=re.DOTALL)

pytestmark = [pytest.mark.clients, pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")]
with_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that answers yes."""
    home = tmp_path_factory.mktemp("typescript")
    engine = EngineSettings(kind="scripted", context_tokens=32_768)
    with serving(settings_for(home / "data", model=str(script(home / "script", "Yes.")), engine=engine)) as live:
        yield live


def node(*arguments: str | Path) -> str:
    """Run a program that must succeed; return what it prints."""
    done = subprocess.run(["node", *arguments], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_client_opens_rewards_steps_iterates_and_repeats_only_what_is_safe(server: Live) -> None:
    found = json.loads(node(HERE / "episodes.mjs", typescript.CLIENT / "upturn.js", server.url))
    assert found == {
        "rewarded": ["closed", 1, 0.75, 2, {"a": 1}],
        "thrown": "secret",
        "failed": ["closed", "the agent failed: Mishap"],
        "steps": [["Action: inventory", False], ["Action: look", True]],
        "pages": True,
        "champion": ["policy@0"],
        "runs": 0,
        "unknown": [True, 404, "not_found"],
        "step": [0, "connection_error"],
        "lost": [1, 1, "closed"],
        "away": [0, "connection_error"],
    }


@pytest.mark.parametrize("block", BLOCKS, ids=[str(number) for number in range(len(BLOCKS))])
def test_an_example_of_the_readme_runs_as_printed(server: Live, tmp_path: Path, block: str) -> None:
    package = tmp_path / "node_modules" / "upturn-client"
    package.parent.mkdir()
    package.symlink_to(typescript.CLIENT)
    program = tmp_path / "example.mjs"
    assert PRINTED in block
    program.write_text(block.replace(PRINTED, server.url))
    node(program)


def test_the_package_needs_nothing_and_has_the_version_of_the_others() -> None:
    package = json.loads((typescript.CLIENT / "package.json").read_text())
    assert package["version"] == upturn.__version__
    assert "dependencies" not in package
    assert all(re.fullmatch(r"[\d.]+", version) for version in package["devDependencies"].values())
    assert all((typescript.CLIENT / file).is_file() for file in package["files"])
    assert "import" not in re.sub(r"/\*.*?\*/|//.*", "", (typescript.CLIENT / "upturn.js").read_text(), flags=re.S)


@with_npm
def test_the_committed_files_are_what_the_generators_write(tmp_path: Path) -> None:
    made = typescript.make(tmp_path)
    different = [name for name, text in made.items() if (typescript.CLIENT / name).read_text() != text]
    assert different == [], "run: python -m tests.support.programs.typescript"


@with_npm
def test_the_types_accept_what_the_server_takes_and_refuse_the_rest(tmp_path: Path) -> None:
    for name in ("package.json", *typescript.MADE):
        shutil.copy(typescript.CLIENT / name, tmp_path)
    shutil.copy(HERE / "typed.ts", tmp_path)
    options = ["--noEmit", "--strict", "--target", "ES2022", "--module", "NodeNext", "--lib", "ES2022,DOM,DOM.Iterable"]
    node(typescript.modules() / "typescript" / "bin" / "tsc", *options, tmp_path / "typed.ts")
